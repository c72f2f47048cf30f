defmodule DSPex.Python.Call.EveryWorker do
  @moduledoc false

  # Calls an operation that is about all workers of a pool in each of them, and makes one result of theirs.
  #
  # A worker that ends meanwhile, or is being started, has no part in it. One that is there and does not answer has: what the others
  # say would be taken for all there is. So that is an error which names the worker, but for metrics, whose result names it: a
  # worker that hangs must not hide the counts of the others.

  alias DSPex.Python.Call.MetricsSum
  alias DSPex.Python.Cluster.Placement
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Pool.{OpenBatches, Routing}

  @typep result :: {:ok, term()} | {:error, Error.t()}

  # How many Python returns by default.
  @last_requests 20
  @running_calls 100
  @of_metrics [:metrics, :reset_metrics]
  @of_entries [:history, :running_calls]

  @doc """
  Calls an operation with `call`, which gets the arguments and the route to a worker; the result is that of all workers.
  """
  @spec call(Cluster.pool(), atom(), [term()], ([term()], Placement.t() | nil -> result())) ::
          result()
  def call(pool, :cancel, [request_id], call) do
    # A batch ends also if no worker has a call of it just now.
    batches = OpenBatches.cancel(pool, request_id)

    case of_workers(pool, :cancel, [request_id], call) do
      {:ok, calls} ->
        {:ok, max(calls, batches)}

      {:error, %Error{details: %{"cancelled" => calls} = details} = error} ->
        {:error, %{error | details: %{details | "cancelled" => max(calls, batches)}}}

      # No worker is there just now.
      {:error, %Error{kind: kind}} when batches > 0 and kind not in [:timeout, :overloaded] ->
        {:ok, batches}

      error ->
        error
    end
  end

  def call(pool, operation, args, call), do: of_workers(pool, operation, args, call)

  defp of_workers(pool, operation, args, call) do
    if Routing.every_worker?(operation, args) do
      args = of_each(operation, args)

      # Without a worker, the call says what is wrong with the pool.
      case Cluster.workers_and_silent(pool) do
        {[], []} ->
          with {:ok, value} <- call.(args, nil), do: counted(operation, [value], args, pool, [])

        {numbers, nodes} ->
          call_each(pool, operation, {numbers, nodes}, args, &call.(args, {:worker, &1}))
      end
    else
      call.(args, nil)
    end
  end

  defp of_each(operation, []) when operation in @of_metrics,
    do: [%{buckets: true}]

  defp of_each(_operation, args), do: args

  defp call_each(pool, operation, {numbers, nodes}, args, call) do
    results = in_parallel(numbers, call)

    answers = Enum.zip(numbers, results)
    values = for {number, {:ok, value}} <- answers, do: of_node(operation, value, number)

    silent =
      for({number, {:error, error}} <- answers, silent?(operation, error), do: {number, error}) ++
        for node <- nodes, do: {{node, nil}, Cluster.silent(node)}

    cond do
      # What the others have is not all.
      failed = Enum.find(results, &match?({:error, %Error{kind: :store}}, &1)) ->
        failed

      silent != [] and operation in @of_metrics and values != [] ->
        counted(operation, values, args, pool, silent)

      silent != [] and (nodes != [] or length(numbers) > 1) ->
        {:error, incomplete(operation, silent, values)}

      # A worker that ends meanwhile holds nothing any more.
      values == [] ->
        hd(results)

      true ->
        counted(operation, values, args, pool, [])
    end
  end

  defp counted(operation, values, args, pool, silent) do
    together = together(operation, values, args, pool)

    {:ok,
     if(operation in @of_metrics,
       do: Map.put(together, "unanswered", described(silent)),
       else: together
     )}
  end

  # A Python that is being started holds nothing, but calls may wait for it that are to be cancelled.
  defp silent?(operation, %Error{kind: :timeout, stage: "start"}), do: operation == :cancel
  defp silent?(_operation, %Error{kind: kind}), do: kind in [:timeout, :overloaded]

  defp incomplete(operation, [{worker, error} | more] = silent, values) do
    others = if more == [], do: "", else: " and #{length(more)} more"
    message = "#{named(worker)}#{others} did not answer: #{error.message}"
    details = Map.put(error.details, "unanswered", described(silent))

    if operation == :cancel do
      cancelled = Enum.sum(values)

      told =
        "#{message}; calls that run there may go on; the other workers have cancelled #{cancelled}"

      %{error | message: told, details: Map.put(details, "cancelled", cancelled)}
    else
      %{error | message: message, details: details}
    end
  end

  defp named({node, nil}), do: "node #{node}"
  defp named({node, number}), do: "worker #{number} on #{node}"
  defp named(number), do: "worker #{number}"

  defp described(silent) do
    for {worker, error} <- silent do
      about = %{"error" => %{"kind" => to_string(error.kind), "message" => error.message}}

      case worker do
        {node, number} -> Map.merge(about, %{"worker" => number, "node" => to_string(node)})
        number -> Map.put(about, "worker", number)
      end
    end
  end

  defp in_parallel([], _call), do: []
  defp in_parallel([number], call), do: [call.(number)]

  defp in_parallel(numbers, call) do
    numbers
    |> Task.async_stream(call, timeout: :infinity, max_concurrency: length(numbers))
    |> Enum.map(fn {:ok, result} -> result end)
  end

  defp together(:cancel, counts, _args, _pool), do: Enum.sum(counts)

  # By time, and no more than were asked for.
  defp together(:history, lists, args, _pool) do
    sorted = lists |> Enum.concat() |> Enum.sort_by(& &1["at_ms"])
    Enum.take(sorted, -count(args, @last_requests))
  end

  defp together(:running_calls, lists, args, _pool) do
    # Not by their ages, which the workers have told at different moments.
    sorted = lists |> Enum.concat() |> Enum.sort_by(& &1["at_ms"])
    Enum.take(sorted, count(args, @running_calls))
  end

  defp together(:list_sessions, lists, args, {:cluster, name}) do
    for session <- together(:list_sessions, lists, args, name) do
      {nodes, session} = Map.pop(session, "nodes", [])
      home = to_string(Cluster.home(name, session["id"]))
      # Without a store, a session stays on the node where it was made.
      Map.put(session, "node", if(home in nodes, do: home, else: List.first(nodes)))
    end
  end

  defp together(operation, lists, _args, _pool)
       when operation in [:list_sessions, :list_programs],
       do: lists |> Enum.concat() |> Enum.group_by(& &1["id"]) |> in_order(lists)

  defp together(operation, reports, _args, pool) when operation in @of_metrics,
    do:
      reports
      |> MetricsSum.of()
      |> Map.put("pool", Cluster.report(pool))
      |> by_node(reports, pool)

  defp by_node(sum, reports, {:cluster, _name}) do
    nodes = Enum.group_by(reports, & &1["node"])

    Map.put(
      sum,
      "nodes",
      Map.new(nodes, fn {node, reports} -> {node, MetricsSum.of(reports)} end)
    )
  end

  defp by_node(sum, _reports, _pool), do: sum

  # Says of each session which node has it, of a report from which node it is, and of a call or a request which worker has it.
  defp of_node(:list_sessions, sessions, {node, _number}),
    do: for(session <- sessions, do: Map.put(session, "nodes", [to_string(node)]))

  defp of_node(operation, report, {node, _number}) when operation in @of_metrics,
    do: Map.put(report, "node", to_string(node))

  defp of_node(operation, entries, {node, number}) when operation in @of_entries,
    do:
      for(
        entry <- entries,
        do: Map.merge(entry, %{"worker" => number, "node" => to_string(node)})
      )

  defp of_node(operation, entries, number) when operation in @of_entries,
    do: for(entry <- entries, do: Map.put(entry, "worker", number))

  defp of_node(_operation, value, _worker), do: value

  # Workers that have a store in common all know the same sessions, each with its own uses of them.
  defp in_order(descriptions, lists) do
    for id <- lists |> Enum.concat() |> Enum.map(& &1["id"]) |> Enum.uniq() do
      Enum.reduce(descriptions[id], fn one, other ->
        Map.merge(one, other, fn
          "calls", calls, others -> calls + others
          "idle_ms", idle_ms, other_ms -> min(idle_ms, other_ms)
          "nodes", nodes, others -> Enum.uniq(others ++ nodes)
          _key, _value, first -> first
        end)
      end)
    end
  end

  defp count([%{n: count}], _default) when is_integer(count), do: count
  defp count([%{"n" => count}], _default) when is_integer(count), do: count
  defp count(_args, default), do: default
end
