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
    worker = Enum.find_value(spans, &(&1["kind"] == "python" && &1["attributes"]["worker"]))
    of_spans = call.metadata |> Map.delete(:module) |> Map.put(:worker, worker)

    spans
    |> Enum.with_index()
    |> Enum.flat_map(&events(&1, call, of_spans))
    # A parent that ends in the same microsecond ends after its child.
    |> Enum.sort_by(&elem(&1, 0))
    |> Enum.each(fn {_at, event, measurements, metadata} ->
      Telemetry.emit(event, measurements, metadata)
    end)

    spans
  end

  defp events({%{"kind" => name} = span, index}, call, of_spans) do
    kind = @kind_of_name[name]

    if kind in call.kinds do
      metadata = metadata(kind, span, of_spans)
      start_us = span["start_us"]
      end_us = start_us + span["duration_us"]

      [
        {{start_us, 0, index}, [:dspex, kind, :start], started(start_us, call), metadata},
        ended(kind, span, {end_us, 1, -index}, at(end_us, call), metadata)
      ]
    else
      []
    end
  end

  defp started(start_us, call),
    do: %{system_time: Traces.native(start_us), monotonic_time: at(start_us, call)}

  # The monotonic time of a moment that the system's clock names.
  defp at(us, call), do: call.started + Traces.native(us - call.started_us)

  defp ended(kind, %{"status" => "ok"} = span, place, at, metadata) do
    metadata = metadata |> Map.put(:result, :ok) |> answer(kind, span["attributes"])
    measurements = Map.merge(measurements(kind, span, at), usage(kind, span["attributes"]))
    {place, [:dspex, kind, :stop], measurements, metadata}
  end

  defp ended(kind, span, place, at, metadata) do
    error = span["error"] || %{"kind" => "cancelled", "message" => "the call ended before"}

    failure = %{
      result: Error.kind(error["kind"]),
      kind: :error,
      reason: error["message"],
      stacktrace: []
    }

    {place, [:dspex, kind, :exception], measurements(kind, span, at),
     Map.merge(metadata, failure)}
  end

  defp metadata(kind, span, of_spans) do
    attributes = span["attributes"]

    of_spans
    |> Map.merge(%{
      span_id: span["id"],
      parent_id: span["parent"],
      telemetry_span_context: span["id"],
      name: span["name"],
      stage: attributes["stage"]
    })
    |> model(kind, attributes)
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

  defp measurements(:model, span, at) do
    attributes = span["attributes"]

    %{
      duration: Traces.native(span["duration_us"]),
      monotonic_time: at,
      attempts: attributes["attempts"]
    }
    |> put_time(:queue_time, attributes["queue_us"])
    |> put_time(:time_to_first_token, attributes["first_token_us"])
  end

  defp measurements(_kind, span, at),
    do: %{duration: Traces.native(span["duration_us"]), monotonic_time: at}

  defp put_time(measurements, _name, nil), do: measurements
  defp put_time(measurements, name, us), do: Map.put(measurements, name, Traces.native(us))

  defp usage(:model, attributes) do
    for {key, name} <- @usage, value = attributes[key], into: %{}, do: {name, value}
  end

  defp usage(_kind, _attributes), do: %{}
end
