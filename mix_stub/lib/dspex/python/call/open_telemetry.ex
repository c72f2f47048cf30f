defmodule DSPex.Python.Call.OpenTelemetry do
  @moduledoc false

  # Uses the application's own `:opentelemetry_api`, which is found at run time: takes the current span as the parent of a call,
  # and makes a span of the call in the application's tracer, with those of Python below it unless Python exports them itself.
  #
  # The functions are those of `opentelemetry_api` 1.x: `:otel_tracer`, `:otel_span`, `:otel_ctx` and `:opentelemetry`.

  alias DSPex.Python.Call.SpanConventions

  @typedoc "The context of a span, as the API has it."
  @type span_ctx :: tuple()
  @typedoc "A header of W3C Trace Context."
  @type header :: String.t()
  @typedoc "A span of a trace, see `DSPex.Trace`."
  @type span :: map()

  @doc """
  Returns the header for the current span of the calling process; `nil` if there is none.
  """
  @spec current() :: header() | nil
  def current do
    # Not Code.ensure_loaded?/1, which searches the disk in each call. Without the module there is no current span.
    if function_exported?(:otel_tracer, :current_span_ctx, 0),
      do: header(apply(:otel_tracer, :current_span_ctx, []))
  end

  @doc """
  Begins the span of a call, below the current span, or below that which a header names.

  Returns `nil` if the tracer records nothing, and the header that names the call, if the application has a tracer.
  """
  @spec start(atom(), header() | nil, integer(), (... -> map())) ::
          {span_ctx() | nil, header() | nil}
  def start(name, parent, started, attributes) do
    if function_exported?(:otel_tracer, :start_span, 4),
      do: begun(name, parent, started, attributes),
      else: {nil, nil}
  end

  defp begun(name, parent, started, attributes) do
    {name, kind, attributes, _events} =
      SpanConventions.describe(%{
        "kind" => "call",
        "name" => Atom.to_string(name),
        "attributes" => attributes.()
      })

    context = context(parent)
    options = %{kind: kind, start_time: started, attributes: attributes}
    span_ctx = apply(:otel_tracer, :start_span, [context, tracer(), name, options])
    around = header(apply(:otel_tracer, :current_span_ctx, [context]))

    case header(span_ctx) do
      # Without an SDK the span is that around it, or none.
      ^around -> {nil, nil}
      header -> {if(apply(:otel_span, :is_recording, [span_ctx]), do: span_ctx), header}
    end
  end

  defp tracer, do: apply(:opentelemetry, :get_tracer, [:dspex])

  defp context(nil), do: apply(:otel_ctx, :get_current, [])

  defp context(header) do
    current = context(nil)

    with <<"00-", trace_id::binary-32, "-", span_id::binary-16, "-", flags::binary-2>> <- header,
         [{trace_id, ""}, {span_id, ""}, {flags, ""}] <-
           Enum.map([trace_id, span_id, flags], &Integer.parse(&1, 16)) do
      remote = apply(:otel_tracer, :from_remote_span, [trace_id, span_id, flags])
      apply(:otel_tracer, :set_current_span, [current, remote])
    else
      _malformed -> current
    end
  end

  @doc """
  Runs `work` with the span of a call as the current one: spans of functions that Python calls hang below it.
  """
  @spec within(span_ctx() | nil, (... -> result)) :: result when result: term()
  def within(nil, work), do: work.()

  def within(span_ctx, work) do
    context = apply(:otel_tracer, :set_current_span, [context(nil), span_ctx])
    metadata = :logger.get_process_metadata()
    before = apply(:otel_ctx, :attach, [context])

    try do
      work.()
    after
      apply(:otel_ctx, :detach, [before])
      # To attach a context adds the ids of its span, and to detach it removes none.
      if is_map(metadata),
        do: :logger.set_process_metadata(metadata),
        else: :logger.unset_process_metadata()
    end
  end

  @doc """
  Ends the span of a call, after the spans of a trace below it. `at` returns the monotonic time of a moment that is given in
  microseconds of Unix time.
  """
  @spec finish(span_ctx(), span(), [span()], (integer() -> integer())) :: :ok
  def finish(span_ctx, %{"id" => id} = call, spans, at) do
    spans
    |> Enum.sort_by(& &1["start_us"])
    |> Enum.reduce(%{id => span_ctx}, fn span, contexts ->
      # The parent of a span that was dropped is not there.
      parent = Map.get(contexts, span["parent"], span_ctx)
      Map.put(contexts, span["id"], child(parent, span, at))
    end)

    ended(span_ctx, call)
    _ended = apply(:otel_span, :end_span, [span_ctx])
    :ok
  end

  defp child(parent, span, at) do
    {name, kind, attributes, events} = SpanConventions.describe(span)
    context = apply(:otel_tracer, :set_current_span, [apply(:otel_ctx, :new, []), parent])
    options = %{kind: kind, start_time: at.(span["start_us"]), attributes: attributes}
    span_ctx = apply(:otel_tracer, :start_span, [context, tracer(), name, options])

    if events != [],
      do: apply(:otel_span, :add_events, [span_ctx, Enum.map(events, &event(&1, span, at))])

    ended(span_ctx, span)
    end_at = at.(span["start_us"] + span["duration_us"])
    apply(:otel_span, :end_span, [span_ctx, end_at])
    span_ctx
  end

  defp event({name, after_us, attributes}, span, at),
    do: apply(:opentelemetry, :event, [at.(span["start_us"] + after_us), name, attributes])

  # Without the message of the error, which may quote a prompt.
  defp ended(_span_ctx, %{"status" => "ok"}), do: :ok

  defp ended(span_ctx, span) do
    kind = if span["status"] == "cancelled", do: "cancelled", else: span["error"]["kind"]
    apply(:otel_span, :set_attribute, [span_ctx, "error.type", kind])
    apply(:otel_span, :set_status, [span_ctx, :error])
  end

  # The keys are those of metadata of Logger, for which the API has the function.
  defp header(:undefined), do: nil

  defp header(span_ctx) do
    case apply(:otel_span, :hex_span_ctx, [span_ctx]) do
      %{otel_trace_id: trace_id, otel_span_id: span_id} = found
      when trace_id != :undefined and span_id != :undefined ->
        flags = Map.get(found, :otel_trace_flags, "01")
        valid(IO.iodata_to_binary(["00-", trace_id, "-", span_id, "-", flags]))

      %{} ->
        nil
    end
  end

  # A span of no tracer has no ids.
  defp valid(<<"00-", trace_id::binary-32, "-", span_id::binary-16, _flags::binary>> = header) do
    if String.trim(trace_id, "0") != "" and String.trim(span_id, "0") != "", do: header
  end

  defp valid(_other), do: nil
end
