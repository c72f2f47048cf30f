defmodule DSPex.Python.Call.SpanEvents do
  @moduledoc false

  # Emits the events of the spans that Python has recorded in a call, in the order of time.

  alias DSPex.Python.Call.Traces
  alias DSPex.Python.Error
  alias DSPex.Telemetry

  @kinds [:module, :model, :tool, :sandbox, :store, :optimizer]
  @kind_of_name Map.new(@kinds, &{Atom.to_string(&1), &1})
  @usage [:input_tokens, :output_tokens, :cached_tokens, :reasoning_tokens, :total_tokens, :cost]
         |> Enum.map(&{Atom.to_string(&1), &1})

  @doc """
  Returns the kinds of spans that have events.
  """
  @spec kinds() :: [atom()]
  def kinds, do: @kinds

  @doc """
  Emits the events of the spans that Python has sent, and returns the spans.
  """
  @spec emit(map(), map() | nil) :: [map()]
  def emit(_call, nil), do: []

  def emit(%{kinds: []}, term), do: term["spans"]

  def emit(call, %{"spans" => spans}) do
    of_spans = call.metadata |> Map.delete(:module) |> Map.put(:worker, worker(spans))

    spans
    |> events(0, call, of_spans, [])
    # A parent that ends in the same microsecond ends after its child.
    |> List.keysort(0)
    |> emit_all()

    spans
  end

  defp worker([%{"kind" => "python", "attributes" => %{"worker" => worker}} | _spans]), do: worker
  defp worker([_other | spans]), do: worker(spans)
  defp worker([]), do: nil

  defp emit_all([{_at, event, measurements, metadata} | events]) do
    Telemetry.emit(event, measurements, metadata)
    emit_all(events)
  end

  defp emit_all([]), do: :ok

  defp events([%{"kind" => name} = span | spans], index, call, of_spans, events) do
    kind = @kind_of_name[name]

    if kind in call.kinds do
      %{"start_us" => start_us, "duration_us" => duration_us, "attributes" => attributes} = span
      end_us = start_us + duration_us
      metadata = metadata(kind, span, attributes, of_spans)
      start = {{start_us, 0, index}, [:dspex, kind, :start], started(start_us, call), metadata}

      measurements =
        measured(kind, attributes, %{
          duration: Traces.native(duration_us),
          monotonic_time: at(end_us, call)
        })

      {phase, measurements, metadata} = ended(kind, span, attributes, measurements, metadata)
      stop = {{end_us, 1, -index}, [:dspex, kind, phase], measurements, metadata}
      events(spans, index + 1, call, of_spans, [start, stop | events])
    else
      events(spans, index + 1, call, of_spans, events)
    end
  end

  defp events([], _index, _call, _of_spans, events), do: events

  defp started(start_us, call),
    do: %{system_time: Traces.native(start_us), monotonic_time: at(start_us, call)}

  # The monotonic time of a moment that the system's clock names.
  defp at(us, call), do: call.started + Traces.native(us - call.started_us)

  defp ended(kind, %{"status" => "ok"}, attributes, measurements, metadata) do
    metadata = answer(Map.put(metadata, :result, :ok), kind, attributes)
    {:stop, used(kind, attributes, measurements), metadata}
  end

  defp ended(_kind, span, _attributes, measurements, metadata) do
    error = span["error"] || %{"kind" => "cancelled", "message" => "the call ended before"}

    failure = %{
      result: Error.kind(error["kind"]),
      kind: :error,
      reason: error["message"],
      stacktrace: []
    }

    {:exception, measurements, Map.merge(metadata, failure)}
  end

  defp metadata(kind, %{"id" => id, "parent" => parent, "name" => name}, attributes, of_spans) do
    own = %{
      of_spans
      | span_id: id,
        parent_id: parent,
        telemetry_span_context: id
    }

    own |> Map.put(:name, name) |> Map.put(:stage, attributes["stage"]) |> model(kind, attributes)
  end

  defp model(metadata, :model, attributes) do
    Map.merge(metadata, %{
      model: attributes["model"],
      provider: attributes["provider"],
      fallback_for: attributes["fallback_for"]
    })
  end

  defp model(metadata, _kind, _attributes), do: metadata

  defp answer(metadata, :model, attributes) do
    Map.merge(metadata, %{
      cache_hit: attributes["cache_hit"] == true,
      finish_reason: attributes["finish_reason"]
    })
  end

  defp answer(metadata, _kind, _attributes), do: metadata

  defp measured(:model, attributes, measurements) do
    measurements
    |> Map.put(:attempts, attributes["attempts"])
    |> put_time(:queue_time, attributes["queue_us"])
    |> put_time(:time_to_first_token, attributes["first_token_us"])
  end

  defp measured(_kind, _attributes, measurements), do: measurements

  defp put_time(measurements, _name, nil), do: measurements
  defp put_time(measurements, name, us), do: Map.put(measurements, name, Traces.native(us))

  defp used(:model, attributes, measurements), do: put_usage(@usage, attributes, measurements)
  defp used(_kind, _attributes, measurements), do: measurements

  defp put_usage([{key, name} | names], attributes, measurements) do
    case attributes do
      %{^key => value} when value not in [nil, false] ->
        put_usage(names, attributes, Map.put(measurements, name, value))

      _unknown ->
        put_usage(names, attributes, measurements)
    end
  end

  defp put_usage([], _attributes, measurements), do: measurements
end
