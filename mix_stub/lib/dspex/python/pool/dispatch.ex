defmodule DSPex.Python.Pool.Dispatch do
  @moduledoc false

  # Makes one call of a pool: finds the worker, waits until it has room or is started again, and makes the call once more if
  # its worker has died and nobody has seen anything of it.

  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Invocation
  alias DSPex.Python.Pool.{Messages, Queue, Routing, Settings, Stopping}
  alias DSPex.Python.Port.{Connection, Names, PoolTally, Quarantine}
  alias DSPex.Python.Wire.Timeout
  alias DSPex.Telemetry

  # How long a caller sleeps before it looks again for an owner that is being restarted. A restart of the owner (not of
  # Python) takes well under a millisecond.
  @restart_poll_ms 2

  @no_options %{route: nil, named: nil, on_worker: nil, retry: nil, part?: false}

  @typedoc """
  `:route`: the worker that gets the call; without it, as the operation and its arguments say, or those at `:named`, if the
  call itself is text. `:on_worker` is called with the number of the worker just before it gets the call. `:retry`: whether a
  call whose worker has died is made again; without it, as the pool says. `:part?`: whether it is part of a batch that has begun.
  """
  @type option ::
          {:route, Routing.t() | nil}
          | {:named, {atom(), [term()]}}
          | {:on_worker, (pos_integer() -> term()) | nil}
          | {:retry, :safe | false | nil}
          | {:part?, boolean()}

  @doc """
  Calls an operation in a worker of the pool, see `DSPex.Python.Pool.call/5`.
  """
  @spec call(atom(), atom(), [term()], timeout(), [option()]) ::
          {:ok, term()} | {:error, Error.t()}
  def call(pool, operation, args, timeout, options \\ []) do
    options = Map.merge(@no_options, Map.new(options))
    {named, named_args} = options.named || {operation, args}
    route = options.route || Routing.route(named, named_args)

    call_until(%{
      pool: pool,
      operation: operation,
      args: args,
      timeout: timeout,
      deadline: Timeout.deadline(timeout),
      route: route,
      # A call about one worker is about what it does.
      whole?: not (options.part? or match?({:worker, _number}, route)),
      work?: Routing.work?(named),
      caller: fn -> caller(named_args) end,
      on_worker: options.on_worker,
      retry: options.retry
    })
  end

  defp call_until(call) do
    with %Connection{} = connection <- Routing.connection(call.pool, call.route),
         :ok <- Stopping.takes(call.pool, connection, call.whole?),
         {:ok, connection, call, begun} <- admitted(connection, call),
         began_at = System.monotonic_time(),
         answer when answer != :restarting <- call_at(connection, call, begun) do
      answered(answer, connection, call, began_at)
    else
      {:error, _not_taken} = error -> error
      nil -> wait_for_restart(call)
      # The pool has taken it.
      :restarting -> wait_for_restart(%{call | whole?: false})
    end
  end

  defp call_at(connection, call, begun) do
    if call.on_worker, do: call.on_worker.(connection.worker)
    if begun, do: begun.()

    answer = Connection.call(connection, call.operation, call.args, call.timeout, call.deadline)

    if call.work?, do: Queue.ended(call.pool, connection)

    answer
  end

  # Waits for a worker that has room, if the call is work.
  defp admitted(connection, %{pool: pool} = call) do
    if call.work? and Queue.full?(connection) and not goes_first?(connection, pool) do
      case Queue.await(pool, connection, call.route, call.caller.(), call.timeout, call.deadline) do
        {:ok, slot, begun} ->
          case Connection.of(pool, slot) do
            nil -> tap(:restarting, fn _ -> begun.() end)
            connection -> {:ok, connection, within_what_is_left(call), begun}
          end

        {:error, %Error{kind: :overloaded}} = error ->
          with {_supervisor, %{tally: tally}} <- Names.lookup(:pool, pool),
               do: PoolTally.add(tally, :overloaded)

          Telemetry.pool(:overloaded, %{pool: pool, operation: call.operation})

          error

        other ->
          other
      end
    else
      {:ok, connection, call, nil}
    end
  end

  # A call of a function that Python has called, such as a tool. The call that it works for keeps its place meanwhile, so
  # functions that waited for places could wait for each other.
  defp goes_first?(connection, pool),
    do: Queue.room_for_nested?(connection) and Invocation.on_behalf?(pool)

  # The process for which the work is done, as Python's own queues know it.
  defp caller(args) do
    case List.last(args) do
      %{caller: caller} when caller != nil -> caller
      %{session_id: session_id} when session_id != nil -> session_id
      _none -> self()
    end
  end

  # Python has what is left of the caller's time, not the time that the call has waited.
  defp within_what_is_left(%{args: args, deadline: deadline} = call) when is_integer(deadline) do
    case List.last(args) do
      %{timeout: _ms} = options ->
        options = %{options | timeout: max(Timeout.remaining(deadline, 0), 1)}
        %{call | args: List.replace_at(args, -1, options)}

      _no_timeout ->
        call
    end
  end

  defp within_what_is_left(call), do: call

  defp answered({:died, death, error}, connection, call, began_at) do
    named = {call.pool, call.operation, call.args}
    error = Quarantine.judge(connection.quarantine, death, named, error, began_at)

    if retry_of(call) == :safe and error.retryable and error.details["called"] == false do
      with {_supervisor, %{tally: tally}} <- Names.lookup(:pool, call.pool),
           do: PoolTally.add(tally, :retried)

      # Once: the next time the error is the answer.
      call_until(%{call | retry: false, whole?: false})
    else
      {:error, error}
    end
  end

  defp answered({:ok, _answer} = ok, connection, call, _began_at) do
    Quarantine.answered(connection.quarantine, call.operation, call.args)
    ok
  end

  defp answered(error, _connection, _call, _began_at), do: error

  defp retry_of(%{retry: nil, pool: pool}), do: Settings.of(pool).retry
  defp retry_of(%{retry: retry}), do: retry

  defp wait_for_restart(%{pool: pool} = call) do
    cond do
      Names.lookup(:pool, pool) == nil ->
        {:error, not_found(call)}

      # What the call is about has ended with its worker.
      match?({:worker, _number}, call.route) ->
        {:error,
         Error.new(:worker_died, "the python that worked on it has ended", %{"sent" => false})}

      Timeout.over?(call.deadline) ->
        {:error, Error.timeout(call.timeout, "start", "pool #{inspect(pool)} is being restarted")}

      true ->
        Process.sleep(@restart_poll_ms)
        call_until(call)
    end
  end

  defp not_found(%{pool: pool} = call) do
    if Routing.every_worker?(call.operation, call.args),
      do: Messages.not_running(pool),
      else: Messages.not_found(pool)
  end
end
