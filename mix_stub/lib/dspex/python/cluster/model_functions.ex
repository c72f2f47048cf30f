defmodule DSPex.Python.Cluster.ModelFunctions do
  @moduledoc false

  # Keeps the functions of models that this node has configured for pools of other nodes: as long as the node is up, or until
  # it configures another model there.

  use GenServer

  alias DSPex.Python.Callbacks
  alias DSPex.Python.Functions.{Callback, CallerContext, ModelRegistrations}

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Registers functions, before the model is configured.
  """
  @spec register([Callback.t()]) :: {Callbacks.registration() | nil, [Callback.t()]}
  def register([]), do: {nil, []}

  def register(callbacks) do
    callbacks = Callback.on_behalf(callbacks, CallerContext.current())
    {Callbacks.register(callbacks, Process.whereis(__MODULE__) || self()), callbacks}
  end

  @doc """
  Keeps them for a pool or its session, after the model is configured. They replace the earlier ones.
  """
  @spec keep(atom(), String.t() | nil, {Callbacks.registration() | nil, [Callback.t()]}) :: :ok
  def keep(pool, session_id, registered) do
    # In a function, so that no report prints what the functions have closed over.
    GenServer.call(__MODULE__, {:keep, {pool, session_id}, fn -> registered end})
  end

  @impl true
  def init(nil), do: {:ok, %ModelRegistrations{}}

  @impl true
  def handle_call({:keep, key, registered}, _from, registrations) do
    {registration, callbacks} = registered.()
    {:reply, :ok, ModelRegistrations.put(registrations, key, registration, callbacks)}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{monitor: monitor} = registrations),
    do: {:noreply, ModelRegistrations.register_again(registrations)}

  def handle_info(:register_functions, registrations),
    do: {:noreply, ModelRegistrations.register_again(registrations)}

  def handle_info(_other, registrations), do: {:noreply, registrations}

  # As DSPex.Python.Functions.CallbackRegistry: a function may have closed over a key.
  @doc false
  @impl {:format_status, 1} in GenServer.behaviour_info(:callbacks)
  def format_status(status) do
    Map.new(status, fn
      {:state, %ModelRegistrations{} = state} -> {:state, map_size(state.registered)}
      {:message, _message} -> {:message, :message}
      {:log, _events} -> {:log, []}
      other -> other
    end)
  end
end
