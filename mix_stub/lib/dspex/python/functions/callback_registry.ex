defmodule DSPex.Python.Functions.CallbackRegistry do
  @moduledoc false

  # Knows which functions Python may call, and which invocations run. A registration ends with `unregister/1` and with
  # the process that owns it; the processes that wait for running invocations are told.

  use GenServer

  alias DSPex.Python.Functions.{Callback, CallerContext}

  @typedoc "Ends a registration. It is also the monitor of the process that owns the registration."
  @type registration :: reference()

  # callbacks: id => {registration, callback, whether it was invoked}
  # registrations: a monitor of the process that owns the registration => ids
  # running: a monitor of the process that waits for an invocation => {registration, that process}
  defstruct callbacks: %{}, registrations: %{}, running: %{}

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Registers `callbacks` until `unregister/1`, or until `owner` ends; `nil` if the registry is not running.

  They run on behalf of the calling process, unless they have a context already.
  """
  @spec register([Callback.t()], pid()) :: registration() | nil
  def register(callbacks, owner \\ self()) do
    callbacks = Callback.on_behalf(callbacks, CallerContext.current())
    ask({:register, callbacks, owner}, nil)
  end

  @doc """
  Ends a registration. Invocations that still run are killed.
  """
  @spec unregister(registration() | nil) :: :ok
  def unregister(nil), do: :ok
  def unregister(registration), do: ask({:unregister, registration}, :ok)

  @doc """
  Counts the registered functions and the running invocations.
  """
  @spec count() :: %{registered: non_neg_integer(), running: non_neg_integer()}
  def count, do: ask(:count, %{registered: 0, running: 0})

  @doc """
  Begins an invocation, for which the calling process waits; `:error` if the callback is not registered.

  When the registration ends, the calling process gets the message `{:ended, running}`.
  """
  @spec begin(String.t()) :: {:ok, running :: reference(), Callback.t()} | :error
  def begin(id), do: ask({:begin, id}, :error)

  @doc """
  Ends the invocation for which the process `waiting` waits, as the end of its registration would.
  """
  @spec give_up(pid()) :: :ok
  def give_up(waiting), do: ask({:give_up, waiting}, :ok)

  @doc """
  Tells whether one of these callbacks was invoked; `true` also if that is not known any more.
  """
  @spec invoked?([Callback.t()]) :: boolean()
  def invoked?([]), do: false
  def invoked?(callbacks), do: ask({:invoked?, Enum.map(callbacks, & &1.id)}, true)

  @doc """
  Tells whether one of these ids is registered.
  """
  @spec registered?([String.t()]) :: boolean()
  def registered?(ids), do: ask({:registered?, ids}, false)

  @doc """
  Ends an invocation. No message about it comes afterwards.
  """
  @spec finished(reference()) :: :ok
  def finished(running) do
    ask({:finished, running}, :ok)

    receive do
      {:ended, ^running} -> :ok
    after
      0 -> :ok
    end
  end

  @impl true
  def init(nil), do: {:ok, %__MODULE__{}}

  @impl true
  def handle_call({:register, callbacks, owner}, _from, state) do
    registration = Process.monitor(owner)
    registered = Map.new(callbacks, &{&1.id, {registration, &1, false}})

    state = %{
      state
      | callbacks: Map.merge(state.callbacks, registered),
        registrations: Map.put(state.registrations, registration, Map.keys(registered))
    }

    {:reply, registration, state}
  end

  def handle_call({:unregister, registration}, _from, state),
    do: {:reply, :ok, ended(state, registration)}

  def handle_call({:begin, id}, {waiting, _tag}, state) do
    case state.callbacks do
      %{^id => {registration, callback, _invoked?}} ->
        running = Process.monitor(waiting)

        state = %{
          state
          | running: Map.put(state.running, running, {registration, waiting}),
            callbacks: Map.put(state.callbacks, id, {registration, callback, true})
        }

        {:reply, {:ok, running, callback}, state}

      _no_such_callback ->
        {:reply, :error, state}
    end
  end

  def handle_call({:finished, running}, _from, state) do
    Process.demonitor(running, [:flush])
    {:reply, :ok, %{state | running: Map.delete(state.running, running)}}
  end

  def handle_call({:give_up, waiting}, _from, state) do
    for {running, {_registration, ^waiting}} <- state.running,
        do: send(waiting, {:ended, running})

    {:reply, :ok, state}
  end

  def handle_call({:invoked?, ids}, _from, state) do
    {:reply, Enum.any?(ids, &match?({_registration, _callback, true}, state.callbacks[&1])),
     state}
  end

  def handle_call({:registered?, ids}, _from, state),
    do: {:reply, Enum.any?(ids, &is_map_key(state.callbacks, &1)), state}

  def handle_call(:count, _from, state) do
    count = %{registered: map_size(state.callbacks), running: map_size(state.running)}
    {:reply, count, state}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    state = %{state | running: Map.delete(state.running, monitor)}
    {:noreply, ended(state, monitor)}
  end

  # Crash reports and :sys.get_status/1 show numbers: a function may have closed over a key.
  # Called by OTP 25 and newer. Only newer releases of Elixir than 1.14 know it as a callback.
  @doc false
  @impl {:format_status, 1} in GenServer.behaviour_info(:callbacks)
  def format_status(status) do
    Map.new(status, fn
      {:state, %__MODULE__{} = state} ->
        {:state, %{callbacks: map_size(state.callbacks), running: map_size(state.running)}}

      {:message, _message} ->
        {:message, :message}

      {:log, _events} ->
        {:log, []}

      other ->
        other
    end)
  end

  defp ended(state, registration) do
    case Map.pop(state.registrations, registration) do
      {nil, _registrations} ->
        state

      {ids, registrations} ->
        Process.demonitor(registration, [:flush])

        for {running, {^registration, waiting}} <- state.running,
            do: send(waiting, {:ended, running})

        %{state | callbacks: Map.drop(state.callbacks, ids), registrations: registrations}
    end
  end

  # Returns `otherwise` if the registry is not running or ends meanwhile: then no function may be called any more.
  defp ask(request, otherwise) do
    GenServer.call(__MODULE__, request, :infinity)
  catch
    :exit, {_reason, {GenServer, :call, _call}} -> otherwise
  end
end
