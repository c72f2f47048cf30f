defmodule DSPex.Python.Port.Owner do
  @moduledoc false

  # Owns one port: passes answers on to their callers, and starts Python again when it ends. Callers encode, write and
  # decode their calls themselves (DSPex.Python.Port.Connection), so that many callers use many cores. Functions that
  # Python calls run in processes of their own (DSPex.Python.Callbacks).
  #
  # The owner never blocks: what the port does not take at once stays in the send queue, and callers keep their own
  # deadlines. So a caller has its answer in time even when Python does not read or the machine is busy.
  #
  # Phases: :starting (DSPex.Python.Port.Startup; calls wait in the send queue) -> :ready, or {:down, error} until the next
  # attempt. When Python ends in the phase :ready, this process ends, and the supervisor starts both again. A Python that
  # asks for it is replaced by another one with an owner of its own (DSPex.Python.Port.Recycling).

  use GenServer

  require Logger

  alias DSPex.Python.{Callbacks, Error, ModelFunction}
  alias DSPex.Python.Functions.{Callback, ModelRegistrations}

  alias DSPex.Python.Port.{
    CallerMonitors,
    Connection,
    Heartbeat,
    Interpreter,
    Log,
    Names,
    PendingCall,
    PendingCalls,
    PoolOptions,
    Recycling,
    SendQueue,
    Startup
  }

  alias DSPex.Python.Wire.Protocol

  # After an answer of this size the owner collects its garbage; otherwise it would keep the answer until the next one.
  @large_bytes 1024 * 1024
  # The id of no call; Python's runtime answers it as soon as it has read it.
  @heartbeat_id 0

  @enforce_keys [:options, :pool_call, :id, :startup]
  defstruct [
    :options,
    :pool_call,
    :id,
    :startup,
    :recycling,
    :port,
    :heartbeat,
    :model_state,
    :pending_calls,
    phase: :starting,
    send_queue: %SendQueue{},
    caller_monitors: %CallerMonitors{},
    model_registrations: %ModelRegistrations{},
    predecessors: %{}
  ]

  @doc """
  Returns the specification of the child `id` of a pool's supervisor.

  `pool_call` calls an operation of the pool, for model functions.
  """
  @spec child_spec(PoolOptions.t(), ModelFunction.pool_call(), term()) :: Supervisor.child_spec()
  def child_spec(%PoolOptions{} = options, pool_call, id \\ __MODULE__),
    do: %{id: id, start: {__MODULE__, :start_link, [options, pool_call, id]}}

  @doc false
  # While another owner has the pool's port, this one becomes its successor.
  def start_link(%PoolOptions{} = options, pool_call, id) do
    # An owner that has just ended may still be registered.
    with {predecessor, _value} <- Names.lookup(:port, options.name),
         true <- Process.alive?(predecessor) do
      GenServer.start_link(__MODULE__, {options, pool_call, id, {:standby, predecessor}})
    else
      _nobody ->
        GenServer.start_link(__MODULE__, {options, pool_call, id, nil},
          name: Names.via(:port, options.name)
        )
    end
  end

  @doc """
  Tells the owner that the pool or its session `session_id` has a model, and which functions are registered for it.

  The functions of the previous model can be called no more.
  """
  @spec model_configured(pid(), String.t() | nil, registered) :: :ok
        when registered: {Callbacks.registration() | nil, [Callback.t()]}
  def model_configured(owner, session_id, registered) do
    # In a function, so that no report prints what the functions have closed over.
    GenServer.call(owner, {:model_configured, session_id, fn -> registered end})
  catch
    # Python has just ended. The next one configures the model of the pool anew, and has no sessions.
    :exit, _reason -> :ok
  end

  @impl true
  def init({options, pool_call, id, recycling}) do
    # When the port breaks, this process has to answer all callers before it ends.
    Process.flag(:trap_exit, true)
    # Makes the atoms of answers exist, see Protocol.decode_answer/1.
    Protocol.known_atoms()
    pending_calls = PendingCalls.new()

    state = %__MODULE__{
      options: options,
      pool_call: pool_call,
      id: id,
      startup: Startup.new(options, pool_call, pending_calls),
      recycling: recycling,
      model_state: if(options.model.() == nil, do: :none, else: :configured),
      pending_calls: pending_calls
    }

    {:ok, published(state), {:continue, :start_python}}
  end

  @impl true
  def handle_continue(:start_python, state), do: {:noreply, start_python(state)}

  @impl true
  def handle_call({:model_configured, session_id, configured}, _from, state) do
    {registration, callbacks} = configured.()
    state = keep_registered(state, session_id, registration, callbacks)

    if session_id == nil,
      do: {:reply, :ok, published(%{state | model_state: :configured})},
      else: {:reply, :ok, state}
  end

  def handle_call(:drain, _successor, state),
    do: {:reply, connection(state), %{state | recycling: Recycling.drain(state.options)}}

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    state = handle_frame(Protocol.peek(frame), frame, state)
    if byte_size(frame) > @large_bytes, do: {:noreply, state, :hibernate}, else: {:noreply, state}
  end

  def handle_info({:python_answer, port, frame}, %{port: port} = state),
    do: {:noreply, send_frame(frame, state)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state),
    do: python_ended(status, state)

  def handle_info({:EXIT, port, reason}, %{port: port} = state), do: python_ended(reason, state)

  # A call that its caller could not write to the port.
  def handle_info({:send_call, id, _request}, %{phase: {:down, error}} = state),
    do: {:noreply, answer(id, {:error, error}, state)}

  def handle_info({:send_call, id, request}, state),
    do: {:noreply, send_entry({:call, id, request}, state)}

  def handle_info({:send_frame, frame}, state), do: {:noreply, send_frame(frame, state)}

  def handle_info(:flush, state),
    do: {:noreply, flush(%{state | send_queue: SendQueue.retried(state.send_queue)})}

  def handle_info(:monitor_callers, state) do
    monitors = CallerMonitors.look(state.caller_monitors, state.pending_calls)
    {:noreply, %{state | caller_monitors: monitors}}
  end

  def handle_info(
        {:DOWN, monitor, :process, _registry, _reason},
        %{model_registrations: %{monitor: monitor}} = state
      ),
      do: {:noreply, register_again(state)}

  def handle_info(:register_functions, state), do: {:noreply, register_again(state)}

  def handle_info({:DOWN, monitor, :process, _owner, _reason}, %{predecessors: known} = state)
      when is_map_key(known, monitor),
      do: {:noreply, published(%{state | predecessors: Map.delete(known, monitor)})}

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state) do
    {id, monitors} = CallerMonitors.pop(state.caller_monitors, monitor)
    state = %{state | caller_monitors: monitors}

    case PendingCalls.take(state.pending_calls, id || 0) do
      %PendingCall{sent?: true} -> {:noreply, send_frame(Protocol.cancel_frame(id), state)}
      # Python has not seen a call that was not sent, and never will.
      _unsent_or_answered -> {:noreply, state}
    end
  end

  def handle_info(:heartbeat, state), do: heartbeat(Heartbeat.tick(state.heartbeat), state)

  def handle_info(:start_again, %{recycling: {:standby, predecessor}} = state) do
    # When the predecessor has ended, the supervisor has started it again, and there is nothing left to replace.
    if Process.alive?(predecessor),
      do: {:noreply, start_python(state)},
      else: {:noreply, tap(state, &leave/1)}
  end

  def handle_info(:start_again, state), do: {:noreply, start_python(state)}

  def handle_info(:start_timeout, %{phase: :starting} = state),
    do: {:noreply, started(Startup.timed_out(state.startup), state)}

  def handle_info({probe, %Error{} = error}, %{startup: %{probe: %Task{ref: probe}}} = state),
    do: {:noreply, started(Startup.diagnosed(state.startup, error), state)}

  def handle_info(:check_drained, state) do
    if Recycling.check(state.recycling, state.pending_calls) == :leave, do: leave(state)
    {:noreply, state}
  end

  # A late message: of a port that was given up, of a probe, of a timer that fired while it was cancelled, or an answer
  # for a Python that has ended.
  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    error =
      case reason do
        {:shutdown, {:python_exited, status}} ->
          "python #{Interpreter.ending(status)} while the call was being made; it is started again"

        _stopped when is_tuple(state.recycling) ->
          "python was replaced while the call was being made; it was given #{state.options.drain_timeout} ms to end"

        _stopped ->
          "pool #{inspect(state.options.name)} was stopped while the call was being made"
      end

    if published?(state), do: Connection.withdraw(state.options.name)
    # From now on the port refuses calls, so that no call reaches a Python that is given up.
    Interpreter.close(state.port)
    answer_all(state, Error.new(:port_closed, error))
  end

  # Crash reports and :sys.get_status/1 must not show requests, which may hold the key of a model; and of hundreds of
  # calls their number is enough.
  # Called by OTP 25 and newer. Only newer releases of Elixir than 1.14 know it as a callback.
  @doc false
  @impl {:format_status, 1} in GenServer.behaviour_info(:callbacks)
  def format_status(status) do
    Map.new(status, fn
      {:message, {:send_call, id, _request}} -> {:message, {:send_call, id, :request}}
      {:message, {:python_answer, port, _frame}} -> {:message, {:python_answer, port, :frame}}
      {:message, {port, {:data, frame}}} -> {:message, {port, {:data, byte_size(frame)}}}
      {:state, %__MODULE__{} = state} -> {:state, counted(state)}
      {:log, _events} -> {:log, []}
      other -> other
    end)
  end

  defp counted(state) do
    pending = PendingCalls.count(state.pending_calls)
    %{state | send_queue: SendQueue.count(state.send_queue), pending_calls: pending}
  end

  # Starting ---------------------------------------------------------------------------------------------------------

  defp start_python(state),
    do: started(Startup.begin(state.startup), %{state | phase: :starting})

  defp started({:wait, startup}, state), do: %{state | startup: startup, port: startup.port}

  defp started({:register, startup, registration, callbacks}, state),
    do: keep_registered(%{state | startup: startup}, nil, registration, callbacks)

  defp started({:ready, startup, model}, state) do
    heartbeat = Heartbeat.start(state.options.heartbeat)
    state = %{state | startup: startup, phase: :ready, heartbeat: heartbeat}

    case model do
      :ok -> state
      {:error, error} -> %{state | model_state: {:failed, error}}
    end
    |> taken_over()
    |> published()
    |> flush()
  end

  defp started({:failed, startup, error}, state) do
    state = answer_all(state, error)
    send_queue = SendQueue.clear(state.send_queue)
    %{state | startup: startup, phase: {:down, error}, port: nil, send_queue: send_queue}
  end

  defp taken_over(%{recycling: {:standby, predecessor}} = state) do
    case Recycling.take_over(predecessor, state.options.name) do
      {:ok, connection} -> %{state | recycling: nil, predecessors: monitored(connection)}
      :gone -> tap(state, &leave/1)
    end
  end

  defp taken_over(state), do: state

  # The predecessor may have predecessors of its own that have not left yet.
  defp monitored(connection) do
    for connection <- [%{connection | predecessors: []} | connection.predecessors],
        into: %{},
        do: {Process.monitor(connection.owner), connection}
  end

  defp leave(state), do: Recycling.leave(state.options.name, state.id)

  # The end of Python ------------------------------------------------------------------------------------------------

  defp python_ended(status, %{recycling: {:draining, _ends_at}} = state) do
    leave(state)
    message = "python #{Interpreter.ending(status)} while it was being replaced"
    {:noreply, answer_all(%{state | port: nil}, Error.new(:port_closed, message))}
  end

  defp python_ended(status, %{phase: :ready} = state) do
    Logger.error(
      "python of pool #{inspect(state.options.name)} #{Interpreter.ending(status)}; it is started again, " <>
        "calls in flight are answered with an error: #{PendingCalls.count(state.pending_calls)}"
    )

    # Not an error of this process, so there is no crash report.
    {:stop, {:shutdown, {:python_exited, status}}, %{state | port: nil}}
  end

  defp python_ended(status, %{phase: :starting} = state),
    do: {:noreply, started(Startup.python_ended(state.startup, status), state)}

  defp python_ended(_status, state), do: {:noreply, %{state | port: nil}}

  defp heartbeat({:ask, heartbeat}, state) do
    # A busy port means that Python does not read. The question counts as unanswered then too.
    ping = Protocol.frame(@heartbeat_id, Protocol.encode_request(:ping, []))
    Connection.write_frame(state.port, ping)
    {:noreply, %{state | heartbeat: heartbeat}}
  end

  defp heartbeat({:silent, ms}, state) do
    Interpreter.kill(state.port)
    python_ended({:silent, ms}, state)
  end

  # Sending ----------------------------------------------------------------------------------------------------------

  defp send_frame(frame, state), do: send_entry({:frame, frame}, state)

  defp send_entry(entry, state),
    do: flush(%{state | send_queue: SendQueue.add(state.send_queue, entry)})

  defp flush(%{phase: :ready} = state) do
    send_queue = SendQueue.flush(state.send_queue, state.port, state.pending_calls)
    %{state | send_queue: send_queue}
  end

  defp flush(state), do: state

  # Receiving --------------------------------------------------------------------------------------------------------

  defp handle_frame({:answer, @heartbeat_id}, _frame, state),
    do: %{state | heartbeat: Heartbeat.answered(state.heartbeat)}

  defp handle_frame({:answer, id}, frame, state) do
    case PendingCalls.take(state.pending_calls, id) do
      # The answer is late: the caller had a timeout, or has ended.
      nil ->
        state

      %PendingCall{tag: {:startup, operation}} ->
        state.startup
        |> Startup.answered(operation, Protocol.decode_answer(frame))
        |> started(state)

      call ->
        Connection.answer(call, {:frame, frame})
        forget(state, id)
    end
  end

  defp handle_frame({:message, "L"}, frame, state) do
    Log.take(state.options.name, frame)
    state
  end

  # An event of a running call (DSPex.Python.Call.EventStream). Events are small, and their number is limited by the
  # credit that their reader has given.
  defp handle_frame({:message, "M"}, frame, state) do
    case Protocol.decode_message(frame) do
      {:ok, pid, message} -> tap(state, fn _state -> send(pid, message) end)
      :error -> handle_frame(:malformed, frame, state)
    end
  end

  defp handle_frame({:message, "R"}, frame, %{recycling: nil} = state) do
    %{options: options, pool_call: pool_call} = state
    successor = child_spec(options, pool_call, {__MODULE__, make_ref()})
    %{state | recycling: Recycling.begin(frame, options.name, successor)}
  end

  # It has a successor already, or is about to leave.
  defp handle_frame({:message, "R"}, _frame, state), do: state

  defp handle_frame({:call, id}, frame, state) do
    tap(state, fn state -> Callbacks.answer(frame, id, state.port) end)
  end

  defp handle_frame({:message, name}, _frame, state) do
    Logger.warning(
      "pool #{inspect(state.options.name)} dropped a message #{inspect(name)} of python"
    )

    state
  end

  defp handle_frame(:malformed, frame, state) do
    Logger.warning(
      "pool #{inspect(state.options.name)} dropped #{byte_size(frame)} bytes that are no message"
    )

    state
  end

  defp answer(id, answer, state) do
    with %PendingCall{} = call <- PendingCalls.take(state.pending_calls, id),
         do: Connection.answer(call, answer)

    forget(state, id)
  end

  # Most callers are not monitored, and copying the state in vain costs more than this check.
  defp forget(state, id) do
    if CallerMonitors.monitored?(state.caller_monitors, id),
      do: %{state | caller_monitors: CallerMonitors.forget(state.caller_monitors, id)},
      else: state
  end

  defp answer_all(state, error) do
    state.pending_calls
    |> PendingCalls.take_all()
    |> Enum.each(&Connection.answer(&1, {:error, error}))

    state
  end

  # Model functions --------------------------------------------------------------------------------------------------

  defp keep_registered(state, session_id, registration, callbacks) do
    registrations = state.model_registrations
    registrations = ModelRegistrations.put(registrations, session_id, registration, callbacks)
    %{state | model_registrations: registrations}
  end

  defp register_again(state) do
    registrations = ModelRegistrations.register_again(state.model_registrations)
    %{state | model_registrations: registrations}
  end

  # What callers look up ---------------------------------------------------------------------------------------------

  # Publishes the connection, and the state of the model.
  defp published(state) do
    if published?(state) do
      Connection.publish(state.options.name, connection(state))
      Names.set_value(:port, state.options.name, state.model_state)
    end

    state
  end

  # Callers do not find a successor yet that is on standby, and no more an owner that is draining.
  defp published?(state), do: not is_tuple(state.recycling)

  defp connection(state) do
    %Connection{
      owner: self(),
      port: if(state.phase == :ready, do: state.port),
      pending_calls: state.pending_calls,
      predecessors: Map.values(state.predecessors)
    }
  end
end
