defprotocol DSPex.LLM.Adapter do
  @moduledoc """
  Answers prompts. An adapter is a struct that holds its settings; the adapter of this project is `DSPex.LLM.Adapters.Python`.

      adapter = %DSPex.LLM.Adapters.Python{pool: :general, timeout: 30_000}

      {:ok, result} =
        DSPex.LLM.Adapter.generate(adapter, "What is machine learning?",
          module: "dspy.Predict",
          signature: "question -> answer"
        )

  Options are optional. An implementation defines `generate`, `stream` and `batch` with and without options, by a default
  argument: `def generate(adapter, prompt, options \\\\ [])`.
  """

  @typedoc "Text for the first input, a map of inputs by name, or a conversation."
  @type prompt :: String.t() | map() | [message()]
  @type message :: %{required(:role) => atom() | String.t(), required(:content) => String.t()}
  @type options :: keyword() | %{optional(atom()) => term()}
  @type prediction :: struct()
  @type reason :: term()

  @doc """
  Returns what the adapter can do, without asking a model.
  """
  @spec capabilities(t()) :: %{required(atom()) => term()}
  def capabilities(adapter)

  # Each function is declared twice: from Elixir 1.20 on, a protocol may not have default arguments.

  @doc """
  Answers one prompt.
  """
  @spec generate(t(), prompt(), options()) :: {:ok, prediction()} | {:error, reason()}
  def generate(adapter, prompt, options)

  @doc """
  Answers one prompt, without options.
  """
  @spec generate(t(), prompt()) :: {:ok, prediction()} | {:error, reason()}
  def generate(adapter, prompt)

  @doc """
  Answers one prompt piece by piece.

  The stream is lazy: the call begins when the stream is enumerated, is made again for each enumeration, and ends when the
  stream is halted. The stream emits `{:chunk, field, text}`, the next piece of a text field, and `{:status, map}`, what
  begins; its last element is `{:prediction, prediction}` or `{:error, reason}`.
  """
  @spec stream(t(), prompt(), options()) :: {:ok, Enumerable.t()} | {:error, reason()}
  def stream(adapter, prompt, options)

  @doc """
  Answers one prompt piece by piece, without options.
  """
  @spec stream(t(), prompt()) :: {:ok, Enumerable.t()} | {:error, reason()}
  def stream(adapter, prompt)

  @doc """
  Answers many prompts concurrently. The results are in the order of the prompts.
  """
  @spec batch(t(), [prompt()], options()) ::
          {:ok, [{:ok, prediction()} | {:error, reason()}]} | {:error, reason()}
  def batch(adapter, prompts, options)

  @doc """
  Answers many prompts concurrently, without options.
  """
  @spec batch(t(), [prompt()]) ::
          {:ok, [{:ok, prediction()} | {:error, reason()}]} | {:error, reason()}
  def batch(adapter, prompts)

  @doc """
  Checks whether a call could be made with the adapter's settings.
  """
  @spec validate_config(t()) :: :ok | {:error, {:invalid_config, message :: String.t()}}
  def validate_config(adapter)

  @doc """
  Makes a prompt from a conversation.
  """
  @spec format_messages(t(), [message()]) :: {:ok, String.t()} | {:error, reason()}
  def format_messages(adapter, messages)

  @doc """
  Returns the main output of a prediction.
  """
  @spec extract_content(t(), prediction()) :: {:ok, term()} | {:error, reason()}
  def extract_content(adapter, prediction)
end
