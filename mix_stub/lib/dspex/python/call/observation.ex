defmodule DSPex.Python.Call.Observation do
  @moduledoc false

  # Observes a call: emits its events (DSPex.Telemetry), and makes its trace. Python is asked for its spans only if an event of
  # calls or spans has a handler, or if the caller wants the trace.
  #
  # The calling process emits the two events of a call. If it ends before its call, DSPex.Python.Call.OpenCalls emits the second.

  alias DSPex.Python.Call.{CallOptions, OpenCalls, SpanEvents, Traces}
  alias DSPex.Python.Error
  alias DSPex.{Telemetry, Trace}

  @start [:dspex, :call, :start]
  @stop [:dspex, :call, :stop]
  @exception [:dspex, :call, :exception]
  @chunk [:dspex, :stream, :chunk]

  @enforce_keys [:started, :started_us, :traces, :metadata]
  defstruct [
    :started,
    :started_us,
    :traces,
    :metadata,
    :open,
    wanted: false,
    events?: false,
    kinds: [],
    level: nil,
    chunks: nil,
    part?: false,
    usage: nil
  ]

  @typedoc """
  A call that has begun; `nil` if nobody observes it.

  `wanted` is the option `:trace`, `kinds` are the kinds of spans with a handler, `level` is what Python is asked for, `chunks` whether the
  first piece of a stream has come (`nil`: nobody wants to know), `part?` whether this is a part of another call, and `usage` sums up what has come so far.
  """
  @type t :: %__MODULE__{} | nil

  @typedoc "What a call is about: `:module`, `:program`, `:session`."
  @type about :: %{optional(atom()) => term()}
  @type result :: {:ok, term()} | {:error, Error.t()}

  @doc """
  Runs `work`, which is a call that looks something up, and emits its events.
  """
  @spec span(atom(), CallOptions.t(), (... -> result())) :: result()
  # A question of another call.
  def span(_operation, %{counted?: false}, work), do: work.()

  def span(operation, options, work) do
    case Telemetry.handled_kinds([:call]) do
      [] ->
        work.()

      _handled ->
        call = started(operation, options, %{}, %{events?: true})
        finish(call, raising(call, work))
    end
  end

  @doc """
  Runs `work`, which is a call that executes something, with the options by which Python tells of it.
  """
  @spec run(atom(), CallOptions.t(), about(), (CallOptions.t(), t() -> result())) :: result()
  def run(operation, options, about, work) do
    case start(operation, options, about) do
      {nil, options} -> work.(options, nil)
      {call, options} -> finish(call, raising(call, fn -> work.(options, call) end))
    end
  end

  @doc """
  Observes a call that is a stream: of `{index, result}`, of other elements, and of `{:error, error}` if it has failed as a
  whole. `make` returns it, with options by which its parts are parts of this call.
  """
  @spec stream(atom(), CallOptions.t(), about(), (CallOptions.t() -> Enumerable.t())) ::
          Enumerable.t()
  def stream(operation, options, about, make) do
    Stream.flat_map([:begin], fn :begin ->
      {call, options} = start(operation, options, about)

      %{options | within: call}
      |> make.()
      |> Stream.transform(fn -> call end, &element/2, &last/1, &left/1)
    end)
  end

  defp element({:error, _error} = failed, call) do
    finish(call, failed)
    {[failed], :ended}
  end

  defp element({index, result}, %{level: level} = call) when is_integer(index) and level != nil do
    {[result], call} = items(call, [result], nil)
    {[{index, result}], call}
  end

  defp element(element, call), do: {[element], call}

  defp last(:ended), do: {[], :ended}

  defp last(call) do
    finish(call, {:ok, nil})
    {[], :ended}
  end

  defp left(:ended), do: :ok
  defp left(call), do: cancelled(call)

  @doc """
  Begins a call of the calling process, which must end it by `finish/2` or `cancelled/1`; returns the options for it too.
  """
  @spec start(atom(), CallOptions.t(), about()) :: {t(), CallOptions.t()}
  def start(operation, options, about) do
    wanted = options.python[:trace]
    kinds = Telemetry.handled_kinds(SpanEvents.kinds())

    cond do
      options.within != nil ->
        part = %{options.within | part?: true, open: nil}
        {part, with_trace(options, part)}

      not options.counted? ->
        {nil, options}

      true ->
        events? = Telemetry.handled_kinds([:call]) != []
        chunks = if Telemetry.handled?(@chunk), do: :none
        level = level(wanted, events? or kinds != [])

        if level == nil and chunks == nil do
          {nil, options}
        else
          observed = %{events?: events?, kinds: kinds, level: level, chunks: chunks}
          call = started(operation, options, about, Map.put(observed, :wanted, wanted))
          {call, with_trace(options, call)}
        end
    end
  end

  # Another value of the option is wrong; Python says so.
  defp level(true, _handled?), do: true
  defp level(metadata, _handled?) when metadata in [:metadata, "metadata"], do: "metadata"
  defp level(none, true) when none in [nil, false], do: "metadata"
  defp level(_none, _handled?), do: nil

  defp with_trace(options, %{level: nil}), do: options

  defp with_trace(options, call) do
    options
    |> CallOptions.put(:trace, call.level)
    |> CallOptions.put(:traceparent, Traces.traceparent(call.traces))
  end

  defp started(operation, options, about, observed) do
    started = System.monotonic_time()
    traces = Traces.new(options.python[:traceparent])
    metadata = metadata(operation, options, about, traces)

    call =
      struct!(
        %__MODULE__{
          started: started,
          # Not System.system_time/0, which the BEAM corrects slowly: Python's clock is the system's.
          started_us: :os.system_time(:microsecond),
          traces: traces,
          metadata: metadata
        },
        observed
      )

    if call.events? do
      # Before the event, so that each start has an end.
      open = OpenCalls.add(&emit_stop(call, &1))
      measurements = %{system_time: System.system_time(), monotonic_time: started}
      Telemetry.emit(@start, measurements, metadata)
      %{call | open: open}
    else
      call
    end
  end

  defp metadata(operation, options, about, traces) do
    python = options.python

    Map.merge(
      %{
        pool: options.pool,
        operation: operation,
        module: nil,
        program: nil,
        version: python[:version],
        session: python[:session_id],
        conversation: python[:conversation],
        request_id: python[:request_id],
        metadata: options.metadata,
        trace_id: traces.trace_id,
        span_id: traces.span_id,
        parent_id: traces.parent_id,
        telemetry_span_context: make_ref()
      },
      about
    )
  end

  defp raising(%{open: open} = call, work) do
    work.()
  catch
    kind, reason ->
      if call.events? and OpenCalls.remove(open) do
        failure = %{kind: kind, reason: reason, stacktrace: __STACKTRACE__}
        Telemetry.emit(@exception, ended(call), Map.merge(call.metadata, failure))
      end

      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc """
  Takes an event of a stream: emits the event of a piece of text, and those of the spans of an item.
  """
  @spec event(t(), map()) :: {map(), t()}
  def event(
        %{chunks: chunks} = call,
        %{"type" => "chunk", "field" => field, "text" => text} = event
      )
      when chunks != nil do
    measurements = %{bytes: byte_size(text), since_start: System.monotonic_time() - call.started}
    metadata = Map.merge(call.metadata, %{field: field, first?: chunks == :none})
    Telemetry.emit(@chunk, measurements, metadata)
    {event, %{call | chunks: :some}}
  end

  def event(%{level: level} = call, %{"type" => "result", "result" => result} = event)
      when level != nil do
    {[result], call} = items(call, [result], nil)
    {%{event | "result" => result}, call}
  end

  def event(call, event), do: {event, call}

  @doc """
  Ends a call with its result, which has its trace if the caller wants it.

  The result of Python has its spans in `{:ok, {:traced, value, spans}}`, and in the field `:trace` of an error.
  """
  @spec finish(t(), result()) :: result()
  def finish(nil, result), do: result

  def finish(call, result) do
    {value, term} = taken(result)
    spans = SpanEvents.emit(call, term)
    outcome = outcome(result)
    outer = if call.level, do: Traces.of_call(call, term, outcome)
    call = %{call | usage: add_usage(call.usage, spans)}
    {value, call} = with_traces(value, call, outer)
    unless call.part?, do: emit_end(call, outcome, outer)
    value
  end

  @doc """
  Ends a call that has been given up.
  """
  @spec cancelled(t()) :: :ok
  def cancelled(nil), do: :ok
  def cancelled(%{part?: true}), do: :ok
  def cancelled(call), do: emit_end(call, %{result: :cancelled, error: nil}, nil)

  defp taken({:ok, {:traced, value, term}}), do: {{:ok, value}, term}

  defp taken({:error, %Error{trace: %{} = term} = error}),
    do: {{:error, %{error | trace: nil}}, term}

  defp taken(result), do: {result, nil}

  # The value of a batch that was spread over workers has the traces of its items already.
  defp with_traces({:ok, list}, call, outer) when is_list(list) do
    {items, call} = items(call, list, outer)
    {{:ok, items}, call}
  end

  defp with_traces({:ok, %{"results" => results} = report}, call, outer) when is_list(results) do
    {items, call} = items(call, results, outer)
    report = %{report | "results" => items}

    {{:ok,
      if(keep?(call), do: Map.put(report, "trace", Traces.joined(outer, results)), else: report)},
     call}
  end

  defp with_traces({:ok, value}, call, outer),
    do: {{:ok, if(keep?(call), do: Traces.put(value, outer), else: value)}, call}

  defp with_traces({:error, error}, call, outer),
    do: {{:error, if(keep?(call), do: %{error | trace: outer}, else: error)}, call}

  # The items of a streamed batch come before its end.
  defp items(call, items, outer) do
    Enum.map_reduce(items, call, fn item, call ->
      case Traces.pop(item) do
        {item, nil} ->
          {if(outer && keep?(call), do: Traces.put(item, outer), else: item), call}

        # Its events have been emitted by the part of the batch.
        {item, %Trace{} = trace} ->
          call = %{call | usage: add_usage(call.usage, trace.spans)}
          {Traces.put(item, if(keep?(call), do: Traces.within(outer, trace))), call}

        {item, term} ->
          spans = SpanEvents.emit(call, term)

          trace =
            if keep?(call), do: Traces.within(outer || Traces.of_call(call, term, nil), term)

          {Traces.put(item, trace), %{call | usage: add_usage(call.usage, spans)}}
      end
    end)
  end

  # A part keeps the traces for the whole.
  defp keep?(%{wanted: wanted, part?: part?}),
    do: part? or wanted in [true, :metadata, "metadata"]

  defp emit_end(%{events?: false}, _outcome, _trace), do: :ok

  defp emit_end(call, outcome, trace) do
    if OpenCalls.remove(call.open), do: emit_stop(call, outcome, trace)
    :ok
  end

  # From DSPex.Python.Call.OpenCalls.
  defp emit_stop(call, :cancelled), do: emit_stop(call, %{result: :cancelled, error: nil}, nil)

  defp emit_stop(call, outcome, trace) do
    found = if trace, do: Traces.python_times(trace), else: %{}
    python = Map.get(found, :measurements, %{})
    usage = call.usage || %{}
    measurements = call |> ended() |> Map.merge(python) |> Map.merge(known(usage))

    metadata =
      Map.merge(call.metadata, %{
        result: outcome.result,
        stage: outcome.error && outcome.error.stage,
        worker: found[:worker],
        model: usage[:model],
        provider: usage[:provider],
        usage_known?: map_size(usage) > 0
      })

    Telemetry.emit(@stop, measurements, metadata)
  end

  defp ended(call) do
    now = System.monotonic_time()
    %{duration: now - call.started, monotonic_time: now}
  end

  defp outcome({:ok, _value}), do: %{result: :ok, error: nil}
  defp outcome({:error, error}), do: %{result: error.kind, error: error}

  # Without spans of Python nothing is known.
  defp add_usage(usage, []), do: usage

  defp add_usage(usage, spans) do
    new = Trace.usage(%Trace{id: "", spans: spans})
    last = Enum.find(Enum.reverse(spans), &(&1["kind"] == "model" and &1["status"] == "ok"))
    answered = (last && last["attributes"]) || %{}

    (usage || %{})
    |> Map.merge(new, fn
      _name, one, other when is_number(one) and is_number(other) -> one + other
      _name, _one, _other -> nil
    end)
    |> Map.put(:model, answered["model"] || usage[:model])
    |> Map.put(:provider, answered["provider"] || usage[:provider])
  end

  defp known(usage),
    do: for({name, value} <- usage, is_number(value), into: %{}, do: {name, value})
end
