defmodule DSPex.Python.Call.EveryWorker do
  @moduledoc false

  # Calls an operation that is about all workers of a pool in each of them, and makes one result of theirs.

  alias DSPex.Python.Call.MetricsSum
  alias DSPex.Python.Cluster.Placement
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Pool.{OpenBatches, Routing}

  @typep result :: {:ok, term()} | {:error, Error.t()}

  # How many Python returns by default.
  @last_requests 20
  @running_calls 100

  @doc """
  Calls an operation with `call`, which gets the arguments and the route to a worker; the result is that of all workers.
  """
  @spec call(Cluster.pool(), atom(), [term()], ([term()], Placement.t() | nil -> result())) ::
          result()
  def call(pool, :cancel, [request_id], call) do
    # A batch ends also if no worker has a call of it just now.
    batches = OpenBatches.cancel(pool, request_id)

    case of_workers(pool, :cancel, [request_id], call) do
      {:ok, calls} -> {:ok, max(calls, batches)}
      {:error, _error} when batches > 0 -> {:ok, batches}
      error -> error
    end
  end

  def call(pool, operation, args, call), do: of_workers(pool, operation, args, call)

  defp of_workers(pool, operation, args, call) do
    if Routing.every_worker?(operation, args) do
      args = of_each(operation, args)

      # Without a worker, the call says what is wrong with the pool.
      case Cluster.workers(pool) do
        [] ->
          with {:ok, value} <- call.(args, nil),
               do: {:ok, together(operation, [value], args, pool)}

        numbers ->
          call_each(pool, operation, numbers, args, &call.(args, {:worker, &1}))
      end
    else
      call.(args, nil)
    end
  end

  defp of_each(operation, []) when operation in [:metrics, :reset_metrics],
    do: [%{buckets: true}]

  defp of_each(_operation, args), do: args

  defp call_each(pool, operation, numbers, args, call) do
    results = in_parallel(numbers, call)

    values =
      for {number, {:ok, value}} <- Enum.zip(numbers, results),
          do: of_node(operation, value, number)

    cond do
      # What the others have is not all.
      failed = Enum.find(results, &match?({:error, %Error{kind: :store}}, &1)) -> failed
      # A worker that ends meanwhile holds nothing any more.
      values == [] -> hd(results)
      true -> {:ok, together(operation, values, args, pool)}
    end
  end

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

  defp together(operation, reports, _args, pool) when operation in [:metrics, :reset_metrics],
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

  # Says of each session which node has it, of a report from which node it is, and of a call which worker runs it.
  defp of_node(:list_sessions, sessions, {node, _number}),
    do: for(session <- sessions, do: Map.put(session, "nodes", [to_string(node)]))

  defp of_node(operation, report, {node, _number}) when operation in [:metrics, :reset_metrics],
    do: Map.put(report, "node", to_string(node))

  defp of_node(:running_calls, calls, {node, number}),
    do: for(call <- calls, do: Map.merge(call, %{"worker" => number, "node" => to_string(node)}))

  defp of_node(:running_calls, calls, number),
    do: for(call <- calls, do: Map.put(call, "worker", number))

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
