defmodule DSPex.Python.Functions.Exported do
  @moduledoc false

  # Functions that modules export (DSPex.Python.Exports), in the roles in which programs name them. A call of a stored
  # program registers a resolver; during that call Python asks it for descriptions, and calls each exported function by
  # the resolver's id, a slash, and the reference: "ID/tool:MyApp.Tools.lookup".

  alias DSPex.Python.{Exports, Tool}
  alias DSPex.Python.Functions.{Callback, Role}

  @doc """
  Returns the callback by which Python resolves references during a call.
  """
  @spec resolver() :: Callback.t()
  def resolver,
    do: %{Callback.new("the exported functions", &describe/1, :infinity) | resolver?: true}

  @doc """
  Splits what Python calls: the id of a callback, and the reference behind it, or `nil`.
  """
  @spec split(String.t()) :: {String.t(), String.t() | nil}
  def split(id) do
    case String.split(id, "/", parts: 2) do
      [id, reference] -> {id, reference}
      [id] -> {id, nil}
    end
  end

  @doc """
  Returns what runs for a callback: itself, or the function that its reference names.
  """
  @spec callback(Callback.t(), String.t() | nil) :: {:ok, Callback.t()} | {:error, String.t()}
  # A function of another node, which knows what the reference means.
  def callback(%Callback{proxy?: true} = proxy, reference),
    do: {:ok, %{proxy | function: &proxy.function.(reference, &1)}}

  def callback(callback, nil), do: {:ok, callback}

  def callback(%Callback{resolver?: true} = resolver, reference) do
    with {:ok, role, text} <- parse(reference),
         {:ok, function, options} <- find(text, role) do
      timeout = Keyword.get(options, :timeout, :infinity)
      {:ok, %{resolver | name: text, function: Role.adapt(role, function), timeout: timeout}}
    end
  end

  def callback(_no_resolver, _reference), do: {:error, "there is no such function"}

  @doc """
  Returns the function of a role that a module exports, and its options; or one sentence.
  """
  @spec find(String.t(), Role.t()) :: {:ok, function(), keyword()} | {:error, String.t()}
  def find(text, role) do
    with {:ok, module, name, options} <- Exports.find(text) do
      # The one with most arguments.
      arities = role |> Role.arities() |> Enum.filter(&function_exported?(module, name, &1))

      case List.last(arities) do
        nil -> {:error, undefined(module, name, role)}
        arity -> {:ok, Function.capture(module, name, arity), options}
      end
    end
  end

  defp undefined(module, name, role) do
    arities =
      role |> Role.arities() |> Enum.map_join(" or ", &"#{Exports.text(module, name)}/#{&1}")

    "there is no public function #{arities}, as a #{role} must be"
  end

  # Answers Python: a description for each reference, or the sentence about what is wrong.
  defp describe(%{"functions" => references}), do: Enum.map(references, &describe_one/1)

  defp describe_one(reference) do
    with {:ok, role, text} <- parse(reference),
         {:ok, _function, _options} <- find(text, role),
         {:ok, described} <- description(role, text) do
      described
    else
      {:error, sentence} -> %{error: sentence}
    end
  end

  defp description(:tool, text) do
    with {:ok, module, name, _options} <- Exports.find(text), do: Tool.exported(module, name)
  end

  defp description(_role, _text), do: {:ok, %{}}

  defp parse(reference) do
    with [role, text] <- String.split(reference, ":", parts: 2),
         role when role != nil <- Role.named(role) do
      {:ok, role, text}
    else
      _wrong -> {:error, "there is no such function"}
    end
  end
end
