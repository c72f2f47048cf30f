defmodule DSPex.Python.Cluster.Served do
  @moduledoc false

  # Does what another node asks for, in two processes: the keeper, which the other node has spawned and which sees the end of
  # the process that asks, and the worker, which makes the call as any local process does. When the asking process ends, or its
  # node cannot be reached any more, the worker is killed, and with it its call, as a local call ends with its process.

  alias DSPex.Python.Cluster.{Exchange, Loads, Proxies}
  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Functions.{CallbackRegistry, Invocation}
  alias DSPex.Python.Pool.{OpenBatches, PoolModel}

  # How often a function is told to end until it has ended.
  @give_up_ms 50

  @doc """
  Serves one request (DSPex.Python.Cluster.Exchange). Called in a process of its own.
  """
  @spec serve(term()) :: :ok
  def serve(message) do
    case Exchange.read(message) do
      {:ok, {from, reply_to, kind, request}} -> keep(from, reply_to, kind, request)
      {:refused, versions} -> exit({:shutdown, {:dspex_refused, versions}})
    end
  end

  defp keep(from, reply_to, kind, request) do
    asking = Process.monitor(from)
    keeper = self()
    ref = make_ref()

    {worker, working} =
      spawn_monitor(fn ->
        send(keeper, {ref, :result, perform(kind, request, from, keeper, ref)})
      end)

    keep_on(%{
      asking: asking,
      reply_to: reply_to,
      kind: kind,
      pool: request[:pool],
      ref: ref,
      worker: worker,
      working: working
    })
  end

  defp keep_on(%{asking: asking, reply_to: reply_to, ref: ref, working: working} = state) do
    receive do
      {:dspex_stream, _ref, _event} = event ->
        reply(state, {:event, event})
        keep_on(state)

      {^ref, :worker, number} ->
        reply(state, {:worker, number})
        keep_on(state)

      {^ref, :result, result} ->
        reply(state, {:answer, Exchange.from_result(result), Loads.own(state.pool)})

      {:DOWN, ^working, :process, _pid, reason} ->
        error = Error.new(:internal, "the call has ended: #{Exception.format_exit(reason)}")
        reply(state, {:answer, Exchange.from_result({:error, error}), nil})

      {:DOWN, ^asking, :process, _pid, _reason} ->
        drop(state)

      {:dspex_cancel, ^reply_to} ->
        drop(state)
    end

    :ok
  end

  defp reply(%{reply_to: reply_to}, reply), do: send(reply_to, {reply_to, reply})

  # The function runs in a process of its own, which the registry can end.
  defp drop(%{kind: :function, worker: worker, working: working} = state) do
    CallbackRegistry.give_up(worker)

    receive do
      {:DOWN, ^working, :process, _pid, _reason} -> :ok
    after
      @give_up_ms -> drop(state)
    end
  end

  defp drop(%{worker: worker}), do: Process.exit(worker, :kill)

  defp perform(:call, %{pool: pool} = request, from, keeper, ref) do
    options = [
      route: request.route,
      retry: request.retry,
      named: request.named,
      on_worker: if(request.tells_worker?, do: &send(keeper, {ref, :worker, &1}))
    ]

    Proxies.during(request.functions, node(from), fn ->
      args = events_to(keeper, request.args)
      end_batches(pool, request.named || {request.operation, args})
      Pool.call(pool, request.operation, args, request.timeout, options)
    end)
  end

  defp perform(:about, %{pool: pool, question: question}, _from, _keeper, _ref),
    do: about(question, pool)

  defp perform(:configure, request, from, _keeper, _ref),
    do: Proxies.configure(request, node(from))

  defp perform(:function, request, _from, _keeper, _ref),
    do: Invocation.run(request.id, request.arguments, & &1, request.log)

  # Those that this node has begun, in pools of any nodes.
  defp end_batches(pool, {:cancel, [request_id | _none]}),
    do: OpenBatches.cancel({:cluster, pool}, request_id)

  defp end_batches(_pool, _other), do: 0

  # The events of a stream go through the keeper, so that they come before the answer.
  defp events_to(keeper, [pid, ref | rest]) when is_pid(pid) and is_reference(ref),
    do: [keeper, ref | rest]

  defp events_to(_keeper, args), do: args

  defp about(:load, pool), do: {:ok, Loads.own(pool)}
  defp about(:workers, pool), do: {:ok, Pool.workers(pool)}
  defp about(:report, pool), do: {:ok, Pool.report(pool)}
  defp about(:model_state, pool), do: PoolModel.state(pool)
  defp about({:forget_model, session_id}, pool), do: {:ok, PoolModel.forget(pool, session_id)}

  defp about({:registered?, ids}, _pool), do: {:ok, CallbackRegistry.registered?(ids)}

  defp about(other, _pool),
    do: {:error, Error.new(:input, "unknown question #{inspect(other)} about a pool")}
end

defmodule :dspex_cluster do
  @moduledoc false

  # The function that other nodes call. Its name is part of what nodes exchange, and outlives the names of modules.

  @doc """
  Serves one request of another node.
  """
  @spec serve(term()) :: :ok
  defdelegate serve(message), to: DSPex.Python.Cluster.Served
end
