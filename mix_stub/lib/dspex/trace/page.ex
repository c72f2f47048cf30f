defmodule DSPex.Trace.Page do
  @moduledoc false

  # Makes the HTML page of a trace. It is one file: the trace as JSON, and beside this file its layout (page.html, page.css) and
  # the script that draws it (page.js).
  #
  # The texts of a trace come from models, so they must not become markup. In the file they are within a JSON script, in
  # which no "<" can end it; the page makes text nodes of them; and its policy lets the browser run no script but that one,
  # and fetch nothing.

  alias DSPex.Python.JSON

  @parts for part <- [:html, :css, :js],
             path = Path.join(__DIR__, "page.#{part}"),
             do: {part, path}

  for {_part, path} <- @parts, do: @external_resource(path)

  @layout File.read!(@parts[:html])
  @style File.read!(@parts[:css])
  @script File.read!(@parts[:js])

  # As the browser hashes the text between the tags.
  hash = fn text -> "'sha256-" <> Base.encode64(:crypto.hash(:sha256, text)) <> "'" end

  @policy "default-src 'none'; style-src #{hash.(@style)}; script-src #{hash.(@script)}; base-uri 'none'; form-action 'none'"

  @doc """
  Returns the page of a trace, which is a map as from `DSPex.Trace.to_map/1`; the error is a sentence.
  """
  @spec new(%{String.t() => term()}) :: {:ok, iodata()} | {:error, String.t()}
  def new(trace) do
    case JSON.encode(trace) do
      {:ok, text} -> {:ok, page(title(trace), text)}
      {:error, reason, path} -> {:error, "the trace is no JSON: #{reason} at #{path}"}
    end
  end

  defp page(title, text) do
    [
      "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n",
      "<meta http-equiv=\"Content-Security-Policy\" content=\"#{@policy}\">\n",
      "<meta name=\"viewport\" content=\"width=device-width\">\n",
      ["<title>", escaped(title), "</title>\n"],
      ["<style>", @style, "</style>\n", @layout],
      ["<script type=\"application/json\" id=\"trace\">", String.replace(text, "<", "\\u003c")],
      ["</script>\n<script>", @script, "</script>\n</html>\n"]
    ]
  end

  defp title(%{"spans" => [%{"name" => name} | _spans]}) when is_binary(name),
    do: name <> ", a trace"

  defp title(_trace), do: "A trace"

  defp escaped(text) do
    for {character, name} <- [{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}], reduce: text do
      text -> String.replace(text, character, name)
    end
  end
end
