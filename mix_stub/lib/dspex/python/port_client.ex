defmodule DSPex.Python.PortClient do
  @moduledoc false

  # The owner of one port: gives answers to their callers, and starts Python anew. Callers encode, write and decode their
  # calls themselves (DSPex.Python.Line), so that many of them use many cores. The other way round, functions that
  # Python calls run in processes of their own (DSPex.Python.Callbacks.Invocation).
  #
  # The owner never blocks: what the port does not take at once stays in `unsent`, and callers keep their own time, so
  # that they have their answer in time even when Python does not read or the machine is busy.
  #
  # Callers are watched only when they have waited for a moment (DSPex.Python.Watch): most are answered before that.
  #
  # Phases: :starting (Python is being started; calls wait in `unsent`) -> :ready, or {:down, error} until the next
  # attempt. Python that ends when :ready ends this process, and the supervisor starts both anew. Python that asks for
  # it is replaced by another one with an owner of its own (DSPex.Python.Recycling).

  use GenServer

  require Logger

  alias DSPex.Python.{
    Callbacks,
    Calls,
    Error,
    Heartbeat,
    Interpreter,
    Line,
    Log,
    Model,
    PoolOptions,
    Protocol,
    Recycling,
    Watch
  }

  alias DSPex.Python.Callbacks.{Callback, Invocation, Kept}
  alias DSPex.Python.Calls.Call

  # How often a port that takes no more data is tried again. There is no message that tells when it does.
  @retry_unsent_ms 2
  # After an answer of this size the owner collects its garbage, or it would keep the answer alive until its next one.
  @large_bytes 1024 * 1024
  @first_retry_ms 1_000
  @last_retry_ms 30_000
  # Of no call; the runtime answers it as soon as it has read it.
  @heartbeat_id 0

  @enforce_keys [:options, :registry, :key, :id]
  defstruct [
    :options,
    :registry,
    :key,
    :id,
    :recycling,
    :port,
    :python,
    :start_timer,
    :unsent_timer,
    :probe,
    :heartbeat,
    :model_state,
    :calls,
    phase: :starting,
    failures: 0,
    unsent: :queue.new(),
    watch: %Watch{},
    kept: %Kept{},
    predecessors: %{}
  ]

  @doc false
  # As the child `id` of its supervisor. While another one owns the port of that key, it is the successor of that one.
  def start_link(%PoolOptions{} = options, registry, key, id) do
    # One that has just ended may still be named there.
    with [{predecessor, _value}] <- Registry.lookup(registry, key),
         true <- Process.alive?(predecessor) do
      GenServer.start_link(__MODULE__, {options, registry, key, id, {:standby, predecessor}})
    else
      _nobody ->
        GenServer.start_link(__MODULE__, {options, registry, key, id, nil},
          name: {:via, Registry, {registry, key}}
        )
    end
  end

  @doc """
  Tells which model the pool has now, or its session `session_id`, and which functions have been registered for it;
  those of the model before can be called no more.
  """
  @spec model_configured(pid(), String.t() | nil, Model.t(), registered) :: :ok
        when registered: {Callbacks.registration() | nil, [Callback.t()]}
  def model_configured(client, session_id, model, registered) do
    # In a function, so that nothing prints its key.
    GenServer.call(client, {:model_configured, session_id, fn -> {model, registered} end})
  catch
    # Python has just ended, and the model that was configured with it.
    :exit, _reason -> :ok
  end

  @impl true
  def init({options, registry, key, id, recycling}) do
    # A port that breaks must not take this process with it before all callers are answered.
    Process.flag(:trap_exit, true)
    # Makes the atoms of answers exist, see Protocol.decode_answer/1.
    Protocol.known_atoms()
    model_state = if options.model.() == nil, do: :none, else: :configured

    state = %__MODULE__{
      options: options,
      registry: registry,
      key: key,
      id: id,
      recycling: recycling,
      model_state: model_state,
      calls: Calls.new()
    }

    {:ok, published(state), {:continue, :start_python}}
  end

  @impl true
  def handle_continue(:start_python, state), do: {:noreply, start_python(state)}

  @impl true
  def handle_call({:model_configured, session_id, configured}, _from, state) do
    {model, {registration, callbacks}} = configured.()
    state = %{state | kept: Kept.put(state.kept, session_id, registration, callbacks)}

    if session_id == nil do
      options = %{state.options | model: fn -> model end}
      {:reply, :ok, published(%{state | options: options, model_state: :configured})}
    else
      {:reply, :ok, state}
    end
  end

  def handle_call(:retire, _successor, state) do
    %{options: options, registry: registry, key: key} = state
    {:reply, line(state), %{state | recycling: Recycling.retire(options, registry, key)}}
  end

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    state = handle_frame(Protocol.peek(frame), frame, state)
    if byte_size(frame) > @large_bytes, do: {:noreply, state, :hibernate}, else: {:noreply, state}
  end

  def handle_info({:python_answer, port, frame}, %{port: port} = state) do
    {:noreply, send_frame(frame, state)}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state),
    do: python_ended(status, state)

  def handle_info({:EXIT, port, reason}, %{port: port} = state), do: python_ended(reason, state)

  # What a caller could not write to the port itself.
  def handle_info({:send_call, id, _request}, %{phase: {:down, error}} = state) do
    {:noreply, answer(id, {:error, error}, state)}
  end

  def handle_info({:send_call, id, request}, state) do
    {:noreply, send_unsent(%{state | unsent: :queue.in({:call, id, request}, state.unsent)})}
  end

  def handle_info({:send_frame, frame}, state), do: {:noreply, send_frame(frame, state)}

  def handle_info(:watch_callers, state) do
    {:noreply, %{state | watch: Watch.look(state.watch, state.calls)}}
  end

  def handle_info(
        {:DOWN, monitor, :process, _registry, _reason},
        %{kept: %{monitor: monitor}} = state
      ),
      do: {:noreply, %{state | kept: Kept.register_anew(state.kept)}}

  def handle_info(:register_functions, state),
    do: {:noreply, %{state | kept: Kept.register_anew(state.kept)}}

  def handle_info({:DOWN, monitor, :process, _owner, _reason}, %{predecessors: lines} = state)
      when is_map_key(lines, monitor),
      do: {:noreply, published(%{state | predecessors: Map.delete(lines, monitor)})}

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state) do
    {id, watch} = Watch.pop(state.watch, monitor)
    state = %{state | watch: watch}

    case Calls.take(state.calls, id || 0) do
      %Call{sent?: true} -> {:noreply, send_frame(Protocol.cancel_frame(id), state)}
      # Python has not seen a call that was not sent, and never will.
      _unsent_or_answered -> {:noreply, state}
    end
  end

  def handle_info(:send_unsent, state), do: {:noreply, send_unsent(%{state | unsent_timer: nil})}
  def handle_info(:heartbeat, state), do: heartbeat(Heartbeat.tick(state.heartbeat), state)

  def handle_info(:start_again, %{recycling: {:standby, predecessor}} = state) do
    # That of before has ended, and was started again: there is nothing left to replace.
    if Process.alive?(predecessor),
      do: {:noreply, start_python(state)},
      else: {:noreply, tap(state, &leave/1)}
  end

  def handle_info(:start_again, state), do: {:noreply, start_python(state)}

  def handle_info(:retiring, state) do
    if Recycling.check(state.recycling, state.calls) == :leave, do: leave(state)
    {:noreply, state}
  end

  def handle_info(:start_timeout, %{phase: :starting} = state) do
    message =
      "python at #{inspect(state.python)} was not ready within #{state.options.start_timeout} ms"

    # Without this, each attempt would leave one more Python that hangs.
    Interpreter.kill(state.port)
    {:noreply, start_failed(Error.new(:port_closed, message), state)}
  end

  def handle_info({probe, %Error{} = error}, %{probe: %Task{ref: probe}} = state) do
    Process.demonitor(probe, [:flush])
    {:noreply, start_failed(error, state)}
  end

  # What comes late: the end of a port that was given up or of a probe, a timer that fired while it was cancelled, an
  # answer to a call of a Python that is gone.
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

    if published?(state), do: Line.withdraw(state.options.name)
    # What is written from now on is refused, so that no call reaches a Python that is given up.
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
      {:message, {:send_call, id, _request}} ->
        {:message, {:send_call, id, :request}}

      {:message, {:python_answer, port, _frame}} ->
        {:message, {:python_answer, port, :frame}}

      {:message, {port, {:data, frame}}} ->
        {:message, {port, {:data, byte_size(frame)}}}

      {:state, %__MODULE__{} = state} ->
        {:state, %{state | unsent: :queue.len(state.unsent), calls: Calls.count(state.calls)}}

      {:log, _events} ->
        {:log, []}

      other ->
        other
    end)
  end

  # Starting ---------------------------------------------------------------------------------------------------------

  defp start_python(state) do
    state = %{state | phase: :starting, start_timer: start_timer(state)}

    with {:ok, python} <- Interpreter.find(state.options),
         {:ok, port} <- Interpreter.open(python, state.options) do
      startup_call(%{state | port: port, python: python}, :ping, [])
    else
      {:error, error} -> start_failed(error, state)
    end
  end

  defp startup_call(state, operation, args) do
    id = Calls.add(state.calls, {:startup, operation})
    # A port that has just been opened takes this little at once.
    command(state.port, Protocol.frame(id, Protocol.encode_request(operation, args)))
    state
  end

  defp started(:ping, {:ok, {:ok, _pong}}, state) do
    with model when model != nil <- state.options.model.(),
         {:ok, {provider, config}, callbacks} <- Model.resolve(model, state.options.name) do
      registration = if callbacks != [], do: Callbacks.register(callbacks)
      state = %{state | kept: Kept.put(state.kept, nil, registration, callbacks)}
      startup_call(state, :configure_lm, [provider, config, %{}])
    else
      nil -> ready(state)
      {:error, error} -> model_failed(error, state)
    end
  end

  defp started(:ping, {:ok, {:error, {:python_exception, details}}}, state) do
    start_failed(Error.from_details(details), state)
  end

  defp started(:ping, {:error, error}, state) do
    message = "python at #{inspect(state.python)} cannot load dspy_bridge: #{error.message}"

    start_failed(
      Error.new(:missing_dependency, message, %{"traceback" => error.traceback}),
      state
    )
  end

  defp started(:configure_lm, {:ok, {:error, {:python_exception, details}}}, state) do
    model_failed(Error.from_details(details), state)
  end

  defp started(:configure_lm, {:error, error}, state), do: model_failed(error, state)
  defp started(:configure_lm, {:ok, _configured}, state), do: ready(state)

  # Python is of use without a model (list_modules, configure_lm, calls that bring their own), so the pool starts.
  defp model_failed(error, state) do
    Logger.warning(
      "the model of pool #{inspect(state.options.name)} cannot be configured: #{error.message}"
    )

    ready(%{state | model_state: {:failed, error}})
  end

  defp ready(state) do
    cancel(state.start_timer)
    heartbeat = Heartbeat.start(state.options.heartbeat)

    %{state | phase: :ready, start_timer: nil, failures: 0, heartbeat: heartbeat}
    |> taken_over()
    |> published()
    |> send_unsent()
  end

  defp taken_over(%{recycling: {:standby, predecessor}} = state) do
    case Recycling.take_over(predecessor, state.registry, state.key) do
      {:ok, line} -> %{state | recycling: nil, predecessors: watched(line)}
      :gone -> tap(state, &leave/1)
    end
  end

  defp taken_over(state), do: state

  # It may itself have such that have not left yet.
  defp watched(line) do
    for line <- [%{line | predecessors: []} | line.predecessors],
        into: %{},
        do: {Process.monitor(line.owner), line}
  end

  defp leave(state), do: Recycling.leave(state.registry, state.options.name, state.id)

  defp start_failed(error, state) do
    cancel(state.start_timer)
    if state.probe, do: Task.shutdown(state.probe, :brutal_kill)
    Interpreter.close(state.port)
    retry_ms = min(@first_retry_ms * Integer.pow(2, min(state.failures, 10)), @last_retry_ms)
    Process.send_after(self(), :start_again, retry_ms)
    name = inspect(state.options.name)

    Logger.error(
      "pool #{name} has no python: #{error.message}; next attempt in #{div(retry_ms, 1000)} s"
    )

    state = %{answer_all(state, error) | unsent: :queue.new(), failures: state.failures + 1}
    %{state | phase: {:down, error}, port: nil, probe: nil, start_timer: nil}
  end

  defp python_ended(status, %{recycling: {:retiring, _ends_at}} = state) do
    leave(state)
    message = "python #{Interpreter.ending(status)} while it was being replaced"
    {:noreply, answer_all(%{state | port: nil}, Error.new(:port_closed, message))}
  end

  defp python_ended(status, %{phase: :ready} = state) do
    Logger.error(
      "python of pool #{inspect(state.options.name)} #{Interpreter.ending(status)}; it is started again, " <>
        "calls in flight are answered with an error: #{Calls.count(state.calls)}"
    )

    # Not an error of this process, so without its crash report.
    {:stop, {:shutdown, {:python_exited, status}}, %{state | port: nil}}
  end

  defp python_ended(status, %{phase: :starting} = state) do
    # Finding the cause takes as long as Python needs to import DSPy; this process must not wait for it.
    %{python: python, options: options} = state
    probe = Task.async(fn -> Interpreter.diagnose(python, options, status) end)
    {:noreply, %{state | port: nil, probe: probe}}
  end

  defp python_ended(_status, state), do: {:noreply, %{state | port: nil}}

  defp heartbeat({:ask, heartbeat}, state) do
    # A busy port is one that Python does not read, which is what this is about: counted like a question.
    command(state.port, Protocol.frame(@heartbeat_id, Protocol.encode_request(:ping, [])))
    {:noreply, %{state | heartbeat: heartbeat}}
  end

  defp heartbeat({:silent, ms}, state) do
    Interpreter.kill(state.port)
    python_ended({:silent, ms}, state)
  end

  # Sending ----------------------------------------------------------------------------------------------------------

  # Sends what waits, in its order, as far as the port takes it.
  defp send_unsent(%{phase: :ready} = state) do
    case :queue.out(state.unsent) do
      {:empty, _unsent} ->
        state

      {{:value, entry}, unsent} ->
        case send_entry(entry, state) do
          :busy -> send_later(state)
          state -> send_unsent(%{state | unsent: unsent})
        end
    end
  end

  defp send_unsent(state), do: state

  defp send_entry({:call, id, request}, state) do
    cond do
      # Its caller has been told of a timeout, or is gone.
      not Calls.waiting?(state.calls, id) ->
        state

      command(state.port, Protocol.frame(id, request)) ->
        Calls.sent(state.calls, id)
        state

      true ->
        :busy
    end
  end

  defp send_entry({:frame, frame}, state) do
    if command(state.port, frame), do: state, else: :busy
  end

  defp send_frame(frame, state),
    do: send_unsent(%{state | unsent: :queue.in({:frame, frame}, state.unsent)})

  defp send_later(%{unsent_timer: nil} = state) do
    %{state | unsent_timer: Process.send_after(self(), :send_unsent, @retry_unsent_ms)}
  end

  defp send_later(state), do: state

  # False if the port is busy.
  defp command(port, frame) do
    Line.command(port, frame)
  rescue
    # The port has just closed; the message that says so is on its way, and answers this call with the others.
    ArgumentError -> true
  end

  # Answers ----------------------------------------------------------------------------------------------------------

  defp handle_frame({:answer, @heartbeat_id}, _frame, state) do
    %{state | heartbeat: Heartbeat.answered(state.heartbeat)}
  end

  defp handle_frame({:answer, id}, frame, state) do
    case Calls.take(state.calls, id) do
      # Late: the caller has been told of a timeout, or is gone.
      nil ->
        state

      %Call{tag: {:startup, operation}} ->
        started(operation, Protocol.decode_answer(frame), state)

      call ->
        Line.answer(call, {:frame, frame})
        forget(state, id)
    end
  end

  defp handle_frame({:message, "L"}, frame, state) do
    Log.take(state.registry, state.options.name, frame)
    state
  end

  # Of a call that runs (DSPex.Python.EventStream). Small, and no more than their reader has asked for.
  defp handle_frame({:message, "M"}, frame, state) do
    case Protocol.decode_message(frame) do
      {:ok, pid, message} -> tap(state, fn _state -> send(pid, message) end)
      :error -> handle_frame(:malformed, frame, state)
    end
  end

  defp handle_frame({:message, "R"}, frame, %{recycling: nil} = state) do
    %{options: options, registry: registry, key: key} = state
    %{state | recycling: Recycling.begin(frame, options, registry, key)}
  end

  # It has a successor already, or is about to leave.
  defp handle_frame({:message, "R"}, _frame, state), do: state

  defp handle_frame({:call, id}, frame, state) do
    tap(state, fn state -> Invocation.answer(frame, id, state.port) end)
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
    with %Call{} = call <- Calls.take(state.calls, id), do: Line.answer(call, answer)
    forget(state, id)
  end

  # Most callers are not watched, and to copy the state for nothing costs more than to look.
  defp forget(state, id) do
    if Watch.watched?(state.watch, id),
      do: %{state | watch: Watch.forget(state.watch, id)},
      else: state
  end

  defp answer_all(state, error) do
    state.calls |> Calls.take_all() |> Enum.each(&Line.answer(&1, {:error, error}))
    state
  end

  defp start_timer(state),
    do: Process.send_after(self(), :start_timeout, state.options.start_timeout)

  defp cancel(nil), do: :ok
  defp cancel(timer), do: Process.cancel_timer(timer)

  # What callers look up: the state of the model, and the line on which they make their calls.
  defp published(state) do
    if published?(state) do
      Line.publish(state.options.name, line(state))

      {_new, _old} =
        Registry.update_value(state.registry, state.key, fn _ -> state.model_state end)
    end

    state
  end

  # A successor is not yet the one that callers find, and one that retires is not any more.
  defp published?(state), do: not is_tuple(state.recycling)

  defp line(state) do
    port = if state.phase == :ready, do: state.port

    %Line{
      owner: self(),
      port: port,
      calls: state.calls,
      predecessors: Map.values(state.predecessors)
    }
  end
end
