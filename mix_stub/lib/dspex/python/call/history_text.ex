defmodule DSPex.Python.Call.HistoryText do
  @moduledoc false

  # Writes requests to models as DSPy's `inspect_history` prints them.

  @doc """
  Returns the text of requests; `colors?` whether with the colors of a terminal.
  """
  @spec write([map()], boolean()) :: IO.chardata()
  def write(requests, colors?), do: Enum.map(requests, &request(&1, colors?))

  defp request(request, colors?) do
    [
      "\n\n\n",
      color("[#{time(request["at_ms"])}] #{summary(request)}", :blue, colors?),
      Enum.map(request["messages"] || [], &message(&1, colors?)),
      if(request["messages"] == nil,
        do: "\n(no texts are kept; start the pool with history: :full)\n",
        else: []
      ),
      Enum.map(request["reply"] || [], &reply(&1, colors?)),
      if(error = request["error"],
        do: ["\n", color("Error:", :red, colors?), error["kind"], ": ", error["message"], "\n"],
        else: []
      ),
      "\n\n"
    ]
  end

  defp time(ms), do: ms |> round() |> DateTime.from_unix!(:millisecond) |> DateTime.to_iso8601()

  defp summary(request) do
    [
      request["model"],
      "#{round(request["duration_ms"])} ms",
      if(request["cache_hit"], do: "cached"),
      if(tokens = request["usage"]["total_tokens"], do: "#{tokens} tokens"),
      if(cost = request["cost"], do: "$#{:erlang.float_to_binary(cost * 1.0, decimals: 6)}"),
      if(request["attempts"] > 1, do: "#{request["attempts"]} attempts"),
      if(id = request["request_id"], do: "request_id #{id}")
    ]
    |> Enum.reject(&is_nil/1)
    |> Enum.join(", ")
  end

  defp message(message, colors?) do
    title = String.capitalize(message["role"]) <> " message:"
    ["\n", color(title, :red, colors?), "\n", content(message["content"]), "\n"]
  end

  defp content(text) when is_binary(text), do: text
  defp content(parts), do: Enum.map_intersperse(parts, "\n", &part/1)

  defp part(%{"type" => "text", "text" => text}), do: text
  defp part(%{"type" => type} = part), do: "<#{type}, #{part["characters"]} characters>"

  defp reply(output, colors?) when is_binary(output),
    do: ["\n", color("Response:", :red, colors?), "\n", color(output, :green, colors?)]

  defp reply(output, colors?) do
    calls =
      for call <- output["tool_calls"] || [],
          do: color("#{call["name"]}: #{call["arguments"]}", :green, colors?)

    text = if output["text"], do: reply(output["text"], colors?), else: []
    called = if calls == [], do: [], else: ["\n", color("Tool calls:", :red, colors?), calls]
    [text, called]
  end

  defp color(text, color, true), do: [apply(IO.ANSI, color, []), text, IO.ANSI.reset(), "\n"]
  defp color(text, _color, false), do: [text, "\n"]
end
