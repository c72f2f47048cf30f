defmodule DSPex.Python.Tool do
  @moduledoc """
  Reads the tools of `dspy.ReAct`, `dspy.ReActV2`, `dspy.CodeAct`, `dspy.RLM` and `dspy.Flex`: Python tools by name, and
  Elixir functions.

      DSPex.Python.execute_module("dspy.ReAct", "question -> answer", %{question: "How many bolts are in stock?"},
        tools: [
          %{
            name: "stock",
            description: "How many pieces of an article are in stock",
            parameters: %{article: {:string, "its name, in the singular"}},
            function: fn %{"article" => article} -> Warehouse.count(article) end
          },
          {MyApp.Tools, :lookup},
          "calculator"
        ]
      )

  ## Keys of an Elixir function

    * `:name` - letters, digits and `_`
    * `:description` - what the tool is for: the language model chooses by it
    * `:parameters` - the function's parameters; none by default. A map (or keyword list) of names, see below, or a JSON
      schema with string keys (`%{"type" => "object", "properties" => …}`, also with `$ref` and `$defs`)
    * `:function` - takes one map with string keys: the model's arguments, and defaults for missing ones
    * `:timeout` - the longest time of an invocation in ms; as long as the call by default

  ## Parameters

  A parameter is a type, `{type, description}`, or `{type, options}`. Types are `:string`, `:integer`, `:number`,
  `:boolean`, `:object`, `:array` or `:list`, `{:array, type}` or `{:list, type}`, `:any`, and for a nested object its own parameters: `%{city: :string}`, a
  keyword list or `{:object, parameters}`. Arguments are in the order of a keyword list. Options are `:description`, `:enum`, `:minimum`, `:maximum`,
  `:default` (for an argument that is left out) and `optional: true` (it may be missing in the map).

  Arguments are checked before the function is called. Text for a number or a boolean is converted.

  ## Results

  The model reads the function's result: text, numbers, lists, maps, dates, … `{:ok, value}` counts as `value`;
  `{:error, reason}` is a failure. The model gets one sentence (`Error in stock: …`) and continues after a failure, an
  exception, a timeout, or a result that it cannot read (a pid, a function, a binary that is not UTF-8). Exceptions are
  logged with their stacktrace.

  The function runs in a process of its own, several at the same time for concurrent calls (see
  `DSPex.Python.Callbacks`). It may call `DSPex.Python` itself, also for the same pool. It can be called only during the
  call, so each call of a stored program brings its tools again; except `{module, name}`, a function that a module exports
  (`DSPex.Python.Exports`) and every process finds.
  """

  alias DSPex.Python.{Error, Exports}
  alias DSPex.Suggestion
  alias DSPex.Python.Functions.Callback
  alias DSPex.Python.Wire.{Keywords, Limits, Timeout}

  @keys [:name, :description, :parameters, :function, :timeout]
  @types [:string, :integer, :number, :boolean, :object, :array]
  @options [:description, :enum, :minimum, :maximum, :default, :optional]
  # What other libraries, and signatures, write for these types.
  @meant %{
    "str" => ":string",
    "text" => ":string",
    "binary" => ":string",
    "atom" => ":string",
    "int" => ":integer",
    "float" => ":number",
    "bool" => ":boolean",
    "map" => ":object",
    "dict" => ":object",
    "struct" => ":object",
    "enum" => ~S|{:string, enum: ["a", "b"]}|,
    "optional" => "{type, optional: true}",
    "nil" => "{type, optional: true}"
  }

  @with_options ~S|{type, options}, such as {:string, description: "its name", enum: ["a", "b"]},|

  @type type ::
          :string
          | :integer
          | :number
          | :boolean
          | :object
          | :array
          | :list
          | {:array, type()}
          | {:list, type()}
          | :any
          | parameters()
          | {:object, parameters()}
  @type parameter :: type() | {type(), String.t()} | {type(), keyword()}
  @type parameters :: %{(atom() | String.t()) => parameter()} | keyword(parameter()) | map()
  @type t :: String.t() | atom() | map() | keyword() | {module(), atom()}

  @doc """
  Reads the tools at `path` of a call: returns them in Python's form, and the Elixir functions among them.

  Python refuses a value that is not a list, and wrong names, descriptions and schemas.

      iex> tool = %{name: "now", description: "The time", function: fn %{} -> "noon" end}
      iex> {:ok, ["calculator", %{name: "now", callback: id}], [%{id: id}]} = DSPex.Python.Tool.read(["calculator", tool])
      iex> {:error, error} = DSPex.Python.Tool.read([%{tool | function: "now"}])
      iex> error.message
      "expected a function of one argument at opts.tools[0].function, got \\"now\\""
      iex> {:error, error} = DSPex.Python.Tool.read([fn _arguments -> "noon" end])
      iex> error.message =~ "expected a tool: a map with :name, :description and :function"
      true
  """
  @spec read(term(), String.t()) :: {:ok, term(), [Callback.t()]} | {:error, Error.t()}
  def read(tools, path \\ "opts.tools")

  def read(tools, path) when is_list(tools) do
    if List.improper?(tools), do: throw({:tool, path, "a list of tools", tools})

    {tools, callbacks} =
      tools
      |> Enum.with_index(fn tool, index -> read_tool(tool, "#{path}[#{index}]") end)
      |> Enum.unzip()

    {:ok, tools, Enum.reject(callbacks, &is_nil/1)}
  catch
    {:tool, path, _expected, _got} = wrong ->
      {:error, Error.new(:input, message(wrong), %{"path" => path})}
  end

  def read(other, _path), do: {:ok, other, []}

  @doc false
  # Describes an exported function as a tool, for Python; or returns one sentence.
  @spec exported(module(), atom()) :: {:ok, map()} | {:error, String.t()}
  def exported(module, name) do
    with {:ok, options} <- Exports.fetch(module, name) do
      path = Exports.text(module, name)
      {described, _callback} = read_exported({module, name}, options, path)
      {:ok, Map.take(described, [:name, :description, :parameters])}
    end
  catch
    {:tool, _path, _expected, _got} = wrong -> {:error, message(wrong)}
  end

  @doc false
  # Returns the JSON schema of parameters; raises `ArgumentError` for a wrong one.
  def json_schema!(parameters) do
    check_depth!(parameters, "parameters")
    schema(parameters, "parameters")
  catch
    {:tool, _path, _expected, _got} = wrong -> raise ArgumentError, message(wrong)
  end

  defp message({:tool, path, :exported, sentence}), do: "#{sentence}, at #{path}"
  defp message({:tool, path, :once, pairs}), do: Keywords.repeated(pairs, path)

  defp message({:tool, path, {:only, known}, key}) do
    keys = Enum.map_join(known, ", ", &inspect/1)
    hint = if is_atom(key) or is_binary(key), do: Suggestion.hint(key, known)
    message({:tool, path, "only the keys #{keys}", key}) <> "#{hint}"
  end

  defp message({:tool, path, :type, got}) do
    types = Enum.map_join(@types, ", ", &inspect/1)
    expected = "a type (#{types}, :any or {:array, type})"
    message({:tool, path, expected, got}) <> meant(got)
  end

  defp message({:tool, path, expected, :deeper}), do: "expected #{expected} at #{path}"

  defp message({:tool, path, expected, got}),
    do: "expected #{expected} at #{path}, got #{inspect(got, limit: 5)}"

  defp read_tool([_first | _rest] = tool, path) do
    # A charlist is a name.
    if Keyword.keyword?(tool),
      do: tool |> once!(path) |> Map.new() |> read_tool(path),
      else: {tool, nil}
  end

  defp read_tool(tool, path) when is_map(tool) and not is_struct(tool) do
    tool = Map.new(tool, fn {key, value} -> {known_key!(key, @keys, path), value} end)
    function = tool[:function]

    if not is_function(function, 1),
      do: throw({:tool, "#{path}.function", "a function of one argument", function})

    timeout = Map.get(tool, :timeout, :infinity)

    if not Timeout.valid?(timeout),
      do: throw({:tool, "#{path}.timeout", "a time limit in ms or :infinity", timeout})

    callback = Callback.new(tool[:name], function, timeout)
    parameters = Map.get(tool, :parameters, %{})
    check_depth!(parameters, "#{path}.parameters")

    described = %{
      name: tool[:name],
      description: tool[:description],
      parameters: schema(parameters, "#{path}.parameters"),
      callback: callback.id
    }

    {described, callback}
  end

  defp read_tool({module, name}, path) when is_atom(module) and is_atom(name) do
    case Exports.fetch(module, name) do
      {:ok, options} -> read_exported({module, name}, options, path)
      {:error, sentence} -> throw({:tool, path, :exported, sentence})
    end
  end

  defp read_tool(function, path) when is_function(function),
    do:
      throw(
        {:tool, path,
         "a tool: a map with :name, :description and :function, {module, function} of exports/0, or the name of a tool in Python,",
         function}
      )

  defp read_tool(name, _path), do: {name, nil}

  defp read_exported({module, name}, options, path) do
    text = Exports.text(module, name)

    if not is_binary(options[:description]),
      do: throw({:tool, path, "a description of #{text} in exports/0", options[:description]})

    if not function_exported?(module, name, 1),
      do:
        throw(
          {:tool, path, :exported, "there is no public function #{text}/1, as a tool must be"}
        )

    tool = Map.new(options)

    tool =
      Map.merge(tool, %{name: Atom.to_string(name), function: Function.capture(module, name, 1)})

    {described, callback} = read_tool(tool, path)
    {Map.put(described, :elixir, text), callback}
  end

  defp once!(pairs, path) do
    if Keywords.repeated(pairs, path), do: throw({:tool, path, :once, pairs})
    pairs
  end

  defp known_key!(key, known, path) do
    Enum.find(known, &(&1 == key or Atom.to_string(&1) == key)) ||
      throw({:tool, path, {:only, known}, key})
  end

  # Checked before any path is built: the paths of a deep term would need memory that grows with the square of its depth.
  defp check_depth!(parameters, path) do
    max = Limits.max_depth()

    if Limits.deeper?(parameters, max),
      do: throw({:tool, path, "parameters that nest at most #{max} levels", :deeper})
  end

  # Returns a JSON schema unchanged, or makes one from the short form.
  defp schema(%{"type" => type} = schema, _path) when is_binary(type), do: schema
  defp schema(%{"properties" => properties} = schema, _path) when is_map(properties), do: schema

  defp schema(parameters, path) do
    if not is_map(parameters) and not Keyword.keyword?(parameters),
      do: throw({:tool, path, "a map of parameters", parameters})

    read =
      for {name, parameter} <- once!(parameters, path) do
        name = if is_atom(name), do: Atom.to_string(name), else: name
        {property, optional?} = property(parameter, "#{path}.#{shown_name(name)}")
        {name, property, optional?}
      end

    # A map has no order of its own; that of a keyword list is meant.
    read = if is_map(parameters), do: Enum.sort(read), else: read

    %{
      "type" => "object",
      "properties" => Map.new(read, fn {name, property, _optional?} -> {name, property} end),
      "required" => for({name, _property, false} <- read, do: name),
      "propertyOrdering" => for({name, _property, _optional?} <- read, do: name)
    }
  end

  # Returns the schema of one parameter, and whether it is optional. A list may be called as in signatures.
  defp property({:list, rest}, path), do: property({:array, rest}, path)

  defp property({type, fields}, path)
       when type in [:object, :array] and is_map(fields) and not is_struct(fields),
       do: {type_schema({type, fields}, path), false}

  defp property({type, [{_name, _value} | _rest] = fields}, path)
       when type in [:object, :array] do
    if Enum.all?(fields, fn {key, _value} -> key in @options end),
      do: {Map.merge(type_schema(type, path), described(fields)), optional?(fields)},
      else: {type_schema({type, fields}, path), false}
  end

  defp property({:array, type}, path) when is_atom(type) or is_tuple(type),
    do: {type_schema({:array, type}, path), false}

  defp property({type, description}, path) when is_binary(description),
    do: {Map.put(type_schema(type, path), "description", description), false}

  defp property({type, options} = given, path) do
    if not Keyword.keyword?(options) do
      # What is wrong may be the form, `{:optional, :string}`, and not what stands in it.
      if is_atom(type) and type not in [:any, :list | @types],
        do: throw({:tool, path, :type, given})

      throw({:tool, path, "a description or a keyword list in {type, …}", options})
    end

    for {key, _value} <- once!(options, path), do: known_key!(key, @options, path)
    {Map.merge(type_schema(type, path), described(options)), optional?(options)}
  end

  # In signatures such a map is a type with its settings. Here it is an object with a parameter named type.
  defp property(%{type: _type} = fields, path) do
    if is_binary(fields[:description]) or is_list(fields[:enum]),
      do: throw({:tool, path, @with_options, fields})

    {type_schema(fields, path), false}
  end

  defp property(type, path), do: {type_schema(type, path), false}

  defp described(options) do
    for {key, value} <- options, key != :optional, into: %{}, do: {Atom.to_string(key), value}
  end

  defp optional?(options),
    do: Keyword.get(options, :optional, Keyword.has_key?(options, :default)) == true

  defp type_schema(:any, _path), do: %{}
  defp type_schema(:list, path), do: type_schema(:array, path)
  defp type_schema({:list, type}, path), do: type_schema({:array, type}, path)
  defp type_schema(type, _path) when type in @types, do: %{"type" => Atom.to_string(type)}

  defp type_schema({:array, type}, path),
    do: %{"type" => "array", "items" => type_schema(type, path)}

  defp type_schema({:object, fields}, path) when is_map(fields) or is_list(fields),
    do: schema(fields, path)

  defp type_schema([type], path) when is_atom(type), do: throw({:tool, path, :type, [type]})

  defp type_schema(fields, path)
       when (is_map(fields) and not is_struct(fields)) or (is_list(fields) and fields != []),
       do: schema(fields, path)

  defp type_schema(other, path), do: throw({:tool, path, :type, other})

  # The alias `String` is the atom :"Elixir.String".
  defp meant(type) when is_atom(type) or is_binary(type) do
    name = type |> to_string() |> String.replace_prefix("Elixir.", "") |> String.downcase()
    name = if type == nil, do: "nil", else: name

    case @meant do
      %{^name => meant} ->
        " (did you mean #{meant}?)"

      _unknown ->
        case Suggestion.misspelt(name, [:any, :list | @types]) do
          nil -> ""
          meant -> " (did you mean #{inspect(meant)}?)"
        end
    end
  end

  defp meant({form, _rest}) when form in [:optional, :enum, :map], do: meant(form)
  defp meant([type]) when is_atom(type), do: " (did you mean {:array, #{inspect(type)}}?)"
  defp meant(_other), do: ""

  defp shown_name(name) when is_binary(name), do: name
  defp shown_name(name), do: inspect(name)
end
