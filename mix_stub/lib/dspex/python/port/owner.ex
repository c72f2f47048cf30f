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
  # attempt. When Python ends in the phase :ready, this process ends, and the supervisor starts both again. Which calls come
  # here, and which other owner replaces this one, is decided by its role (DSPex.Python.Port.WorkerRole).

  use GenServer

  require Logger

  alias DSPex.Python.{Callbacks, Error, ModelFunction}
  alias DSPex.Python.Functions.ModelRegistrations

  alias DSPex.Python.Port.{
    AskedNotes,
    CallerMonitors,
    Connection,
    Heartbeat,
    Interpreter,
    LastAnswers,
    Log,
    Names,
    PendingCall,
    PendingCalls,
    PoolOptions,
    PoolTally,
    ProcessState,
    Recycling,
    SendQueue,
    Startup,
    WorkerModel,
    WorkerRole
  }

  alias DSPex.Python.Wire.Protocol
  alias DSPex.Telemetry

  # After an answer of this size the owner collects its garbage; otherwise it would keep the answer until the next one.
  @large_bytes 1024 * 1024
  # The id of no call; Python's runtime answers it as soon as it has read it.
  @heartbeat_id 0
  # A spare starts this long after its owner, and only when the Pythons that take calls are ready: most often another one has
  # just died, and the start would take a core from those who have been its callers.
  @spare_wait_ms 200

  @enforce_keys [:options, :pool_call, :role, :startup]
  defstruct [
    :options,
    :pool_call,
    :role,
    :startup,
    :port,
    :heartbeat,
    :model,
    :pending_calls,
    :awaiting,
    :pool,
    :began_at,
    phase: :starting,
    send_queue: %SendQueue{},
    caller_monitors: %CallerMonitors{}
  ]

  @doc """
  Returns the specification of the child `id` of a pool's workers.

  `pool_call` calls an operation of the pool, for model functions. `predecessor` is the owner that it replaces.
  """
  @spec child_spec(PoolOptions.t(), ModelFunction.pool_call(), term(), pid() | nil) ::
          Supervisor.child_spec()
  def child_spec(%PoolOptions{} = options, pool_call, id \\ {__MODULE__, 1}, predecessor \\ nil),
    do: %{id: id, start: {__MODULE__, :start_link, [options, pool_call, predecessor]}}

  @doc false
  def start_link(%PoolOptions{} = options, pool_call, predecessor),
    do: GenServer.start_link(__MODULE__, {options, pool_call, predecessor})

  @doc """
  Tells the owner that the pool or its session `session_id` has a model, and which functions are registered for it.

  Only the calls that run now can still call the functions of the previous model.
  """
  @spec model_configured(pid(), String.t() | nil, ModelRegistrations.functions()) :: :ok
  def model_configured(owner, session_id, functions),
    do: tell(owner, :model_configured, session_id, functions)

  @doc """
  Tells the owner that the pool or its session `session_id` may have a model, and which functions are registered for it: the call
  has not been answered in its time.
  """
  @spec model_perhaps_configured(pid(), String.t() | nil, ModelRegistrations.functions()) :: :ok
  def model_perhaps_configured(owner, session_id, functions),
    do: tell(owner, :model_perhaps_configured, session_id, functions)

  defp tell(owner, what, session_id, functions) do
    # In a function, so that no report prints what the functions have closed over.
    GenServer.call(owner, {what, session_id, fn -> functions end})
  catch
    # Python has just ended. The next one configures the model of the pool anew, and has no sessions.
    :exit, _reason -> :ok
  end

  @doc """
  Configures the pool's model in the owner's Python, after it was changed for the pool.
  """
  @spec configure_model(pid()) :: :ok | {:error, Error.t()}
  def configure_model(owner) do
    GenServer.call(owner, :configure_model, :infinity)
  catch
    # Python has just ended. The next one gets the new model when it starts.
    :exit, _reason -> :ok
  end

  @doc """
  Returns the successor that shall replace the owner (`Recycling.replace/3`); `:replacing` if it has one already.
  """
  @spec successor(pid()) :: {:ok, Supervisor.child_spec()} | :replacing
  def successor(owner) do
    GenServer.call(owner, :successor, :infinity)
  catch
    # Python has just ended, and is started again.
    :exit, _reason -> :replacing
  end

  @doc """
  Has a spare end its Python and start another one.
  """
  @spec renew_spare(pid()) :: :ok
  def renew_spare(owner), do: GenServer.cast(owner, :renew_spare)

  @impl true
  def init({options, pool_call, predecessor}) do
    # When the port breaks, this process has to answer all callers before it ends.
    Process.flag(:trap_exit, true)
    # Makes the atoms of answers exist, see Protocol.decode_answer/1.
    Protocol.known_atoms()
    pending_calls = PendingCalls.new()
    pool = pool_value(options.name)
    worker = if pool, do: PoolTally.next_worker(pool.tally), else: 1
    role = WorkerRole.begin(options, worker, predecessor)

    state = %__MODULE__{
      options: options,
      pool_call: pool_call,
      role: role,
      startup:
        Startup.new(
          options,
          pool_call,
          pending_calls,
          pool && pool.tally,
          worker,
          role.slot == nil
        ),
      model: %WorkerModel{
        state: if(options.model.() == nil, do: :none, else: :configured),
        calls: pending_calls
      },
      pending_calls: pending_calls,
      pool: pool
    }

    Names.register(:worker, {options.name, worker}, shown(state))
    {:ok, published(state), {:continue, :start_python}}
  end

  @impl true
  def handle_continue(:start_python, state) do
    if WorkerRole.spare?(state.role),
      do: {:noreply, start_later(state)},
      else: {:noreply, start_python(state)}
  end

  @impl true
  def handle_call({:model_configured, session_id, configured}, _from, state) do
    state = %{state | model: WorkerModel.configured(state.model, session_id, configured.())}
    {:reply, :ok, if(session_id == nil, do: published(state), else: state)}
  end

  def handle_call({:model_perhaps_configured, session_id, configured}, _from, state) do
    model = WorkerModel.perhaps_configured(state.model, session_id, configured.())
    {:reply, :ok, %{state | model: model}}
  end

  def handle_call(:configure_model, _from, %{phase: {:down, _error}} = state),
    do: {:reply, :ok, state}

  def handle_call(:configure_model, from, state) do
    state = %{state | model: WorkerModel.ask(state.model, from)}
    {:noreply, if(state.phase == :ready, do: configure(state), else: state)}
  end

  def handle_call(:successor, _from, %{role: %{recycling: nil} = role} = state),
    do: {:reply, {:ok, successor_of(state)}, %{state | role: %{role | recycling: :asked}}}

  def handle_call(:successor, _from, state), do: {:reply, :replacing, state}

  # A successor replies when it is ready, or when its start has failed.
  def handle_call(:await_ready, _from, %{phase: {:down, error}} = state),
    do: {:reply, {:error, error}, state}

  def handle_call(:await_ready, _from, %{phase: :ready} = state), do: {:reply, :ok, state}
  def handle_call(:await_ready, from, state), do: {:noreply, %{state | awaiting: from}}

  # Another one has replaced it already.
  def handle_call(:drain, _successor, %{role: %{slot: nil}} = state), do: {:reply, nil, state}

  def handle_call(:drain, _successor, %{role: %{slot: slot} = role} = state),
    do: {:reply, slot, shown_as(%{state | role: WorkerRole.drain(role)})}

  def handle_call({:take_slot, slot}, _from, state) do
    {result, state} = take_slot(slot, state)
    {:reply, result, state}
  end

  def handle_call({:replace, owner}, _from, state) do
    if ready_spare?(state) do
      {result, role} = WorkerRole.replace(state.role, owner)
      {:reply, result, published(%{state | role: role})}
    else
      {:reply, :not_ready, state}
    end
  end

  @impl true
  def handle_cast({:take_slot, slot}, state) do
    {_result, state} = take_slot(slot, state)
    {:noreply, state}
  end

  def handle_cast(:not_replaced, %{role: %{recycling: :asked} = role} = state) do
    Names.unregister(:recycling, state.options.name)
    {:noreply, %{state | role: %{role | recycling: nil}}}
  end

  def handle_cast(:renew_spare, state) do
    if WorkerRole.spare?(state.role),
      do: {:stop, {:shutdown, :renewed}, state},
      else: {:noreply, state}
  end

  def handle_cast(_late, state), do: {:noreply, state}

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    PendingCalls.heard(state.pending_calls)
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
    do: {:noreply, answer(id, {:error, LastAnswers.unsent(error)}, state)}

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
        %{model: %{functions: %{monitor: monitor}}} = state
      ),
      do: {:noreply, register_again(state)}

  def handle_info(:register_functions, state), do: {:noreply, register_again(state)}

  def handle_info(:release_functions, state),
    do: {:noreply, %{state | model: WorkerModel.release(state.model)}}

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

  def handle_info(:look_at_process, state) do
    idle? = PendingCalls.count(state.pending_calls) == 0
    heartbeat(Heartbeat.look(state.heartbeat, idle?), state)
  end

  def handle_info(:start_again, state) do
    case WorkerRole.next_start(state.role) do
      {:start, role} -> {:noreply, start_python(published(%{state | role: role}))}
      :wait -> {:noreply, start_later(state)}
      :leave -> {:noreply, left(state)}
    end
  end

  def handle_info({:recycle, kind, reason}, %{role: %{recycling: :waiting} = role} = state),
    do: {:noreply, recycle(kind, reason, %{state | role: %{role | recycling: nil}})}

  def handle_info(:start_timeout, %{phase: :starting} = state),
    do: {:noreply, started(Startup.timed_out(state.startup), state)}

  def handle_info({probe, {:probed, result}}, %{startup: %{probe: %Task{ref: probe}}} = state),
    do: {:noreply, started(Startup.probed(state.startup, result), state)}

  def handle_info(:check_drained, %{role: %{recycling: {:draining, _ends_at}}} = state) do
    case Recycling.check(state.role.recycling, state.pending_calls) do
      :leave -> {:noreply, left(state)}
      :stay -> {:noreply, state}
    end
  end

  # A late message: of a port that was given up, of a probe, of a timer that fired while it was cancelled, or an answer
  # for a Python that has ended.
  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # From now on the port refuses calls, so that no call reaches a Python that is given up.
    if state.role.slot, do: Connection.withdraw(state.options.name, state.role.slot)
    # One that imports does not notice yet that its port is closed.
    if state.phase == :ready,
      do: Interpreter.close(state.port),
      else: Interpreter.kill(state.port)

    end_worker(reason, state.startup.process)
    Startup.end_probe(state.startup)

    case reason do
      {:shutdown, {:python_exited, status}} ->
        # Before the calls are answered: their callers may make them again at once.
        WorkerRole.hand_over(state.role)

        answer_dead(state, status, "while the call was being made#{what_follows(state)}")

      _stopped when state.role.recycling == :leaving ->
        answer_all(state, Error.new(:port_closed, replaced_too_late(state)))

      _stopped ->
        answer_all(state, Error.new(:port_closed, stopped_too_early(state)))
    end

    AskedNotes.close(state.startup.asked_notes)
  end

  # A worker that was forked may have neither a launcher nor a template process any more, which would end it. While it is stopped
  # it does not notice that its port is closed.
  defp end_worker(_reason, nil), do: :ok
  defp end_worker({:shutdown, {:python_exited, _status}}, process), do: ProcessState.kill(process)

  defp end_worker(_stopped, process),
    do: if(ProcessState.stopped_after(process), do: ProcessState.kill(process))

  defp what_follows(state) do
    case Names.lookup(:stopping, state.options.name) do
      {_process, %{begun?: true}} -> ", while its pool was being stopped"
      _goes_on -> "; it is started again"
    end
  end

  defp replaced_too_late(state),
    do:
      "python was replaced while the call was being made; it was given #{state.options.drain_timeout} ms to end"

  defp stopped_too_early(%{options: options}) do
    stopped = "pool #{inspect(options.name)} was stopped while the call was being made"

    if options.stop_timeout > 0,
      do: stopped <> "; it was given #{options.stop_timeout} ms to end",
      else: stopped
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

  defp with_errors(0), do: ""
  defp with_errors(calls), do: ", calls in flight are answered with an error: #{calls}"

  # Starting ---------------------------------------------------------------------------------------------------------

  defp start_later(state) do
    Process.send_after(self(), :start_again, @spare_wait_ms)
    state
  end

  defp start_python(state) do
    Telemetry.pool(:worker_started, of_worker(state))
    state = %{state | phase: :starting, began_at: System.monotonic_time()}
    started(Startup.begin(state.startup), state)
  end

  defp of_worker(state), do: %{pool: state.options.name, worker: state.role.worker}

  defp started({:wait, startup}, state), do: %{state | startup: startup, port: startup.port}

  # The model is the one that is kept now: who has asked for it until now waits for this.
  defp started({:register, startup, functions}, %{phase: :starting} = state),
    do: %{state | startup: startup, model: WorkerModel.first(state.model, functions)}

  defp started({:register, startup, functions}, state),
    do: %{state | startup: startup, model: WorkerModel.next(state.model, functions)}

  defp started({:ready, startup, result}, %{phase: :ready} = state) do
    %{state | startup: startup, model: WorkerModel.ended(state.model, result)}
    |> published()
    |> configure()
  end

  defp started({:ready, startup, result}, state) do
    heartbeat = Heartbeat.start(state.options.heartbeat, startup.process)
    duration = System.monotonic_time() - state.began_at
    Telemetry.pool(:worker_ready, %{duration: duration}, of_worker(state))

    model = WorkerModel.ended(state.model, result)

    %{state | startup: startup, phase: :ready, heartbeat: heartbeat, model: model}
    |> Map.update!(:role, &WorkerRole.take_over/1)
    |> published()
    |> flush()
    |> awaited(:ok)
    |> configure()
  end

  defp started({:failed, startup, error}, state) do
    state = answer_all(state, error)
    send_queue = SendQueue.clear(state.send_queue)
    state = %{state | startup: startup, phase: {:down, error}, port: nil, send_queue: send_queue}
    awaited(shown_as(%{state | model: WorkerModel.give_up(state.model)}), {:error, error})
  end

  defp awaited(%{awaiting: nil} = state, _result), do: state

  defp awaited(%{awaiting: from} = state, result) do
    GenServer.reply(from, result)
    %{state | awaiting: nil}
  end

  # The model of the pool was changed meanwhile.
  defp configure(state) do
    if WorkerModel.to_change?(state.model),
      do:
        started(Startup.configure(state.startup), %{state | model: WorkerModel.begin(state.model)}),
      else: state
  end

  # Published, so that nobody gives it a slot any more.
  defp left(state), do: shown_as(%{state | role: WorkerRole.leave(state.role)})

  defp take_slot(slot, state) do
    if ready_spare?(state) do
      {result, role} = WorkerRole.take_slot(state.role, slot)
      {result, published(%{state | role: role})}
    else
      {:not_ready, state}
    end
  end

  defp ready_spare?(state), do: state.phase == :ready and WorkerRole.spare?(state.role)

  # The end of Python ------------------------------------------------------------------------------------------------

  defp python_ended(status, %{role: %{recycling: recycling}} = state)
       when recycling == :leaving or elem(recycling, 0) == :draining do
    state = answer_dead(state, status, "while it was being replaced")
    {:noreply, left(%{state | port: nil})}
  end

  defp python_ended(status, %{phase: :ready} = state) do
    if state.pool, do: PoolTally.add(state.pool.tally, :died)

    Telemetry.pool(
      :worker_died,
      %{calls: PendingCalls.count(state.pending_calls)},
      Map.put(of_worker(state), :reason, Interpreter.ending(status))
    )

    Logger.error(
      "python of pool #{inspect(state.options.name)} #{Interpreter.ending(status)}#{what_follows(state)}" <>
        with_errors(PendingCalls.count(state.pending_calls)),
      pool: state.options.name,
      worker: state.role.worker
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

  defp heartbeat({:kill, ending}, state) do
    Interpreter.kill(state.port)
    python_ended(ending, state)
  end

  # Known before any call runs out.
  defp heartbeat({:is_stopped, heartbeat}, state) do
    PendingCalls.silent(state.pending_calls)
    {:noreply, %{state | heartbeat: heartbeat}}
  end

  defp heartbeat({:continues, heartbeat}, state) do
    PendingCalls.heard(state.pending_calls)
    {:noreply, %{state | heartbeat: heartbeat}}
  end

  defp heartbeat({:runs, heartbeat}, state), do: {:noreply, %{state | heartbeat: heartbeat}}

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

  defp handle_frame({:message, "R"}, frame, %{role: %{recycling: nil}} = state) do
    {kind, reason} = Protocol.decode_recycling(frame)
    recycle(kind, reason, state)
  end

  # It has a successor already, or is about to leave.
  defp handle_frame({:message, "R"}, _frame, state), do: state

  defp handle_frame({:call, id}, frame, state) do
    %{name: pool, max_request_bytes: max_bytes} = state.options
    Callbacks.answer(frame, id, state.port, pool, max_bytes)
    state
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

  defp recycle(kind, reason, state) do
    tally = state.pool && state.pool.tally
    role = WorkerRole.recycle(state.role, kind, reason, tally, successor_of(state))
    shown_as(%{state | role: role})
  end

  defp successor_of(%{options: options, pool_call: pool_call}),
    do: child_spec(options, pool_call, {__MODULE__, make_ref()}, self())

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

  defp answer_dead(state, status, meanwhile) do
    error = Error.new(:worker_died, "python #{Interpreter.ending(status)} #{meanwhile}")
    # What stops a process comes from outside, so no call is to blame.
    quarantine = unless match?({:stopped, _ms}, status), do: quarantine(state)
    LastAnswers.of_dead(state.pending_calls, error, notes(state), quarantine)
    state
  end

  defp answer_all(state, error) do
    LastAnswers.all(state.pending_calls, error, notes(state))
    state
  end

  defp notes(%{phase: :ready, startup: startup}), do: {:ready, startup.asked_notes}
  defp notes(_starting), do: nil

  defp quarantine(%{pool: pool}), do: pool && pool.quarantine

  # What the supervisor of the pool has made for all its owners; `nil` without one.
  defp pool_value(pool) do
    with {_supervisor, value} <- Names.lookup(:pool, pool), do: value
  end

  defp register_again(state), do: %{state | model: WorkerModel.register_again(state.model)}

  # What callers look up ---------------------------------------------------------------------------------------------

  # Publishes the connection and the state of the model: to the callers of the slot, and to those who ask for all workers.
  defp published(%{role: %{slot: slot}, options: %{name: pool}} = state) do
    if slot do
      Connection.publish(pool, slot, connection(state))
      Names.set_value(:slot, {pool, slot}, state.model.state)
    end

    shown_as(state)
  end

  defp shown_as(state) do
    Names.set_value(:worker, {state.options.name, state.role.worker}, shown(state))
    state
  end

  defp shown(%{role: role} = state),
    do: %{
      connection: connection(state),
      slot: role.slot,
      spare?: WorkerRole.spare?(role),
      failed?: match?({:down, _error}, state.phase)
    }

  defp connection(%{options: options} = state) do
    %Connection{
      owner: self(),
      port: if(state.phase == :ready, do: state.port),
      pending_calls: state.pending_calls,
      quarantine: quarantine(state),
      worker: state.role.worker,
      size: options.size,
      max_in_flight: options.max_in_flight,
      max_queue: options.max_queue,
      waiting: state.pool && state.pool.waiting,
      max_request_bytes: options.max_request_bytes
    }
  end
end
