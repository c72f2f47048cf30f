defmodule DSPex.Python.Port.Log do
  @moduledoc false

  # Writes to Elixir's Logger what a pool's Python logs and prints:
  #
  #     {:L, dropped, [{level, python_logger, request_id | nil, text} | {level, python_logger, request_id | nil, text, caller}]}
  #
  # `caller` is what the call has brought of the metadata of Logger (DSPex.Python.Functions.CallerContext).
  #
  # This is a process of its own, because Logger blocks processes that log more than its backends can write, and the owner
  # of the port must not block. Frames that this process has no time for are dropped and counted.

  use GenServer

  require Logger

  alias DSPex.Python.Functions.CallerContext
  alias DSPex.Python.Port.Names

  # The most frames in the mailbox. A frame has at most about 70 kB, so they take a few MB.
  @max_waiting 32

  @levels [:debug, :info, :warning, :error, :critical]

  # Positions in the counters that the owner of the port and this process share.
  @waiting 1
  @dropped 2

  @doc false
  def start_link(pool) do
    counters = :counters.new(2, [])
    GenServer.start_link(__MODULE__, {pool, counters}, name: Names.via(:log, pool, counters))
  end

  @doc """
  Passes a frame with log entries of the pool's Python to the process that writes them; returns at once.
  """
  @spec take(atom(), binary()) :: :ok
  def take(pool, frame) do
    case Names.lookup(:log, pool) do
      {log, counters} ->
        if :counters.get(counters, @waiting) < @max_waiting do
          :counters.add(counters, @waiting, 1)
          send(log, {:frame, frame})
        else
          :counters.add(counters, @dropped, 1)
        end

        :ok

      # The process is being restarted.
      nil ->
        :ok
    end
  end

  @impl true
  def init(state), do: {:ok, state}

  @impl true
  def handle_info({:frame, frame}, {pool, counters} = state) do
    # Counted before the frame is written, so that the count is right even if writing fails.
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

  defp write_entry({level, logger, request_id, text}, pool),
    do: write_entry({level, logger, request_id, text, nil}, pool)

  defp write_entry({level, logger, request_id, text, caller}, pool)
       when level in @levels and is_binary(logger) and is_binary(text) do
    {_callers, metadata} = CallerContext.from_text(caller)
    metadata = Map.merge(metadata, %{pool: pool, python_logger: logger})

    metadata =
      if is_binary(request_id), do: Map.put(metadata, :request_id, request_id), else: metadata

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
