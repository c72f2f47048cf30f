defmodule DSPex.Python.Call.EventStream do
  @moduledoc false

  # Makes a lazy stream of the events of one call that runs in Python. Three processes take part:
  #
  #     the reader   enumerates the stream; gets messages from the relay only, and acknowledges events to Python
  #     the relay    gets Python's events and the call's answer; ends with the reader
  #     the caller   waits for the call's answer, linked to the relay; its end cancels the call
  #
  # The relay keeps the reader's mailbox clean: when a stream is halted, the relay ends first, and then all that it has
  # sent can be removed. No link leads to the reader, which may trap exits.
  #
  # The call is the reader's: the functions that it brings run on the reader's behalf, and the reader emits its telemetry
  # events, whether it takes the result or halts the stream.

  alias DSPex.Python.Call.{CallOptions, Observation}
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Functions.CallerContext

  @default_buffer 64
  @max_buffer 10_000
  # An acknowledgement takes a millisecond. A Python that does not answer it ends the call anyway.
  @ack_timeout 5_000

  @enforce_keys [:relay, :monitor, :ref, :pool, :observed, :ack_every]
  defstruct [
    :relay,
    :monitor,
    :ref,
    :pool,
    :observed,
    :ack_every,
    :worker,
    taken: 0,
    ending?: false
  ]

  @typedoc "Begins the call for its events and its trace, in the reader; returns its options."
  @type observe :: (... -> {Observation.t(), CallOptions.t()})

  @typedoc "Makes the call. Takes its options, the pid and the reference for Python's events, and the reader's context."
  @type call ::
          (CallOptions.t(), pid(), reference(), CallerContext.t() ->
             {:ok, term()} | {:error, Error.t()})

  @doc """
  Returns the stream of a call: `{:event, map}` for each event, at last the call's result.

  `call` runs in a process of its own. It begins when the first element is requested, and is killed when the stream is halted.
  """
  @spec new(Cluster.pool(), observe(), pos_integer(), call()) :: Enumerable.t()
  def new(pool, observe, buffer, call) do
    Stream.resource(fn -> start(pool, observe, buffer, call) end, &next/1, &halt/1)
  end

  @doc """
  Returns the limit for unacknowledged events, the option `:buffer`; raises for a wrong value.
  """
  @spec buffer!(map()) :: pos_integer()
  def buffer!(options) do
    case Map.get(options, :buffer, @default_buffer) do
      buffer when is_integer(buffer) and buffer in 1..@max_buffer ->
        buffer

      other ->
        raise ArgumentError, "expected :buffer from 1 to #{@max_buffer}, got #{inspect(other)}"
    end
  end

  @doc """
  Tells the stream which worker runs its call, and gets the acknowledgements.
  """
  @spec runs_in(pid(), reference(), Cluster.worker()) :: term()
  def runs_in(relay, ref, worker), do: send(relay, {ref, :worker, worker})

  @doc """
  Ends the call of the stream that `pid` reads. That process gets the events that have come, and exits with `:shutdown`.
  """
  @spec shut_down(pid()) :: term()
  def shut_down(pid), do: send(pid, {__MODULE__, :shut_down})

  defp start(pool, observe, buffer, call) do
    reader = self()
    ref = make_ref()
    context = CallerContext.current()
    {observed, options} = observe.()
    call = &call.(options, &1, &2, &3)
    {relay, monitor} = spawn_monitor(fn -> relay(reader, ref, context, call) end)

    %__MODULE__{
      relay: relay,
      monitor: monitor,
      ref: ref,
      pool: pool,
      observed: observed,
      # Half of the buffer, so that the next events come while these are acknowledged.
      ack_every: div(buffer + 1, 2)
    }
  end

  defp relay(reader, ref, context, call) do
    CallerContext.adopt(context)
    Process.monitor(reader)
    relay = self()

    spawn_link(fn ->
      CallerContext.adopt(context)
      send(relay, {ref, :result, call.(relay, ref, context)})
    end)

    relay_on(reader, ref)
  end

  defp relay_on(reader, ref) do
    receive do
      {:dspex_stream, ^ref, event} ->
        send(reader, {ref, {:event, event}})
        relay_on(reader, ref)

      {^ref, :worker, worker} ->
        send(reader, {ref, {:worker, worker}})
        relay_on(reader, ref)

      # All events have come already: the owner of the port sends them before the answer.
      {^ref, :result, result} ->
        send(reader, {ref, {:result, result}})

      {:DOWN, _monitor, :process, ^reader, _reason} ->
        # Ends the linked process too.
        exit(:shutdown)
    end
  end

  defp next(:ended), do: {:halt, :ended}

  defp next(%{ending?: true, ref: ref} = state) do
    receive do
      {^ref, {:event, event}} ->
        {event, observed} = Observation.event(state.observed, event)
        {[{:event, event}], %{state | observed: observed}}
    after
      0 -> exit(:shutdown)
    end
  end

  defp next(%{ref: ref, monitor: monitor} = state) do
    receive do
      {^ref, {:event, event}} ->
        {event, observed} = Observation.event(state.observed, event)
        {[{:event, event}], taken(%{state | observed: observed})}

      {^ref, {:worker, worker}} ->
        next(%{state | worker: worker})

      {^ref, {:result, result}} ->
        end_relay(state)
        flush(ref)
        {[Observation.finish(state.observed, result)], :ended}

      {__MODULE__, :shut_down} ->
        end_relay(state)
        {[], %{state | ending?: true}}

      {:DOWN, ^monitor, :process, _relay, reason} ->
        error = Error.new(:internal, "the stream has ended: #{Exception.format_exit(reason)}")
        {[Observation.finish(state.observed, {:error, error})], :ended}
    end
  end

  defp taken(%{taken: taken, ack_every: ack_every} = state) when taken + 1 < ack_every,
    do: %{state | taken: taken + 1}

  defp taken(state) do
    # An error here is ignored: the call itself returns an error then.
    args = [state.ref, state.taken + 1]

    _answer =
      Cluster.call(state.pool, :stream_ack, args, @ack_timeout, route: {:worker, state.worker})

    %{state | taken: 0}
  end

  defp halt(:ended), do: :ok
  # The process that reads it exits.
  defp halt(%{ending?: true}), do: :ok

  defp halt(%{ref: ref} = state) do
    end_relay(state)
    ref |> unread(state.observed) |> Observation.cancelled()
    flush(ref)
  end

  # What Python has answered was paid, although nobody reads it.
  defp unread(_ref, nil), do: nil

  defp unread(ref, observed) do
    receive do
      {^ref, {:event, event}} -> unread(ref, Observation.unread_event(observed, event))
      {^ref, {:result, result}} -> unread(ref, Observation.unread_result(observed, result))
    after
      0 -> observed
    end
  end

  defp end_relay(%{relay: relay, monitor: monitor}) do
    Process.exit(relay, :kill)

    receive do
      {:DOWN, ^monitor, :process, _relay, _reason} -> :ok
    end
  end

  defp flush(ref) do
    receive do
      {^ref, _message} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
