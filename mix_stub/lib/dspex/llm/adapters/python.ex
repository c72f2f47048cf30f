defmodule DSPex.LLM.Adapters.Python do
  # The modules of Python's catalogue; a test compares both lists.
  @supported_modules ~w(dspy.Predict dspy.ChainOfThought dspy.ReAct dspy.ReActV2 dspy.ProgramOfThought dspy.CodeAct
                        dspy.RLM dspy.Flex dspy.MultiChainComparison dspy.BestOfN dspy.Refine
                        dspy.Retrieve dspy.KNN)

  @moduledoc """
  Implements the protocol `DSPex.LLM.Adapter` with DSPy's modules in a pool's Python.

      adapter = %DSPex.LLM.Adapters.Python{pool: :general, timeout: 30_000}

      {:ok, result} =
        DSPex.LLM.Adapter.generate(adapter, "Explain how photosynthesis works",
          module: "dspy.ChainOfThought",
          signature: "question -> explanation"
        )

      result[:explanation]

  ## Fields

    * `:pool` - the name of the pool, see `DSPex.Python.Pool`, or `{:cluster, name}`, see `DSPex.Python.Cluster`; `:general` by default
    * `:timeout` - of each call in ms; 30,000 by default
    * `:serialization_format` - `:native` (the default) or `:json`, with the same results
    * `:strict` - `true`: an option that means nothing to a call is an error; without it only a misspelt one is, and another is
      named in `prediction.warnings`
    * `:module_config` - options for every call (as below); options of the call itself override them
    * `:errors` - `:reasons` (the default): the reasons below; `:structs`: each error is a `%DSPex.Python.Error{}`, as
      from the functions of `DSPex.Python`, with its kind, message and path

  ## Options of `generate/3`, `stream/3` and `batch/3`

    * `:module` - one of #{Enum.map_join(@supported_modules, ", ", &"`#{inspect(&1)}`")};
      `"dspy.Predict"` by default; or a map, see `DSPex.Python.ModuleSpec`
    * `:signature` - `"question -> answer"` by default; or `:inputs` and `:outputs` (lists of names or of `"name: type"`)
    * `:instructions` - the instructions for the model
    * all other options of `DSPex.Python.execute_module/4`

  ## Errors

  | returned | when |
  | --- | --- |
  | `{:error, :module_not_found}` | DSPy has no module of that name |
  | `{:error, {:invalid_input, message}}` | the signature or an input is wrong |
  | `{:error, :python_timeout}` | the call had a timeout |
  | `{:error, {:invalid_config, message}}` | a field of the adapter is wrong |
  | `{:error, {:python_error, details}}` | any other error; `details` is a map with string keys, see `DSPex.Python.Error` |

  What `:module_not_found` and `:python_timeout` leave out (which module may have been meant, where the time went) is logged at the
  level `debug`, and is in the error with `errors: :structs`.
  """

  require Logger

  alias DSPex.{Prediction, Program, Suggestion}
  alias DSPex.Python.Call.CallOptions
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Functions.Model
  alias DSPex.Python.Wire.{Keywords, Timeout}

  @formats [:native, :json]
  @errors [:reasons, :structs]
  # The options of create_program/3 that belong to the call and not to the program.
  @call_options [:timeout, :session_id]
  # The options of a request that are arguments of DSPex.Python.
  @arguments [:module, :signature, :inputs, :outputs, :instructions]

  defstruct pool: :general,
            timeout: 30_000,
            serialization_format: :native,
            strict: false,
            module_config: %{},
            errors: :reasons

  @type t :: %__MODULE__{
          pool: Cluster.pool(),
          timeout: timeout(),
          serialization_format: :native | :json,
          strict: boolean(),
          module_config: map() | keyword(),
          errors: :reasons | :structs
        }

  @type reason ::
          :module_not_found
          | :python_timeout
          | {:invalid_input, String.t()}
          | {:invalid_config, String.t()}
          | {:python_error, %{String.t() => term()}}
          | Error.t()

  @doc """
  Returns the DSPy modules that this adapter supports.
  """
  @spec supported_modules() :: [String.t()]
  def supported_modules, do: @supported_modules

  @doc """
  Sets the language model of the adapter's pool: `:embedded`, or `{provider, options}` as in `DSPex.Python.Pool`.
  """
  @spec configure(t(), Model.t()) :: :ok | {:error, reason()}
  def configure(%__MODULE__{} = adapter, model) do
    with :ok <- check_fields(adapter),
         :ok <- invalid(Model.validate(model)),
         {:ok, _configured} <-
           DSPex.Python.configure_lm(model, %{}, call_options(adapter, %{})) do
      :ok
    end
    |> told(adapter)
  end

  @doc """
  Creates a program: a signature, and modules that are executed one after the other.

  Options: `:modules` (`["dspy.Predict"]` by default), `:session_id`, `:timeout`; the rest is part of the program, see
  `DSPex.Python.create_program/2`.
  """
  @spec create_program(t(), DSPex.Python.signature(), keyword() | map()) ::
          {:ok, Program.t()} | {:error, reason()}
  def create_program(%__MODULE__{} = adapter, signature, options \\ []) do
    with :ok <- check_fields(adapter),
         :ok <- check_once(options) do
      {call, spec} = adapter |> merged(options) |> Map.split(@call_options)
      spec = spec |> Map.put_new(:modules, ["dspy.Predict"]) |> Map.put(:signature, signature)

      DSPex.Python.create_program(spec, call_options(adapter, call))
    end
    |> told(adapter)
  end

  @doc """
  Executes a program, which is a `%DSPex.Program{}`, in its own pool, or its id, in the pool of the adapter.
  """
  @spec execute_program(t(), DSPex.Python.program(), DSPex.Python.inputs(), keyword() | map()) ::
          {:ok, Prediction.t()} | {:error, reason()}
  def execute_program(%__MODULE__{} = adapter, program, inputs, options \\ []) do
    with :ok <- check_fields(adapter),
         :ok <- check_once(options) do
      options = adapter |> of_program(program) |> call_options(CallOptions.to_map!(options))
      DSPex.Python.execute_program(program, inputs, options)
    end
    |> told(adapter)
  end

  # The adapter's pool is that of ids.
  defp of_program(adapter, %Program{pool: pool}), do: %{adapter | pool: pool}
  defp of_program(adapter, _program_id), do: adapter

  @doc false
  def capabilities(%__MODULE__{}) do
    %{
      modules: @supported_modules,
      serialization_formats: @formats,
      batch: true,
      programs: true,
      tools: true,
      streaming: true
    }
  end

  @doc false
  def generate(%__MODULE__{} = adapter, prompt, options) do
    with :ok <- check_fields(adapter),
         {:ok, inputs} <- inputs(prompt),
         {:ok, {module, signature, options}} <- request(adapter, options) do
      DSPex.Python.execute_module(module, signature, inputs, options)
    end
    |> told(adapter)
  end

  @doc false
  def stream(%__MODULE__{} = adapter, prompt, options) do
    with :ok <- check_fields(adapter),
         {:ok, inputs} <- inputs(prompt),
         {:ok, {module, signature, options}} <- request(adapter, options) do
      elements = DSPex.Python.stream(module, signature, inputs, options)
      {:ok, Stream.map(elements, &told(&1, adapter))}
    end
    |> told(adapter)
  end

  @doc false
  def batch(%__MODULE__{} = adapter, prompts, options) do
    with :ok <- check_fields(adapter),
         {:ok, inputs_list} <- all_inputs(prompts),
         {:ok, {module, signature, options}} <- request(adapter, options),
         {:ok, results} <-
           DSPex.Python.execute_batch(module, signature, inputs_list, options) do
      {:ok, Enum.map(results, &told(&1, adapter))}
    end
    |> told(adapter)
  end

  @doc false
  def validate_config(%__MODULE__{pool: pool} = adapter) do
    with :ok <- check_fields(adapter) do
      case Cluster.check_model(pool) do
        :ok -> :ok
        {:missing, message} -> invalid({:error, message})
        {_failed, error} -> invalid({:error, error.message})
      end
    end
    |> told(adapter)
  end

  @doc false
  # One message becomes its text; several become a transcript. So they fit the first input of any signature.
  def format_messages(%__MODULE__{} = adapter, messages) do
    messages
    |> Enum.with_index()
    |> Enum.reduce_while({:ok, []}, fn {message, index}, {:ok, read} ->
      case message_text(message) do
        {:ok, role, content} -> {:cont, {:ok, [{role, content} | read]}}
        :error -> {:halt, {:error, {:invalid_input, message_expected(index, message)}}}
      end
    end)
    |> case do
      {:ok, []} ->
        {:error, {:invalid_input, "expected at least one message"}}

      {:ok, [{_role, content}]} ->
        {:ok, content}

      {:ok, read} ->
        {:ok,
         read |> Enum.reverse() |> Enum.map_join("\n", fn {role, text} -> "#{role}: #{text}" end)}

      error ->
        error
    end
    |> told(adapter)
  end

  @doc false
  def extract_content(%__MODULE__{} = adapter, %Prediction{} = prediction) do
    case Prediction.main(prediction) do
      nil -> {:error, {:invalid_input, "the prediction has no output but its reasoning"}}
      content -> {:ok, content}
    end
    |> told(adapter)
  end

  # Returns the module, signature and options of a request, from the options of the adapter and of the call.
  defp request(adapter, given) do
    {own, options} = adapter |> merged(given) |> Map.split(@arguments)

    with :ok <- check_once(given),
         :ok <- check_names(Map.keys(options)) do
      module = Map.get(own, :module, "dspy.Predict")
      signature = if asked?(own) or not signature?(module), do: signature(own)
      {:ok, {module, signature, call_options(adapter, options)}}
    end
  end

  defp check_once(options) do
    case Keywords.repeated(options, "options") do
      nil -> :ok
      message -> {:error, {:invalid_input, message}}
    end
  end

  # Python checks the names of all other options, and suggests `lm` for `model`.
  defp check_names(names) do
    wrong =
      for name <- names -- [:model],
          meant = Suggestion.misspelt(name, @arguments),
          do: "unknown option #{inspect(name)} at options (did you mean #{inspect(meant)}?)"

    case wrong do
      [] -> :ok
      [message | _rest] -> {:error, {:invalid_input, message}}
    end
  end

  defp asked?(own),
    do: Enum.any?([:signature, :inputs, :outputs, :instructions], &is_map_key(own, &1))

  # Tells whether a module has a signature: a module of the application has one, and the map of a module may have one.
  defp signature?([{_key, _value} | _rest] = spec),
    do: Keyword.keyword?(spec) and spec |> Map.new() |> signature?()

  defp signature?(spec) when is_map(spec) and not is_struct(spec) do
    is_map_key(spec, :signature) or is_map_key(spec, "signature") or
      signature?(spec[:of] || spec["of"] || spec[:module] || spec["module"])
  end

  defp signature?(name) when is_atom(name), do: name |> Atom.to_string() |> signature?()

  defp signature?(name) when is_binary(name),
    do: not String.starts_with?(name, "dspy.") or name == "dspy.Retrieve"

  defp signature?(_charlist), do: false

  defp signature(%{signature: signature, instructions: instructions}) when is_map(signature) do
    Map.put(signature, :instructions, instructions)
  end

  # Each side of the map form may be text, so Python parses the fields and their types.
  defp signature(%{signature: signature, instructions: instructions}) when is_binary(signature) do
    [inputs | outputs] = String.split(signature, "->", parts: 2)
    %{inputs: inputs, outputs: Enum.join(outputs), instructions: instructions}
  end

  defp signature(%{signature: signature}), do: signature

  defp signature(own) do
    own
    |> Map.take([:inputs, :outputs, :instructions])
    |> Map.put_new(:inputs, ["question"])
    |> Map.put_new(:outputs, ["answer"])
  end

  defp merged(adapter, options),
    do: Map.merge(Map.new(adapter.module_config), CallOptions.to_map!(options))

  defp call_options(adapter, options) do
    Map.merge(
      %{
        pool: adapter.pool,
        timeout: adapter.timeout,
        serialization_format: adapter.serialization_format
      },
      options
    )
    |> then(&if adapter.strict, do: Map.put_new(&1, :strict, true), else: &1)
  end

  # Prompts ----------------------------------------------------------------------------------------------------------

  defp inputs(prompt) when is_binary(prompt) or is_map(prompt), do: {:ok, prompt}

  defp inputs([message | _rest] = messages) when is_map(message),
    do: format_messages(%__MODULE__{}, messages)

  defp inputs([{name, _value} | _rest] = inputs) when is_atom(name), do: {:ok, inputs}

  # A charlist.
  defp inputs([character | _rest] = text) when is_integer(character), do: {:ok, text}

  defp inputs(other) do
    {:error,
     {:invalid_input,
      "expected a prompt as text, a map of inputs or a list of messages, got #{inspect(other, limit: 5)}"}}
  end

  defp all_inputs(prompts) when not is_list(prompts) do
    {:error, {:invalid_input, "expected a list of prompts, got #{inspect(prompts, limit: 5)}"}}
  end

  defp all_inputs(prompts) do
    Enum.reduce_while(prompts, {:ok, []}, fn prompt, {:ok, read} ->
      case inputs(prompt) do
        {:ok, inputs} -> {:cont, {:ok, [inputs | read]}}
        error -> {:halt, error}
      end
    end)
    |> case do
      {:ok, read} -> {:ok, Enum.reverse(read)}
      error -> error
    end
  end

  defp message_text(%{role: role, content: content}) when is_binary(content),
    do: role(role, content)

  defp message_text(%{"role" => role, "content" => content}) when is_binary(content),
    do: role(role, content)

  defp message_text(_message), do: :error

  defp role(role, content) when is_atom(role) or is_binary(role),
    do: {:ok, to_string(role), content}

  defp role(_role, _content), do: :error

  defp message_expected(index, message) do
    "expected a message with role and content at messages[#{index}], got #{inspect(message)}"
  end

  # Results ----------------------------------------------------------------------------------------------------------

  # Returns a result, or an element of a stream, with its error as the adapter's field `:errors` says.
  defp told({:error, %Error{}} = result, %{errors: :structs}), do: result

  defp told({:error, {:invalid_input, message}}, %{errors: :structs}),
    do: {:error, Error.new(:input, message)}

  defp told({:error, {:invalid_config, message}}, %{errors: :structs}),
    do: {:error, Error.new(:input, message)}

  defp told({:error, %Error{} = error}, _adapter) do
    reason = reason(error)
    if is_atom(reason), do: Logger.debug("#{inspect(reason)}: #{error.message}")
    {:error, reason}
  end

  defp told(other, _adapter), do: other

  defp reason(%Error{type: "ModuleNotFoundError"}), do: :module_not_found
  defp reason(%Error{type: "ValueError", message: message}), do: {:invalid_input, message}
  defp reason(%Error{type: "TimeoutError"}), do: :python_timeout

  # The message may say more than Python knew, see explain_missing/2 in DSPex.Python.Call.Operation.
  defp reason(%Error{details: details, message: message}),
    do: {:python_error, Map.put(details, "message", message)}

  # Settings ---------------------------------------------------------------------------------------------------------

  defp check_fields(%__MODULE__{} = adapter) do
    invalid(
      cond do
        not Cluster.pool?(adapter.pool) ->
          {:error,
           "expected the name of a pool at pool, got #{inspect(adapter.pool)}; {:cluster, name} stands for those of all nodes"}

        not Timeout.valid?(adapter.timeout) ->
          {:error,
           "expected a positive number of milliseconds or :infinity at timeout, got #{inspect(adapter.timeout)}"}

        adapter.serialization_format not in @formats ->
          {:error,
           "expected :native or :json at serialization_format, got #{inspect(adapter.serialization_format)}"}

        not is_boolean(adapter.strict) ->
          {:error, "expected a boolean at strict, got #{inspect(adapter.strict)}"}

        adapter.errors not in @errors ->
          {:error, "expected :reasons or :structs at errors, got #{inspect(adapter.errors)}"}

        not is_map(adapter.module_config) and not Keyword.keyword?(adapter.module_config) ->
          {:error,
           "expected a map or a keyword list at module_config, got #{inspect(adapter.module_config)}"}

        message = Keywords.repeated(adapter.module_config, "module_config") ->
          {:error, message}

        true ->
          :ok
      end
    )
  end

  defp invalid(:ok), do: :ok
  defp invalid({:error, message}), do: {:error, {:invalid_config, message}}

  defimpl DSPex.LLM.Adapter do
    alias DSPex.LLM.Adapters.Python

    defdelegate capabilities(adapter), to: Python
    defdelegate generate(adapter, prompt, options \\ []), to: Python
    defdelegate stream(adapter, prompt, options \\ []), to: Python
    defdelegate batch(adapter, prompts, options \\ []), to: Python
    defdelegate validate_config(adapter), to: Python
    defdelegate format_messages(adapter, messages), to: Python
    defdelegate extract_content(adapter, prediction), to: Python
  end
end
