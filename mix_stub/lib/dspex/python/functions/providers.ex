defmodule DSPex.Python.Functions.Providers do
  @moduledoc false

  # The names of the providers of language models, and which of them another name means. Python has the same
  # (erlport_bridge/programs/models/providers.py); tests compare both with conformance/providers.tsv.

  alias DSPex.Suggestion

  @names ~w(anthropic azure bedrock cerebras cohere databricks deepseek elixir embedded fireworks_ai gemini groq hosted_vllm) ++
           ~w(huggingface litellm_proxy lm_studio mistral moonshot nvidia_nim ollama openai openai_compatible openrouter) ++
           ~w(perplexity sagemaker sambanova together_ai vertex_ai watsonx xai)

  # Companies, products and other libraries' names.
  @others %{
    "amazon" => ["bedrock", "sagemaker"],
    "aws" => ["bedrock", "sagemaker"],
    "azure_openai" => ["azure"],
    "function" => ["elixir"],
    "google" => ["gemini", "vertex_ai"],
    "hf" => ["huggingface"],
    "ibm" => ["watsonx"],
    "llama_cpp" => ["openai_compatible"],
    "llamacpp" => ["openai_compatible"],
    "local" => ["ollama", "openai_compatible"],
    "microsoft" => ["azure"],
    "nvidia" => ["nvidia_nim"],
    "vertex" => ["vertex_ai"],
    "vllm" => ["hosted_vllm"]
  }

  # How the names of a provider's models begin.
  @families %{
    "gpt" => "openai",
    "chatgpt" => "openai",
    "o1" => "openai",
    "o3" => "openai",
    "o4" => "openai",
    "claude" => "anthropic",
    "gemini" => "gemini",
    "deepseek" => "deepseek",
    "grok" => "xai",
    "kimi" => "moonshot",
    "moonshot" => "moonshot",
    "mistral" => "mistral",
    "codestral" => "mistral",
    "command" => "cohere",
    "sonar" => "perplexity",
    "llama" => "ollama",
    "qwen" => "ollama",
    "gemma" => "ollama"
  }

  @doc """
  Returns the names of all providers.
  """
  @spec names() :: [String.t()]
  def names, do: @names

  @doc """
  Tells whether there is a provider of this name.
  """
  @spec known?(String.t()) :: boolean()
  def known?(name), do: name in @names

  @doc """
  Returns ` (did you mean …?)` for a name that is no provider, or `""`.

      iex> DSPex.Python.Functions.Providers.hint("google")
      ~S| (did you mean "gemini" or "vertex_ai"?)|
      iex> DSPex.Python.Functions.Providers.hint("gpt-4o-mini")
      ~S| (did you mean "openai/gpt-4o-mini"?)|
      iex> DSPex.Python.Functions.Providers.hint("opnai")
      ~S| (did you mean "openai"?)|
  """
  @spec hint(String.t()) :: String.t()
  def hint(name) do
    case meant(name) do
      [] -> Suggestion.hint(name, @names)
      meant -> " (did you mean #{Enum.map_join(meant, " or ", &inspect/1)}?)"
    end
  end

  defp meant(name) do
    case {@others[String.downcase(name)], String.split(name, ":", parts: 2)} do
      {[_one | _more] = providers, _parts} ->
        providers

      {nil, [provider, model]} when provider in @names and model != "" ->
        ["#{provider}/#{model}"]

      _neither ->
        of_family(
          name,
          Regex.run(~r/\A([a-z]+[0-9]?|[a-z][0-9])(?:[-.:0-9][a-zA-Z0-9.:_-]{0,63})?\z/, name)
        )
    end
  end

  defp of_family(_name, nil), do: []

  defp of_family(name, [_all, begin]) do
    family = @families[begin] || @families[String.replace(begin, ~r/[0-9]\z/, "")]

    cond do
      family == nil -> []
      # Such as `:claude`; the name of a model says more.
      name =~ ~r/\A[a-z]+\z/ -> [family]
      true -> ["#{family}/#{name}"]
    end
  end
end
