defmodule DSPex.Python.Log do
  @moduledoc false

  # What a pool's Python logs and prints, for Elixir's Logger:
  #
  #     {:L, dropped, [{level, python_logger, request_id | nil, text}]}
  #
  # A process of its own, because Logger makes those wait who log more than its backends can write, and the owner of the
  # port must not wait. What this process has no time for is dropped and counted.

  use GenServer

  require Logger

  # Frames that wait here; each has at most some 70 kB, so that they take a few MB.
  @max_waiting 32

  @levels [:debug, :info, :warning, :error, :critical]

  # In the counters that the owner of the port and this process share.
  @waiting 1
  @dropped 2

  @doc false
  def start_link({pool, registry}) do
    counters = :counters.new(2, [])

    GenServer.start_link(__MODULE__, {pool, counters},
      name: {:via, Registry, {registry, {:log, pool}, counters}}
    )
  end

  @doc """
  Takes a frame of the pool's Python that holds entries; returns at once.
  """
  @spec take(Registry.registry(), atom(), binary()) :: :ok
  def take(registry, pool, frame) do
    case Registry.lookup(registry, {:log, pool}) do
      [{log, counters}] ->
        if :counters.get(counters, @waiting) < @max_waiting do
          :counters.add(counters, @waiting, 1)
          send(log, {:frame, frame})
        else
          :counters.add(counters, @dropped, 1)
        end

        :ok

      # It is just being restarted.
      [] ->
        :ok
    end
  end

  @impl true
  def init(state), do: {:ok, state}

  @impl true
  def handle_info({:frame, frame}, {pool, counters} = state) do
    # Before the frame is written: if that fails, it does not wait any more either.
    :counters.sub(counters, @waiting, 1)
    write(frame, pool)
    tell_dropped_frames(counters, pool)
    {:noreply, state}
  end

  defp write(frame, pool) do
    case :erlang.binary_to_term(frame, [:safe]) do
      {:L, dropped, entries} when is_integer(dropped) and is_list(entries) ->
        if dropped > 0,
          do: warn(pool, "python logged faster than it could be read; lost entries: #{dropped}")

        Enum.each(entries, &write_entry(&1, pool))

      _other ->
        warn(pool, "dropped log entries of python that have another form")
    end
  rescue
    ArgumentError -> warn(pool, "dropped log entries of python that are no term")
  end

  defp write_entry({level, logger, request_id, text}, pool)
       when level in @levels and is_binary(logger) and is_binary(text) do
    metadata = [pool: pool, python_logger: logger]

    metadata =
      if is_binary(request_id), do: [{:request_id, request_id} | metadata], else: metadata

    Logger.bare_log(level, text, metadata)
  end

  defp write_entry(_entry, pool),
    do: warn(pool, "dropped a log entry of python that has another form")

  defp tell_dropped_frames(counters, pool) do
    case :counters.get(counters, @dropped) do
      0 ->
        :ok

      dropped ->
        :counters.sub(counters, @dropped, dropped)

        warn(
          pool,
          "python logged faster than Logger writes; lost batches of entries: #{dropped}"
        )
    end
  end

  defp warn(pool, message), do: Logger.warning("pool #{inspect(pool)}: #{message}", pool: pool)
end
