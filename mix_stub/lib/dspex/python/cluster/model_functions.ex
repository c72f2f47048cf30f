defmodule DSPex.Python.Cluster.ModelFunctions do
  @moduledoc false

  # Keeps the functions of models that this node has configured for pools of other nodes: as long as the node is up, or until
  # it configures another model there.

  use GenServer

  # How long a node may take to say whether it still knows functions.
  @question_ms 500

  alias DSPex.Python.Callbacks
  alias DSPex.Python.Cluster.{Placement, Remote}
  alias DSPex.Python.Functions.{Callback, CallerContext, ModelRegistrations}
  alias DSPex.Python.Port.{Names, PendingCalls}
  alias DSPex.Python.Wire.Timeout

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
  def handle_call({:keep, {pool, _session_id} = key, registered}, _from, registrations) do
    replaced =
      for {_registration, callbacks} <- registrations.registered[key] || [], do: callbacks

    in_use? = in_use(pool, for(%{id: id} <- Enum.concat(replaced), do: id))
    {:reply, :ok, ModelRegistrations.put(registrations, key, registered.(), in_use?)}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{monitor: monitor} = registrations),
    do: {:noreply, ModelRegistrations.register_again(registrations)}

  def handle_info(:register_functions, registrations),
    do: {:noreply, ModelRegistrations.register_again(registrations)}

  def handle_info(:release_functions, registrations),
    do: {:noreply, ModelRegistrations.release(registrations)}

  def handle_info(_other, registrations), do: {:noreply, registrations}

  # Other nodes have registered proxies of the functions, for as long as their calls may call them.
  defp in_use(pool, ids) do
    of_this_node =
      for {_number, _owner, worker} <- Names.workers(pool),
          do: PendingCalls.until_ended(worker.connection.pending_calls)

    fn ->
      Enum.any?(of_this_node, & &1.()) or
        Enum.any?(List.delete(Placement.nodes(pool), node()), &registered?(&1, pool, ids))
    end
  end

  defp registered?(node, pool, ids) do
    request = %{pool: pool, question: {:registered?, ids}}
    Remote.ask(node, :about, request, Timeout.deadline(@question_ms)) == {:answer, {:ok, true}}
  end

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
