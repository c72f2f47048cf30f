defmodule DSPex.Python.Call.SpanConventions do
  @moduledoc false

  # Names the spans of a trace, and their attributes, after OpenTelemetry's semantic conventions for generative AI, as
  # erlport_bridge/tracing/conventions.py does; conformance/spans.json has what both must return. Texts of prompts and answers
  # are left out.
  #
  # https://opentelemetry.io/docs/specs/semconv/gen-ai/

  alias DSPex.Python.JSON

  @texts ~w(messages reply arguments result code output)
  @agents ["dspy.ReAct", "dspy.CodeAct", "dspy.RLM"]
  @providers %{
    "azure" => "azure.ai.openai",
    "azure_ai" => "azure.ai.inference",
    "bedrock" => "aws.bedrock",
    "cohere_chat" => "cohere",
    "gemini" => "gcp.gemini",
    "google" => "gcp.gemini",
    "mistral" => "mistral_ai",
    "vertex_ai" => "gcp.vertex_ai",
    "watsonx" => "ibm.watsonx.ai",
    "xai" => "x_ai"
  }
  @of_models %{
    "input_tokens" => "gen_ai.usage.input_tokens",
    "output_tokens" => "gen_ai.usage.output_tokens",
    "cached_tokens" => "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens" => "gen_ai.usage.reasoning.output_tokens",
    "cost" => "gen_ai.usage.cost"
  }

  @typedoc "The name, the kind, the attributes, and the events: a name, the microseconds since the start, and attributes."
  @type described ::
          {String.t(), :internal | :server | :client, %{String.t() => term()},
           [{String.t(), integer(), %{String.t() => term()}}]}

  @doc """
  Returns how OpenTelemetry names a span.
  """
  @spec describe(map()) :: described()
  def describe(%{"kind" => kind, "name" => name, "attributes" => attributes}) do
    rest =
      for {key, value} <- attributes, value != nil, key not in @texts, into: %{}, do: {key, value}

    {name, of, named, rest, events} = of_kind(kind, name, rest)
    others = Map.new(rest, fn {key, value} -> {"dspex." <> key, plain(value)} end)
    {name, of, named |> Map.put("dspex.kind", kind) |> Map.merge(others), events}
  end

  defp of_kind("call", name, rest) do
    conversation = rest["conversation"]
    named = if conversation, do: %{"gen_ai.conversation.id" => to_string(conversation)}, else: %{}
    {name, :internal, named, rest, []}
  end

  defp of_kind("python", name, rest), do: {name, :server, %{}, rest, []}

  defp of_kind("module", name, rest) when name in @agents,
    do: operation("invoke_agent", "agent", name, rest)

  defp of_kind("module", "program", rest),
    do: {"program", :internal, %{"gen_ai.operation.name" => "invoke_workflow"}, rest, []}

  defp of_kind("tool", name, rest) do
    {name, kind, named, rest, events} = operation("execute_tool", "tool", name, rest)
    {name, kind, Map.put(named, "gen_ai.tool.type", "function"), rest, events}
  end

  defp of_kind("model", name, rest) do
    {provider, rest} = Map.pop(rest, "provider", "")
    {model, rest} = Map.pop(rest, "model", name)
    {retries, rest} = Map.pop(rest, "retries", [])
    {reason, rest} = Map.pop(rest, "finish_reason")
    {first_us, rest} = Map.pop(rest, "first_token_us")
    {usage, rest} = Map.split(rest, Map.keys(@of_models))
    # The model's name without that of the provider, before which it stands.
    model = String.replace_prefix(model, provider <> "/", "")

    named =
      usage
      |> Map.new(fn {key, value} -> {Map.fetch!(@of_models, key), value} end)
      |> Map.merge(%{
        "gen_ai.operation.name" => "chat",
        "gen_ai.provider.name" => Map.get(@providers, provider, provider),
        "gen_ai.request.model" => model
      })
      |> Map.merge(if reason, do: %{"gen_ai.response.finish_reasons" => [reason]}, else: %{})
      |> Map.merge(first_chunk(first_us))

    events =
      for %{"kind" => kind, "after_us" => after_us} <- retries,
          do: {"dspex.retry", after_us, %{"error.type" => kind}}

    {"chat " <> model, :client, named, rest, events}
  end

  defp of_kind(_kind, name, rest), do: {name, :internal, %{}, rest, []}

  defp operation(operation, what, name, rest) do
    named = %{"gen_ai.operation.name" => operation, "gen_ai.#{what}.name" => name}
    {"#{operation} #{name}", :internal, named, rest, []}
  end

  defp first_chunk(nil), do: %{}

  defp first_chunk(us),
    do: %{
      "gen_ai.request.stream" => true,
      "gen_ai.response.time_to_first_chunk" => us / 1_000_000
    }

  # A value as an attribute holds it.
  defp plain(value) when is_binary(value) or is_number(value) or is_boolean(value), do: value

  defp plain(value) do
    case JSON.encode(value) do
      {:ok, text} -> text
      {:error, _reason, _at} -> inspect(value, limit: 20)
    end
  end
end
