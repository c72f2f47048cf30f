defmodule DSPex.Python.Callbacks do
  @moduledoc """
  The functions of Elixir that Python may call: those that are registered, by id, and no others.

  `DSPex.Python.execute_module/4` and its like register the functions among their `:tools` for as long as the call
  takes. A registration ends with `unregister/1` and with the process that made it, whatever comes first; invocations
  that still run are killed then, and Python is told so.

  Each invocation runs in a process of its own (`$callers` leads to the process that registered the function). Whatever
  happens there stays there: a function that raises, exits, throws, is killed, or takes longer than its `timeout` is an
  error of one sentence for Python, and an entry with the stacktrace in the log.

  Functions are copied to the process that runs them, with all that they have closed over.
  """

  use GenServer

  alias DSPex.Python.Callbacks.{Callback, Invocation}

  @typedoc "Ends a registration; also the reference in the message that tells an invocation of that end."
  @type registration :: reference()

  defmodule Callback do
    @moduledoc false

    # `id` is what Python calls it by; nobody can guess it. `timeout` is in ms. `owner` is who registered it.
    @enforce_keys [:id, :name, :function]
    defstruct [:id, :name, :function, :owner, timeout: :infinity]

    @type t :: %__MODULE__{
            id: String.t(),
            name: String.t(),
            function: (map() -> term()),
            owner: pid() | nil,
            timeout: timeout()
          }

    @doc """
    Makes a callback with an id of its own.
    """
    @spec new(String.t(), (map() -> term()), timeout()) :: t()
    def new(name, function, timeout) do
      id = Base.encode16(:rand.bytes(16))
      %__MODULE__{id: id, name: name, function: function, timeout: timeout}
    end
  end

  # callbacks: id => {registration, callback}
  # registrations: a monitor of the process that registered => ids
  # running: a monitor of the process that waits for an invocation => {registration, that process}
  defstruct callbacks: %{}, registrations: %{}, running: %{}

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Does `work` while Python may call `callbacks`.
  """
  @spec during([Callback.t()], (... -> result)) :: result when result: term()
  def during([], work), do: work.()

  def during(callbacks, work) do
    registration = register(callbacks)

    try do
      work.()
    after
      unregister(registration)
    end
  end

  @doc """
  Lets Python call `callbacks` until `unregister/1`, or until their owner ends, by default the calling process.

  `nil` if the application `:dspex` has not been started; then there is no Python either.
  """
  @spec register([Callback.t()], pid()) :: registration() | nil
  def register(callbacks, owner \\ self()), do: ask({:register, callbacks, owner}, nil)

  @doc """
  Ends a registration. Invocations that still run are killed.
  """
  @spec unregister(registration() | nil) :: :ok
  def unregister(nil), do: :ok
  def unregister(registration), do: ask({:unregister, registration}, :ok)

  @doc """
  Calls a registered function with a map of arguments, as Python does, and gives its result; raises if it fails.

  This is what runs under the real ErlPort, which calls what Python names.
  """
  @spec call(String.t(), map()) :: term()
  def call(id, arguments) do
    case Invocation.run(id, arguments, & &1) do
      {:ok, value} -> value
      {:error, message} -> raise message
    end
  end

  @doc """
  Ends a request to a model that is a function, which Python gave this token.
  """
  @spec cancel(term()) :: boolean()
  defdelegate cancel(token), to: DSPex.Python.ModelFunction

  @doc """
  How many functions are registered, and how many invocations run.
  """
  @spec count() :: %{registered: non_neg_integer(), running: non_neg_integer()}
  def count, do: ask(:count, %{registered: 0, running: 0})

  @doc false
  # The process that asks waits for an invocation. When the registration ends, it gets the message {:ended, running}.
  @spec begin(String.t()) :: {:ok, running :: reference(), Callback.t()} | :error
  def begin(id), do: ask({:begin, id}, :error)

  @doc false
  # After it, no message about the invocation comes any more.
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
    registered = Map.new(callbacks, &{&1.id, {registration, %{&1 | owner: owner}}})

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
      %{^id => {registration, callback}} ->
        running = Process.monitor(waiting)
        state = put_in(state.running[running], {registration, waiting})
        {:reply, {:ok, running, callback}, state}

      _no_such_callback ->
        {:reply, :error, state}
    end
  end

  def handle_call({:finished, running}, _from, state) do
    Process.demonitor(running, [:flush])
    {:reply, :ok, %{state | running: Map.delete(state.running, running)}}
  end

  def handle_call(:count, _from, state) do
    count = %{registered: map_size(state.callbacks), running: map_size(state.running)}
    {:reply, count, state}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    state = %{state | running: Map.delete(state.running, monitor)}
    {:noreply, ended(state, monitor)}
  end

  # Crash reports and :sys.get_status/1 show numbers: a function may have closed over anything, a key too.
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

  # `otherwise` if the server is not there, or ends meanwhile: then no function may be called any more.
  defp ask(request, otherwise) do
    GenServer.call(__MODULE__, request, :infinity)
  catch
    :exit, {_reason, {GenServer, :call, _call}} -> otherwise
  end
end
