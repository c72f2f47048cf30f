defmodule DSPex.Python.Pool.Queue do
  @moduledoc false

  # The callers that wait because each worker of a pool has as many calls in flight as it may. They take turns by the process
  # for which they work, so thousands of calls of one delay another by one. At most `max_queue` calls wait; a further one is
  # refused at once, and so is one whose deadline would be over before its turn.
  #
  # While nobody waits, no caller asks this process: it reads the number of waiting calls, which is in an atomic.

  use GenServer

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Connection, Names, PoolOptions}
  alias DSPex.Python.Pool.{Messages, Routing}
  alias DSPex.Python.Wire.Timeout
  alias DSPex.Telemetry

  # How often the queue looks for room of which nobody has told it, such as that of a caller that was killed.
  @look_ms 20
  # How often the rate of calls is measured, and the weight of the last measurement.
  @rate_ms 250
  @recent 0.5

  # How many calls of functions a worker takes beyond `max_in_flight`: half of what Python does, see Interpreter.
  @nested 512

  # Positions in the atomics.
  @waiting 1
  # Calls that begin in a thousand seconds; 0: not known.
  @rate 2
  # 1: the pool is being stopped.
  @stopping 3
  # Calls whose turn has come, and that have not begun.
  @granted 4

  @enforce_keys [:pool, :size, :max_in_flight, :max_queue, :counters]
  defstruct @enforce_keys ++
              [
                # caller => its waiting calls, in order
                calls: %{},
                # the callers, in the order of their turns
                turns: :queue.new(),
                # monitor of the waiting process => call
                waiting: %{},
                # tag => {monitor, slot}: calls that may begin, and have not yet
                granted: %{},
                begun: 0,
                measured_at: nil,
                looking?: false,
                # when the pool stops, if it is being stopped
                stops_at: nil
              ]

  @doc """
  Makes the counters of a pool's queue.
  """
  @spec counters() :: :atomics.atomics_ref()
  def counters, do: :atomics.new(4, signed: false)

  @doc false
  def start_link({%PoolOptions{name: pool} = options, counters}),
    do: GenServer.start_link(__MODULE__, {options, counters}, name: Names.via(:queue, pool))

  @doc """
  Tells whether a call of work has to wait: the worker has no room, or others wait already.
  """
  @spec full?(Connection.t()) :: boolean()
  def full?(%Connection{waiting: counters} = connection) do
    (counters != nil and :atomics.get(counters, @waiting) > 0) or
      (Connection.in_flight(connection) || 0) >= connection.max_in_flight
  end

  @doc """
  Tells whether the worker has room for a call that a function makes for a call in flight, which need not wait.
  """
  @spec room_for_nested?(Connection.t()) :: boolean()
  def room_for_nested?(%Connection{} = connection),
    do: (Connection.in_flight(connection) || 0) < connection.max_in_flight + @nested

  @doc """
  Tells whether the pool is being stopped.
  """
  @spec stopping?(:atomics.atomics_ref()) :: boolean()
  def stopping?(counters), do: :atomics.get(counters, @stopping) == 1

  @doc """
  Notes that the pool is being stopped. Of the waiting calls, those are refused that would not begin before `stops_at`.
  """
  @spec stop(atom(), :atomics.atomics_ref(), integer()) :: :ok
  def stop(pool, counters, stops_at) do
    :atomics.put(counters, @stopping, 1)
    tell(pool, {:stop, stops_at})
    :ok
  end

  @doc """
  Refuses all waiting calls, since the pool is stopped now.
  """
  @spec refuse_all(atom()) :: :ok
  def refuse_all(pool) do
    with {queue, _value} <- Names.lookup(:queue, pool), do: GenServer.call(queue, :refuse_all)
    :ok
  catch
    # It has just ended, which ends the waiting of its calls too.
    :exit, _reason -> :ok
  end

  @doc """
  Counts the waiting calls.
  """
  @spec waiting(:atomics.atomics_ref()) :: non_neg_integer()
  def waiting(counters), do: :atomics.get(counters, @waiting)

  @doc """
  Counts the waiting calls, and those whose turn has come and that have not begun yet.
  """
  @spec not_begun(:atomics.atomics_ref()) :: non_neg_integer()
  def not_begun(counters), do: waiting(counters) + :atomics.get(counters, @granted)

  @doc """
  Tells the queue that a call of work has ended.
  """
  @spec ended(atom(), Connection.t()) :: :ok
  def ended(pool, %Connection{waiting: counters}) do
    if counters != nil and :atomics.get(counters, @waiting) > 0, do: tell(pool, :look)
    :ok
  end

  @doc """
  Waits until the calling process may make a call, for `caller`; returns the slot, and the function to call as soon as
  the call begins.
  """
  @spec await(atom(), Connection.t(), Routing.t(), term(), timeout(), Timeout.deadline()) ::
          {:ok, pos_integer(), (... -> term())} | {:error, Error.t()} | :restarting
  def await(pool, %Connection{} = connection, route, caller, timeout, deadline) do
    # Without a message to the queue, which may be busy.
    if connection.waiting != nil and
         :atomics.get(connection.waiting, @waiting) >= connection.max_queue do
      {:error, refused(pool, connection.waiting, "#{connection.max_queue} calls wait already")}
    else
      case Names.lookup(:queue, pool) do
        {queue, _value} -> wait(queue, pool, connection, {route, caller}, timeout, deadline)
        nil -> :restarting
      end
    end
  end

  defp wait(queue, pool, connection, {route, caller}, timeout, deadline) do
    tag = make_ref()
    monitor = Process.monitor(queue)
    send(queue, {:wait, tag, self(), caller, slot(route, connection.size), deadline})

    result =
      receive do
        {^tag, {:go, slot}} ->
          {:ok, slot, fn -> send(queue, {:begun, tag}) end}

        {^tag, :full} ->
          {:error,
           refused(pool, connection.waiting, "#{connection.max_queue} calls wait already")}

        {^tag, :stopping} ->
          {:error, Messages.stopping(pool)}

        {^tag, :late} ->
          {:error, refused(pool, connection.waiting, "its turn would come after its deadline")}

        {:DOWN, ^monitor, :process, _queue, _reason} ->
          :restarting
      after
        Timeout.remaining(deadline, 0) ->
          send(queue, {:gave_up, tag, self()})
          discard(tag)
          {:error, Error.timeout(timeout, "queue", "every worker of the pool is busy")}
      end

    Process.demonitor(monitor, [:flush])
    result
  end

  # The queue may have let the call go at the last moment. Its place is given back by the message `:gave_up`.
  defp discard(tag) do
    receive do
      {^tag, _late} -> :ok
    after
      0 -> :ok
    end
  end

  defp slot({:home, key}, size), do: Routing.slot_of(key, size)
  defp slot({:slot, slot}, _size), do: slot
  defp slot(_any, _size), do: :any

  defp refused(pool, counters, why) do
    seconds = if counters, do: seconds(:atomics.get(counters, @waiting), rate(counters)), else: 1

    Error.new(
      :overloaded,
      "pool #{inspect(pool)} is overloaded: #{why}; try again in #{seconds} s, or give it more workers (size), or a larger " <>
        "max_in_flight or max_queue",
      %{"retry_after" => seconds}
    )
  end

  defp rate(counters), do: :atomics.get(counters, @rate) / 1_000

  defp seconds(_calls, rate) when rate == 0, do: 1
  defp seconds(calls, rate), do: max(1, ceil(calls / rate))

  defp tell(pool, message) do
    with {queue, _value} <- Names.lookup(:queue, pool), do: send(queue, message)
  end

  # The process -------------------------------------------------------------------------------------------------------

  @impl true
  def init({%PoolOptions{} = options, counters}) do
    :atomics.put(counters, @waiting, 0)
    :atomics.put(counters, @granted, 0)

    {:ok,
     %__MODULE__{
       pool: options.name,
       size: options.size,
       max_in_flight: options.max_in_flight,
       max_queue: options.max_queue,
       counters: counters,
       measured_at: now()
     }}
  end

  @impl true
  def handle_call(:refuse_all, _from, state), do: {:reply, :ok, refuse(state, in_turn(state))}

  @impl true
  def handle_info({:wait, tag, pid, caller, slot, deadline}, state) do
    cond do
      map_size(state.waiting) >= state.max_queue ->
        send(pid, {tag, :full})
        {:noreply, state}

      too_late?(state, caller, deadline) ->
        send(pid, {tag, :late})
        {:noreply, state}

      true ->
        call = %{tag: tag, pid: pid, caller: caller, slot: slot}
        {:noreply, state |> add(Process.monitor(pid), call) |> grant() |> look_later()}
    end
  end

  def handle_info({:stop, stops_at}, state),
    do: {:noreply, refuse_late(%{state | stops_at: stops_at})}

  def handle_info({:begun, tag}, state), do: {:noreply, state |> begun(tag) |> grant()}

  def handle_info({:gave_up, tag, pid}, state) do
    case Enum.find(state.waiting, fn {_monitor, call} -> call.tag == tag and call.pid == pid end) do
      {monitor, _call} -> {:noreply, drop(state, monitor)}
      nil -> {:noreply, state |> forget_grant(tag) |> grant()}
    end
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    if is_map_key(state.waiting, monitor) do
      {:noreply, drop(state, monitor)}
    else
      granted = Enum.find(state.granted, fn {_tag, {other, _slot}} -> other == monitor end)
      state = if granted, do: forget_grant(state, elem(granted, 0)), else: state
      {:noreply, grant(state)}
    end
  end

  def handle_info(:look, state), do: {:noreply, grant(state)}

  def handle_info(:look_again, state) do
    state = %{state | looking?: false} |> measured() |> grant() |> refuse_late() |> look_later()

    Telemetry.emit([:dspex, :pool, :queue], %{length: map_size(state.waiting)}, %{
      pool: state.pool
    })

    {:noreply, state}
  end

  def handle_info(_late, state), do: {:noreply, state}

  defp add(state, monitor, call) do
    :atomics.add(state.counters, @waiting, 1)
    mine = Map.get(state.calls, call.caller)
    calls = Map.put(state.calls, call.caller, :queue.in(monitor, mine || :queue.new()))
    turns = if mine, do: state.turns, else: :queue.in(call.caller, state.turns)
    %{state | calls: calls, turns: turns, waiting: Map.put(state.waiting, monitor, call)}
  end

  # The monitor stays among the calls of its caller until its turn comes.
  defp drop(state, monitor) do
    Process.demonitor(monitor, [:flush])
    :atomics.sub(state.counters, @waiting, 1)
    %{state | waiting: Map.delete(state.waiting, monitor)}
  end

  # Lets as many calls begin as there is room for, one of each caller in turn.
  defp grant(%{waiting: waiting} = state) when map_size(waiting) == 0,
    do: %{state | calls: %{}, turns: :queue.new()}

  defp grant(state), do: grant(state, room(state), :queue.len(state.turns))

  # `callers` is how many callers may still have a call that can begin.
  defp grant(state, room, callers) when callers == 0 or room == %{}, do: state

  defp grant(state, room, callers) do
    {{:value, caller}, turns} = :queue.out(state.turns)
    {call, mine} = next(Map.fetch!(state.calls, caller), state.waiting)
    state = %{state | turns: turns}

    case call && fitting(call, room) do
      nil ->
        state |> put_back(caller, mine) |> grant(room, callers - 1)

      slot ->
        {{:value, monitor}, rest} = :queue.out(mine)
        state = state |> let_go(monitor, call, slot) |> put_back(caller, rest)

        room =
          if room[slot] == 1, do: Map.delete(room, slot), else: %{room | slot => room[slot] - 1}

        grant(state, room, :queue.len(state.turns))
    end
  end

  # Returns the caller's next call that still waits, and the queue that begins with it.
  defp next(mine, waiting) do
    case :queue.peek(mine) do
      {:value, monitor} when is_map_key(waiting, monitor) -> {Map.fetch!(waiting, monitor), mine}
      {:value, _given_up} -> mine |> :queue.drop() |> next(waiting)
      :empty -> {nil, mine}
    end
  end

  defp put_back(state, caller, mine) do
    if :queue.is_empty(mine),
      do: %{state | calls: Map.delete(state.calls, caller)},
      else: %{
        state
        | calls: Map.put(state.calls, caller, mine),
          turns: :queue.in(caller, state.turns)
      }
  end

  defp fitting(%{slot: :any}, room), do: room |> Enum.max_by(&elem(&1, 1)) |> elem(0)
  defp fitting(%{slot: slot}, room), do: if(is_map_key(room, slot), do: slot)

  defp let_go(state, monitor, call, slot) do
    # In this order, so that the call is always counted.
    :atomics.add(state.counters, @granted, 1)
    :atomics.sub(state.counters, @waiting, 1)
    send(call.pid, {call.tag, {:go, slot}})

    %{
      state
      | waiting: Map.delete(state.waiting, monitor),
        granted: Map.put(state.granted, call.tag, {monitor, slot}),
        begun: state.begun + 1
    }
  end

  defp begun(state, tag), do: forget_grant(state, tag)

  defp forget_grant(state, tag) do
    case Map.pop(state.granted, tag) do
      {{monitor, _slot}, granted} ->
        Process.demonitor(monitor, [:flush])
        :atomics.sub(state.counters, @granted, 1)
        %{state | granted: granted}

      {nil, _granted} ->
        state
    end
  end

  # How many calls each slot has room for; slots without room are missing, and silent ones unless all are silent.
  defp room(state) do
    granted = Enum.frequencies_by(state.granted, fn {_tag, {_monitor, slot}} -> slot end)

    ready =
      for slot <- 1..state.size,
          %Connection{port: port} = connection when port != nil <- [
            Connection.of(state.pool, slot)
          ],
          do: {slot, connection}

    heard = Enum.reject(ready, fn {_slot, connection} -> Connection.silent?(connection) end)

    for {slot, connection} <- if(heard == [], do: ready, else: heard),
        in_flight = Connection.in_flight(connection),
        in_flight != nil,
        free = state.max_in_flight - in_flight - Map.get(granted, slot, 0),
        free > 0,
        into: %{},
        do: {slot, free}
  end

  defp look_later(%{looking?: false, waiting: waiting} = state) when map_size(waiting) > 0 do
    Process.send_after(self(), :look_again, @look_ms)
    %{state | looking?: true}
  end

  defp look_later(state), do: state

  # The rate at which calls begin while others wait, which is how fast the workers answer.
  defp measured(state) do
    elapsed_ms = now() - state.measured_at

    if elapsed_ms < @rate_ms do
      state
    else
      latest = state.begun * 1_000 / elapsed_ms
      known = rate(state.counters)
      # A pause in which nobody waited says nothing.
      idle? = elapsed_ms > 4 * @rate_ms
      rate = if known == 0 or idle?, do: latest, else: @recent * latest + (1 - @recent) * known
      :atomics.put(state.counters, @rate, round(rate * 1_000))
      %{state | begun: 0, measured_at: now()}
    end
  end

  # Whether a call of `caller` would begin only after its deadline, as far as is known.
  defp too_late?(state, caller, deadline) do
    rate = rate(state.counters)

    if rate == 0 or deadline == :infinity do
      false
    else
      callers = max(map_size(state.calls), 1)
      own = :queue.len(Map.get(state.calls, caller, :queue.new()))
      ahead = min(map_size(state.waiting), (own + 1) * callers)
      ahead / rate * 1_000 > Timeout.remaining(deadline, 0)
    end
  end

  # Refuses the calls that would begin only after the pool has stopped, as far as is known.
  defp refuse_late(%{stops_at: nil} = state), do: state

  defp refuse_late(state) do
    case rate(state.counters) do
      rate when rate == 0 ->
        state

      rate ->
        begin = max(0, ceil(rate * (state.stops_at - now()) / 1_000))
        refuse(state, state |> in_turn() |> Enum.drop(begin))
    end
  end

  # The monitors of the waiting calls, in the order in which they would begin if each had room.
  defp in_turn(state) do
    for {caller, turn} <- Enum.with_index(:queue.to_list(state.turns)),
        {monitor, place} <- state.calls |> Map.fetch!(caller) |> waiting_calls(state.waiting) do
      {place, turn, monitor}
    end
    |> Enum.sort()
    |> Enum.map(&elem(&1, 2))
  end

  defp waiting_calls(calls, waiting),
    do: calls |> :queue.to_list() |> Enum.filter(&is_map_key(waiting, &1)) |> Enum.with_index()

  defp refuse(state, monitors) do
    Enum.reduce(monitors, state, fn monitor, state ->
      %{pid: pid, tag: tag} = Map.fetch!(state.waiting, monitor)
      send(pid, {tag, :stopping})
      drop(state, monitor)
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
