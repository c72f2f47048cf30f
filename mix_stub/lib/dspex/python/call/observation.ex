defmodule DSPex.Python.Call.Observation do
  @moduledoc false

  # Observes a call: emits its events (DSPex.Telemetry), and makes its trace. Python is asked for its spans only if an event of
  # calls or spans has a handler, or if the caller wants the trace.
  #
  # The calling process emits the two events of a call. If it ends before its call, DSPex.Python.Call.OpenCalls emits the second.
  #
  # A call has a span in OpenTelemetry too, if the application has a tracer, or if Python exports its own spans: then it
  # exports that of the call for the caller.

  alias DSPex.Python.Call.{CallOptions, CallUsage, OpenCalls, OpenTelemetry, SpanEvents, Traces}
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Pool.Settings
  alias DSPex.{Telemetry, Trace}

  @start [:dspex, :call, :start]
  @stop [:dspex, :call, :stop]
  @exception [:dspex, :call, :exception]
  @chunk [:dspex, :stream, :chunk]
  @in_pieces [:stream_module, :stream_program]
  @batches [
    :execute_batch,
    :stream_batch,
    :execute_program_batch,
    :stream_program_batch,
    :evaluate_program,
    :stream_evaluate
  ]
  @kinds [:call | SpanEvents.kinds()]
  # Long enough for a Python that takes the place of one that has died.
  @export_timeout 10_000

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
    usage: nil,
    exports?: false,
    redacts?: false,
    otel: nil,
    counted?: false,
    failed_items: nil,
    spans: []
  ]

  @typedoc """
  A call that has begun; `nil` if nobody observes it.

  `wanted` is the option `:trace`, `kinds` are the kinds of spans with a handler, `level` is what Python is asked for, `chunks` whether the
  first piece of a stream has come (`nil`: there are none, or nobody wants to know), `part?` whether this is a part of another call, and `usage` sums up what has come so far. `exports?` is
  whether Python exports spans, `redacts?` whether the application redacts texts, `otel` the span in the application's tracer, `spans` are those that have come for it, `failed_items` how many items of a batch have failed, and `counted?` is whether the items of the final
  report have come before it.
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
        started = System.monotonic_time()
        traces = Traces.new(nil)
        call = named(operation, options, %{}, started, traces)
        call = opened(%{call | events?: true})
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
      {call, options} -> finish(call, raising(call, fn -> within(call, options, work) end))
    end
  end

  defp within(call, options, work),
    do: OpenTelemetry.within(call.otel, fn -> work.(options, call) end)

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

  # An evaluation in several parts, whose examples have come before.
  defp element({:ok, %{results: _results}} = evaluation, %{level: level} = call)
       when level != nil do
    outer = if keep?(call), do: Traces.of_call(call, nil, outcome(evaluation))
    {evaluation, _counted_again} = with_traces(evaluation, call, outer)
    {[evaluation], call}
  end

  defp element(element, call), do: {[element], call}

  defp last(:ended), do: {[], :ended}

  defp last(call) do
    call |> with_unread() |> finish({:ok, nil})
    {[], :ended}
  end

  defp left(:ended), do: :ok
  defp left(call), do: call |> with_unread() |> cancelled()

  @doc """
  Begins a call of the calling process, which must end it by `finish/2` or `cancelled/1`; returns the options for it too.
  """
  @spec start(atom(), CallOptions.t(), about()) :: {t(), CallOptions.t()}
  def start(operation, options, about) do
    cond do
      options.within != nil ->
        part = %{options.within | part?: true, open: nil}
        {part, with_trace(options, part)}

      not options.counted? ->
        {nil, options}

      true ->
        begin(operation, options, about, options.python[:trace])
    end
  end

  defp begin(operation, options, about, wanted) do
    {events?, kinds} =
      case Telemetry.handled_kinds(@kinds) do
        [:call | kinds] -> {true, kinds}
        kinds -> {false, kinds}
      end

    chunks = if operation in @in_pieces and Telemetry.handled?(@chunk), do: :none
    %{exports?: exports?, redact: redact} = Settings.of(Cluster.name(options.pool))
    given = options.python[:traceparent]
    parent = given || OpenTelemetry.current()
    started = System.monotonic_time()
    attributes = fn -> options |> metadata(about) |> Traces.attributes() end
    {otel, header} = OpenTelemetry.start(operation, given, started, attributes)
    # Python exports its spans itself, or the application's tracer gets them from here.
    spans? = events? or kinds != [] or (otel != nil and not exports?)
    level = level(wanted, spans?)

    if level == nil and chunks == nil and not exports? and otel == nil do
      around = header || parent
      {nil, if(around, do: CallOptions.put(options, :traceparent, around), else: options)}
    else
      traces = if header, do: Traces.of_span(header, parent), else: Traces.new(parent)

      call =
        opened(%{
          named(operation, options, about, started, traces)
          | wanted: wanted,
            events?: events?,
            kinds: kinds,
            level: level,
            chunks: chunks,
            otel: otel,
            exports?: exports?,
            redacts?: redact != nil
        })

      {call, with_trace(options, call)}
    end
  end

  # Another value of the option is wrong; Python says so.
  defp level(true, _handled?), do: true
  defp level(metadata, _handled?) when metadata in [:metadata, "metadata"], do: "metadata"
  defp level(none, true) when none in [nil, false], do: "metadata"
  defp level(_none, _handled?), do: nil

  defp with_trace(options, call) do
    options = CallOptions.put(options, :traceparent, Traces.traceparent(call.traces))
    options = if call.level, do: CallOptions.put(options, :trace, call.level), else: options

    if call.exports?,
      do: options |> CallOptions.put(:called_at_us, call.started_us) |> with_beginning(call),
      else: options
  end

  # Neither the caller nor its tracer has decided whether the trace is exported: the sampler of Python does.
  defp with_beginning(options, %{otel: nil, traces: %{parent_id: nil}}),
    do: CallOptions.put(options, :begins_trace, true)

  defp with_beginning(options, _call), do: options

  defp named(operation, options, about, started, traces) do
    metadata =
      options
      |> metadata(about)
      |> Map.merge(%{
        operation: operation,
        trace_id: traces.trace_id,
        span_id: traces.span_id,
        parent_id: traces.parent_id,
        telemetry_span_context: make_ref()
      })

    %__MODULE__{
      started: started,
      failed_items: if(operation in @batches, do: 0),
      # Not System.system_time/0, which the BEAM corrects slowly: Python's clock is the system's.
      started_us: :os.system_time(:microsecond),
      traces: traces,
      metadata: metadata
    }
  end

  # Emits the first event, if anybody wants it. Somebody must be told of the end of the call then, whatever happens to its process.
  defp opened(%{events?: false, exports?: false, otel: nil} = call), do: call

  defp opened(%{started: started, metadata: metadata} = call) do
    # Before the event, so that each start has an end.
    open = OpenCalls.add(&ended_by_its_process(call, &1))
    measurements = %{system_time: System.system_time(), monotonic_time: started}
    if call.events?, do: Telemetry.emit(@start, measurements, metadata)
    %{call | open: open}
  end

  defp metadata(options, about) do
    python = options.python

    Map.merge(
      %{
        pool: options.pool,
        module: nil,
        program: nil,
        version: python[:version],
        session: python[:session_id],
        conversation: python[:conversation],
        request_id: python[:request_id],
        metadata: options.metadata
      },
      about
    )
  end

  defp raising(%{open: open} = call, work) do
    work.()
  catch
    kind, reason ->
      if not call.part? and OpenCalls.remove(open) do
        failure = %{kind: kind, reason: reason, stacktrace: __STACKTRACE__}

        if call.events?,
          do: Telemetry.emit(@exception, ended(call), Map.merge(call.metadata, failure))

        error = Error.new(:input, "the call was misused")
        to_open_telemetry(call, %{result: :input, error: error}, nil)
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
    {%{event | "result" => result}, %{call | counted?: true}}
  end

  def event(call, event), do: {event, call}

  @doc """
  Takes an event of a stream that is halted, which nobody reads: emits the events of the spans of an item.
  """
  @spec unread_event(t(), map()) :: t()
  def unread_event(call, %{"type" => "result"} = event), do: call |> event(event) |> elem(1)
  def unread_event(call, _event), do: call

  @doc """
  Takes the result of a stream that is halted, which nobody reads: emits the events of its spans.
  """
  @spec unread_result(t(), result()) :: t()
  def unread_result(call, result) do
    {_value, told} = taken(result)
    counted(call, SpanEvents.emit(call, told))
  end

  @doc """
  Counts the result of a part of `call`, a call that is a stream, which nobody reads; to be called by the process that reads it.
  """
  @spec unread(t(), term()) :: term()
  def unread(call, result) do
    case Traces.pop(result) do
      {_item, %Trace{spans: spans}} -> send(self(), {unread_key(call), spans})
      _not_traced -> :ok
    end
  end

  # The parts are halted before the call is.
  defp with_unread(nil), do: nil

  defp with_unread(call) do
    key = unread_key(call)

    receive do
      {^key, spans} -> call |> counted(spans) |> with_unread()
    after
      0 -> call
    end
  end

  defp unread_key(call), do: {__MODULE__, call.metadata.telemetry_span_context}

  @doc """
  Ends a call with its result, which has its trace if the caller wants it.

  The result of Python has its spans in `{:ok, {:traced, value, spans}}`, and in the field `:trace` of an error.
  """
  @spec finish(t(), result()) :: result()
  def finish(nil, result), do: result

  def finish(call, result) do
    {value, told} = taken(result)
    outcome = outcome(result)
    {spans, outer} = told(told, call, outcome)
    call = counted(call, spans)
    {value, call} = with_traces(value, call, outer)
    unless call.part?, do: emit_end(call, outcome, spans, outer)
    value
  end

  @doc """
  Ends a call that has been given up.
  """
  @spec cancelled(t()) :: :ok
  def cancelled(nil), do: :ok
  def cancelled(%{part?: true}), do: :ok
  def cancelled(call), do: emit_end(call, %{result: :cancelled, error: nil}, [], nil)

  # Of a part that has failed, which has emitted its events.
  defp told(%Trace{} = trace, call, outcome) do
    outer = if trace?(call), do: Traces.within(Traces.of_call(call, nil, outcome), trace)
    {trace.spans, outer}
  end

  defp told(term, call, outcome) do
    spans = SpanEvents.emit(call, term)
    {spans, if(trace?(call), do: Traces.of_call(call, term, outcome))}
  end

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
    {items, call} =
      if call.counted?,
        do: {Enum.map(results, &told_before(&1, call, outer)), call},
        else: items(call, results, outer)

    report = %{report | "results" => items}

    {{:ok,
      if(keep?(call), do: Map.put(report, "trace", Traces.joined(outer, results)), else: report)},
     call}
  end

  # As above, of several parts.
  defp with_traces({:ok, %{results: results} = evaluation}, call, outer) when is_list(results) do
    {items, call} = items(call, results, outer)
    evaluation = %{evaluation | results: items}

    {{:ok,
      if(keep?(call),
        do: Map.put(evaluation, :trace, Traces.joined(outer, results)),
        else: evaluation
      )}, call}
  end

  defp with_traces({:ok, value}, call, outer),
    do: {{:ok, if(keep?(call), do: Traces.put(value, outer), else: value)}, call}

  defp with_traces({:error, error}, call, outer),
    do: {{:error, if(keep?(call), do: %{error | trace: outer}, else: error)}, call}

  # The items of a streamed batch come before its end.
  defp items(call, items, outer) do
    Enum.map_reduce(items, call, fn item, call ->
      call = with_item(call, item)

      case Traces.pop(item) do
        {item, nil} ->
          {if(outer && keep?(call), do: Traces.put(item, outer), else: item), call}

        # Its events have been emitted by the part of the batch.
        {item, %Trace{} = trace} ->
          call = counted(call, trace.spans)
          {Traces.put(item, if(keep?(call), do: Traces.within(outer, trace))), call}

        {item, term} ->
          spans = SpanEvents.emit(call, term)

          trace =
            if keep?(call), do: Traces.within(outer || Traces.of_call(call, term, nil), term)

          {Traces.put(item, trace), counted(call, spans)}
      end
    end)
  end

  defp with_item(%{failed_items: nil} = call, _item), do: call

  defp with_item(%{failed_items: count} = call, item),
    do: if(failed?(item), do: %{call | failed_items: count + 1}, else: call)

  # In the forms that Traces.pop/1 takes.
  defp failed?(item) when is_tuple(item), do: elem(item, 0) == :error
  defp failed?(item), do: is_map_key(item, "error")

  # The result of an item whose events have been emitted when it came, and which has been counted then.
  defp told_before(item, call, outer) do
    {item, term} = Traces.pop(item)
    Traces.put(item, if(keep?(call), do: term && Traces.within(outer, term)))
  end

  # Events alone need the spans, and no trace.
  defp trace?(%{level: level, exports?: exports?, otel: otel} = call),
    do: level != nil and (exports? or otel != nil or keep?(call))

  # A part keeps the traces for the whole.
  defp keep?(%{wanted: wanted, part?: part?}),
    do: part? or wanted in [true, :metadata, "metadata"]

  defp emit_end(%{events?: false, exports?: false, otel: nil}, _outcome, _spans, _trace), do: :ok

  defp emit_end(call, outcome, spans, trace) do
    if OpenCalls.remove(call.open), do: ended_once(call, outcome, spans, trace)
    :ok
  end

  # From DSPex.Python.Call.OpenCalls.
  defp ended_by_its_process(call, :cancelled),
    do: ended_once(call, %{result: :cancelled, error: nil}, [], nil)

  defp ended_once(call, outcome, spans, trace) do
    if call.events?, do: emit_stop(call, outcome, spans)
    to_open_telemetry(call, outcome, trace)
  end

  # The call's span: in the application's tracer, or exported by Python.
  defp to_open_telemetry(%{otel: nil, exports?: false}, _outcome, _trace), do: :ok

  defp to_open_telemetry(%{otel: nil} = call, outcome, trace) do
    %Trace{spans: [span | _of_python]} = trace || Traces.of_call(call, nil, outcome)
    args = [Traces.traceparent(call.traces), [span]]
    pool = call.metadata.pool
    # The caller does not wait for it, and is not told if it fails.
    spawn(fn -> Cluster.call(pool, :export_spans, args, @export_timeout) end)
    :ok
  end

  defp to_open_telemetry(call, outcome, trace) do
    outer = trace || Traces.of_call(call, nil, outcome)
    traces = for spans <- [outer.spans | call.spans], do: %{outer | spans: spans}
    {[span], spans} = traces |> Trace.join() |> split_call(call.traces.span_id)
    at = &(call.started + Traces.native(&1 - call.started_us))
    OpenTelemetry.finish(call.otel, span, if(call.exports?, do: [], else: spans), at)
  end

  defp split_call(%Trace{spans: spans}, id), do: Enum.split_with(spans, &(&1["id"] == id))

  defp emit_stop(call, outcome, spans) do
    found = Traces.python_times(spans, call.started_us)
    python = Map.get(found, :measurements, %{})
    usage = call.usage || %{}
    failed = if call.failed_items, do: %{failed_items: call.failed_items}, else: %{}

    measurements =
      Enum.reduce([python, CallUsage.known(usage), failed], ended(call), &Map.merge(&2, &1))

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

  defp counted(call, spans) do
    call = %{call | usage: CallUsage.add(call.usage, spans)}
    if call.otel && not call.exports?, do: %{call | spans: [spans | call.spans]}, else: call
  end
end
