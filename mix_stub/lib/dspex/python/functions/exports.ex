defmodule DSPex.Python.Exports do
  @moduledoc """
  A behaviour of modules whose functions stored programs may name.

      defmodule MyApp.Tools do
        @behaviour DSPex.Python.Exports

        @impl true
        def exports do
          [
            :near,
            lookup: [description: "How many pieces of an article are in stock", parameters: %{article: :string}]
          ]
        end

        def lookup(%{"article" => article}), do: Warehouse.count(article)
        def near(query, k), do: Search.nearest(query, k)
      end

      DSPex.Python.create_program(%{
        signature: "question -> answer",
        modules: [%{module: "dspy.ReAct", tools: [{MyApp.Tools, :lookup}, "calculator"]}]
      })

  An anonymous function can be called only while the call lasts that brings it. `{module, name}` is found again by every
  process, so a program that names it needs no `:tools` with its calls, also after it was compiled, dumped and loaded, and
  after Python or the node was restarted. It stands wherever a function does: among `:tools`, as `:reward`, `:retriever`,
  `:embedder` and `:metric`. What a call brings goes before what its program names.

  A program keeps the text `"MyApp.Tools.lookup"`. Text from outside cannot reach any other function: it must name a
  module with this behaviour that the node has, and a function that `c:exports/0` lists. No atom is made of it.

  ## Options of an exported function

    * `:description`, `:parameters`, `:timeout` - as those of `DSPex.Python.Tool`; a tool needs a description
  """

  alias DSPex.Suggestion

  @type name :: atom()
  @type options :: keyword()

  @doc """
  Lists the functions that programs may name, with the options of those that have some.
  """
  @callback exports() :: [name() | {name(), options()}]

  @doc false
  # Returns the text that stands for a function in a program.
  @spec text(module(), name()) :: String.t()
  def text(module, name), do: "#{inspect(module)}.#{name}"

  @doc false
  # Finds the function that a text names, or returns one sentence about why it is none.
  @spec find(String.t()) :: {:ok, module(), name(), options()} | {:error, String.t()}
  def find(text) do
    with [module, name] <- split(text),
         {:ok, module} <- existing(module),
         {:ok, exports} <- exports(module) do
      case Enum.find(exports, fn {exported, _options} -> Atom.to_string(exported) == name end) do
        {name, options} -> {:ok, module, name, options}
        nil -> {:error, unlisted(module, name, exports)}
      end
    else
      {:error, _sentence} = error -> error
      _no_name -> {:error, "expected text such as \"MyApp.Tools.lookup\", got #{shown(text)}"}
    end
  end

  @doc false
  # Returns the options of an exported function, or one sentence.
  @spec fetch(module(), name()) :: {:ok, options()} | {:error, String.t()}
  def fetch(module, name) do
    with {:ok, _module, _name, options} <- find(text(module, name)), do: {:ok, options}
  end

  defp split(text) do
    case String.split(text, ".") do
      [_one] -> :error
      parts -> [parts |> Enum.drop(-1) |> Enum.join("."), List.last(parts)]
    end
  end

  # The atoms of all modules of the node's applications exist, also of those that are not loaded yet.
  defp existing(text) do
    atom =
      if String.starts_with?(text, ":"), do: String.slice(text, 1..-1//1), else: "Elixir." <> text

    {:ok, String.to_existing_atom(atom)}
  rescue
    # There is no such atom, or it would be longer than atoms are.
    _error in [ArgumentError, SystemLimitError] ->
      {:error, "this node has no module #{shown(text)}"}
  end

  defp exports(module) do
    cond do
      not Code.ensure_loaded?(module) ->
        {:error, "this node has no module #{inspect(module)}"}

      not exports?(module) ->
        {:error, "the module #{inspect(module)} exports no functions; see DSPex.Python.Exports"}

      true ->
        read(module)
    end
  end

  defp exports?(module) do
    behaviours = :attributes |> module.module_info() |> Keyword.get_values(:behaviour)
    __MODULE__ in List.flatten(behaviours) and function_exported?(module, :exports, 0)
  end

  defp read(module) do
    exports = module.exports()

    if is_list(exports) and not List.improper?(exports) and Enum.all?(exports, &entry?/1),
      do: {:ok, Enum.map(exports, &if(is_atom(&1), do: {&1, []}, else: &1))},
      else:
        {:error, "expected a list of names and {name, options} from #{inspect(module)}.exports/0"}
  rescue
    error -> {:error, "#{inspect(module)}.exports/0 failed: #{Exception.message(error)}"}
  end

  defp entry?({name, options}), do: is_atom(name) and Keyword.keyword?(options)
  defp entry?(name), do: is_atom(name)

  defp unlisted(module, name, exports) do
    known = for {exported, _options} <- exports, do: Atom.to_string(exported)
    hint = Suggestion.hint(name, known)

    "#{inspect(module)} does not export #{shown(name)}#{hint}; it exports #{Enum.join(known, ", ")}"
  end

  defp shown(text), do: inspect(text, printable_limit: 100)
end
