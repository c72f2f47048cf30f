defmodule DSPex.Python.Call.OpenCalls do
  @moduledoc false

  # Ends the calls of processes that have ended. A process that is killed cannot say that its call is over.
  #
  # Whoever takes a call out of the table ends it: the process that made it, or this process. `:ets.take/2` is atomic, so that
  # happens once. No process is monitored, which would cost two messages for each call: while calls are open, this
  # process looks every 20 ms which of them belong to a process that has ended. It sleeps when there have been none for a
  # second, and always if no event has a handler, because no call is added then.

  use GenServer

  @interval_ms 20
  @idle_looks 50
  # The position in the atomics: whether this process looks.
  @looking 1

  @typedoc "An open call; `nil` if this process is not running."
  @type open :: {:ets.tid(), reference()} | nil

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Adds a call of the calling process. `cancelled` is called with `:cancelled` if that process ends before its call.
  """
  @spec add((:cancelled -> term())) :: open()
  def add(cancelled) do
    {table, looking} = :persistent_term.get(__MODULE__)
    key = make_ref()
    :ets.insert(table, {key, self(), cancelled})

    # Reading is cheaper than writing.
    if :atomics.get(looking, @looking) == 0 and :atomics.exchange(looking, @looking, 1) == 0,
      do: send(__MODULE__, :look)

    {table, key}
  rescue
    # The application :dspex is not running.
    ArgumentError -> nil
  end

  @doc """
  Removes a call; `false` if it has been removed, by this process or by another.
  """
  @spec remove(open()) :: boolean()
  def remove(nil), do: true

  def remove({table, key}) do
    :ets.take(table, key) != []
  rescue
    # This process has ended meanwhile, and ends no call any more.
    ArgumentError -> true
  end

  @impl true
  def init(nil) do
    table = :ets.new(__MODULE__, [:public, write_concurrency: true])
    looking = :atomics.new(1, signed: false)
    :persistent_term.put(__MODULE__, {table, looking})
    {:ok, %{table: table, looking: looking, idle_looks: 0}}
  end

  @impl true
  def handle_info(:look, %{table: table, looking: looking} = state) do
    for {key, pid} <- :ets.select(table, [{{:"$1", :"$2", :_}, [], [{{:"$1", :"$2"}}]}]),
        not Process.alive?(pid),
        [{^key, ^pid, cancelled}] <- [:ets.take(table, key)],
        do: cancelled.(:cancelled)

    idle_looks = if :ets.info(table, :size) == 0, do: state.idle_looks + 1, else: 0

    if idle_looks >= @idle_looks do
      :atomics.put(looking, @looking, 0)
      # A call that was added just now has not asked this process to look.
      if :ets.info(table, :size) > 0 and :atomics.exchange(looking, @looking, 1) == 0,
        do: send(self(), :look)

      {:noreply, %{state | idle_looks: 0}}
    else
      Process.send_after(self(), :look, @interval_ms)
      {:noreply, %{state | idle_looks: idle_looks}}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}
end
