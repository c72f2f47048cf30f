defmodule DSPex.Value do
  @moduledoc """
  Values for fields of DSPy's types `dspy.Image`, `dspy.Audio` and `dspy.File`, made of binaries.

      DSPex.Python.execute_module(
        "dspy.Predict",
        %{inputs: %{photo: "dspy.Image"}, outputs: %{caption: :string}},
        %{photo: DSPex.Value.image(File.read!("cat.png"))}
      )

  A binary alone is enough where its first bytes say what it is (PNG, JPEG, GIF, WebP, WAV, MP3, PDF and others); `:media_type` says it
  where they do not, and must not contradict them. Python opens no file. An address is passed to the provider only by a call with
  the option `allow_urls: true`: `%{photo: "https://example.com/cat.png"}`.

  A result that has such a value has it as a map with `"$type"`, which is an input again. Not every provider takes each of them, and what
  cannot be sent to one is an error before it is asked: OpenAI's chat completions take images only, its responses (`model_type: "responses"`)
  files, WAV and MP3 too, Anthropic images and PDF. A filename can be sent through LiteLLM only.
  """

  @type t :: %{
          required(:data) => binary(),
          optional(:media_type) => String.t(),
          optional(:filename) => String.t()
        }

  @doc """
  An image. Option `:media_type`, such as `"image/png"`.

  ## Examples

      iex> DSPex.Value.image(<<0x89, "PNG", 13, 10, 26, 10>>)
      %{data: <<0x89, "PNG", 13, 10, 26, 10>>}
  """
  @spec image(binary(), keyword()) :: t()
  def image(data, options \\ []), do: value(data, options, [:media_type])

  @doc """
  Audio. Option `:media_type`, such as `"audio/wav"`.

  ## Examples

      iex> DSPex.Value.audio("raw", media_type: "audio/L16")
      %{data: "raw", media_type: "audio/L16"}
  """
  @spec audio(binary(), keyword()) :: t()
  def audio(data, options \\ []), do: value(data, options, [:media_type])

  @doc """
  A file, such as a PDF. Options `:media_type` and `:filename`.

  ## Examples

      iex> DSPex.Value.file("%PDF-1.4", filename: "report.pdf")
      %{data: "%PDF-1.4", filename: "report.pdf"}
  """
  @spec file(binary(), keyword()) :: t()
  def file(data, options \\ []), do: value(data, options, [:media_type, :filename])

  defp value(data, options, known) when is_binary(data) do
    options |> Keyword.validate!(known) |> Map.new() |> Map.put(:data, data)
  end

  defp value(data, _options, _known) do
    raise ArgumentError,
          "expected the bytes, as a binary, got #{inspect(data, limit: 5)}; File.read!/1 gives those of a file"
  end
end
