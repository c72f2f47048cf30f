defmodule DSPex.Value do
  @moduledoc """
  Makes values for fields of DSPy's types `dspy.Image`, `dspy.Audio` and `dspy.File` from binaries, and for `dspy.Tool`, see
  `tool/3`.

      DSPex.Python.execute_module(
        "dspy.Predict",
        %{inputs: %{photo: "dspy.Image"}, outputs: %{caption: :string}},
        %{photo: DSPex.Value.image(File.read!("cat.png"))}
      )

  A binary alone is enough if its first bytes tell its type (PNG, JPEG, GIF, WebP, WAV, MP3, PDF and others). Otherwise give
  `:media_type`, which must not contradict the bytes. Python opens no file. A URL is passed to the provider only by a call with the
  option `allow_urls: true`: `%{photo: "https://example.com/cat.png"}`.

  A result has such a value as a map with `"$type"`, which may be an input again. A value that the provider does not take is an
  error before the provider is asked. OpenAI's chat completions take images only; its responses (`model_type: "responses"`) also
  take files, WAV and MP3; Anthropic takes images and PDF. A filename can be sent through LiteLLM only.
  """

  alias DSPex.Python.Tool

  @type t :: %{
          required(:data) => binary(),
          optional(:media_type) => String.t(),
          optional(:filename) => String.t()
        }

  @doc """
  Makes an image. Option `:media_type`, such as `"image/png"`.

  ## Examples

      iex> DSPex.Value.image(<<0x89, "PNG", 13, 10, 26, 10>>)
      %{data: <<0x89, "PNG", 13, 10, 26, 10>>}
  """
  @spec image(binary(), keyword()) :: t()
  def image(data, options \\ []), do: value(data, options, [:media_type])

  @doc """
  Makes audio. Option `:media_type`, such as `"audio/wav"`.

  ## Examples

      iex> DSPex.Value.audio("raw", media_type: "audio/L16")
      %{data: "raw", media_type: "audio/L16"}
  """
  @spec audio(binary(), keyword()) :: t()
  def audio(data, options \\ []), do: value(data, options, [:media_type])

  @doc """
  Makes a file, such as a PDF. Options `:media_type` and `:filename`.

  ## Examples

      iex> DSPex.Value.file("%PDF-1.4", filename: "report.pdf")
      %{data: "%PDF-1.4", filename: "report.pdf"}
  """
  @spec file(binary(), keyword()) :: t()
  def file(data, options \\ []), do: value(data, options, [:media_type, :filename])

  @doc """
  Makes the description of a tool, which you run yourself when the model has called it.

  Fields of the type `list[dspy.Tool]` take such descriptions and names of Python's tools. The model answers with a field of the type
  `dspy.ToolCalls`. `parameters` as in `DSPex.Python.Tool`. The adapter `%{name: "chat", native_function_calling: true}` uses the
  provider's native function calling; otherwise the tools are written into the prompt.

      signature = %{inputs: %{question: :string, tools: {:list, :tool}}, outputs: %{calls: :tool_calls}}
      tools = [DSPex.Value.tool("stock", "How many pieces there are", article: :string)]
      {:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", signature, %{question: "Bolts?", tools: tools})
      prediction[:calls]
      #=> %{"$type" => "ToolCalls", "tool_calls" => [%{"name" => "stock", "args" => %{"article" => "bolt"}, …}], …}

  Raises an `ArgumentError` for a wrong parameter.

  ## Examples

      iex> DSPex.Value.tool("stock", "How many there are", article: :string).parameters["required"]
      ["article"]
  """
  @spec tool(String.t(), String.t(), Tool.parameters()) :: %{
          name: String.t(),
          description: String.t(),
          parameters: map()
        }
  def tool(name, description, parameters \\ %{}) do
    %{name: name, description: description, parameters: Tool.json_schema!(parameters)}
  end

  defp value(data, options, known) when is_binary(data) do
    options |> Keyword.validate!(known) |> Map.new() |> Map.put(:data, data)
  end

  defp value(data, _options, _known) do
    raise ArgumentError,
          "expected the bytes, as a binary, got #{inspect(data, limit: 5)}; File.read!/1 gives those of a file"
  end
end
