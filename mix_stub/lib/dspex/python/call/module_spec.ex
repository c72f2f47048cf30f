defmodule DSPex.Python.ModuleSpec do
  @moduledoc """
  Describes the module of a call: a name, or a map with its parts.

      %{
        module: "dspy.BestOfN",
        N: 3,
        threshold: 0.9,
        reward: fn %{"question" => question}, prediction -> score(question, prediction[:answer]) end,
        of: %{module: "dspy.ChainOfThought", signature: "question -> answer"}
      }

  A map (or keyword list) has `:module`, the options of that module (`DSPex.Python.describe_module/2` lists them), and
  optionally `:signature`, `:instructions` and `:tools`. A module that runs another module has it under `:of`, up to five
  levels deep. Only one signature may be given, in any of the maps or as the argument of the call.

  ## Functions

    * `:reward` - of `dspy.BestOfN` and `dspy.Refine`: takes the inputs, a map with string keys, and the
      `DSPex.Prediction`; returns a number (higher is better) or a boolean. With `%{function: fun, description: text}`, the
      model that gives advice for `dspy.Refine` reads the description
    * `:retriever` - of `dspy.Retrieve`: takes the query and the number of passages; returns a list of texts
    * `:embedder` - of `dspy.Retrieve` with `:passages`, and of `dspy.KNN`: takes a list of texts; returns one embedding per
      text, a list of numbers
    * `:sub_lm` - of `dspy.RLM`: a model, written as the option `:lm` of a call; may be a function
    * `:tools` - see `DSPex.Python.Tool`

  Functions run as those of tools do: each in its own process, only during the call. Each call of a stored program brings them again;
  except `{module, name}`, a function that a module exports (`DSPex.Python.Exports`). An exception becomes the error of the call, with the path of the function.

  A check is a reward without a function, 1.0 or 0.0: `%{check: :equals, field: :answer, value: "Lisbon"}` (or
  `input: :expected`, the name of an input), `:contains`, and `:length` or `:words` with `:minimum` and `:maximum`.
  """

  alias DSPex.Python.{Error, Exports, ModelFunction, Tool}
  alias DSPex.Python.Functions.{Callback, Exported, Model, Role}
  alias DSPex.Python.Wire.{Keywords, Limits}

  @type t :: String.t() | map() | keyword()

  # Options that are models, other than the model of the call.
  @models Enum.flat_map(~w(sub_lm teacher_lm prompt_lm reflection_lm)a, &[&1, Atom.to_string(&1)])

  # Options that are functions, with their roles.
  @functions for role <- [:reward, :metric, :retriever, :embedder],
                 key <- [role, Atom.to_string(role)],
                 into: %{},
                 do: {key, role}

  # The keys of values that are functions or may hold some; paths are made for no others.
  @read Map.new(
          [:of, "of", :options, "options", :tools, "tools"] ++ @models ++ Map.keys(@functions),
          &{&1, true}
        )

  @doc false
  # Returns a module's spec and the options of its call in Python's form, and the functions that were in them.
  @spec read(term(), map(), ModelFunction.pool_call() | nil) ::
          {:ok, term(), map(), [Callback.t()]} | {:error, Error.t()}
  def read(spec, options, pool_call) do
    {spec, callbacks} = read_spec(spec, "spec", pool_call, 1)
    {options, of_options} = read_map(options, "opts", pool_call, 1)
    {:ok, spec, options, callbacks ++ of_options}
  catch
    {:spec, error} -> {:error, error}
  end

  # `depth` is the number of the module, counted from the outermost one. It is checked before the path of the next
  # module is built: the paths of a deep spec would need memory that grows with the square of its depth.
  defp read_spec([{key, _value} | _rest] = spec, path, pool_call, depth) when is_atom(key) do
    if Keyword.keyword?(spec) do
      with {:error, error} <- Keywords.check(spec, path), do: throw({:spec, error})
      spec |> Map.new() |> read_map(path, pool_call, depth)
    else
      {spec, []}
    end
  end

  defp read_spec(spec, path, pool_call, depth) when is_map(spec) and not is_struct(spec),
    do: read_map(spec, path, pool_call, depth)

  defp read_spec(spec, _path, _pool_call, _depth), do: {spec, []}

  # Python checks all values that neither are functions nor can hold any.
  defp read_map(map, path, pool_call, depth) do
    # A list is gone through in fewer steps than a map.
    for {key, value} <- Map.to_list(map), is_map_key(@read, key), reduce: {map, []} do
      {read, callbacks} ->
        {value, more} = read_part(key, value, "#{path}.#{key}", pool_call, depth)
        {%{read | key => value}, callbacks ++ more}
    end
  end

  defp read_part(key, nil, _path, _pool_call, _depth) when key in [:of, "of"], do: {nil, []}

  defp read_part(key, value, path, pool_call, depth) when key in [:of, "of"] do
    if depth >= Limits.max_modules() do
      message =
        "expected at most #{Limits.max_modules()} modules that run one another, got another one at #{path}"

      throw({:spec, Error.new(:input, message, %{"path" => path})})
    end

    read_spec(value, path, pool_call, depth + 1)
  end

  # Options have no options of their own; Python refuses those.
  defp read_part(key, %{} = options, path, pool_call, depth)
       when key in [:options, "options"] and not is_struct(options),
       do:
         options
         |> Map.drop([:options, "options"])
         |> read_map(path, pool_call, depth)
         |> with_rest(options)

  defp read_part(key, value, path, pool_call, depth) when key in [:options, "options"] do
    if is_list(value) and value != [] and Keyword.keyword?(value) do
      with {:error, error} <- Keywords.check(value, path), do: throw({:spec, error})
      read_part(key, Map.new(value), path, pool_call, depth)
    else
      {value, []}
    end
  end

  defp read_part(key, value, path, pool_call, _depth), do: read_value(key, value, path, pool_call)

  defp with_rest({read, callbacks}, options),
    do: {Map.merge(Map.take(options, [:options, "options"]), read), callbacks}

  defp read_value(key, value, path, _pool_call) when is_map_key(@functions, key),
    do: read_function(value, @functions[key], path)

  defp read_value(key, value, path, _pool_call) when key in [:tools, "tools"],
    do: value |> Tool.read(path) |> read_or_throw()

  defp read_value(key, value, path, pool_call) when key in @models,
    do: value |> Model.for_call(pool_call, path) |> read_or_throw()

  defp read_or_throw({:ok, value, callbacks}), do: {value, callbacks}
  defp read_or_throw({:error, error}), do: throw({:spec, error})

  defp read_function(function, role, path) when is_function(function) do
    arities = Role.arities(role)

    if not Enum.any?(arities, &is_function(function, &1)) do
      message =
        "expected a function of #{hd(arities)} arguments at #{path}, got #{inspect(function)}"

      throw({:spec, Error.new(:input, message, %{"path" => path})})
    end

    registered(function, role, path, :infinity)
  end

  defp read_function({module, name}, role, path) when is_atom(module) and is_atom(name) do
    text = Exports.text(module, name)

    case Exported.find(text, role) do
      {:ok, function, options} ->
        timeout = Keyword.get(options, :timeout, :infinity)
        {read, callbacks} = registered(function, role, path, timeout)
        {Map.put(read, :elixir, text), callbacks}

      {:error, sentence} ->
        throw({:spec, Error.new(:input, "#{sentence}, at #{path}", %{"path" => path})})
    end
  end

  defp read_function(%{function: function} = described, role, path)
       when is_function(function) or is_tuple(function) do
    {read, callbacks} = read_function(function, role, "#{path}.function")
    {described |> Map.delete(:function) |> Map.merge(read), callbacks}
  end

  defp read_function(other, _role, _path), do: {other, []}

  defp registered(function, role, path, timeout) do
    {:arity, arity} = Function.info(function, :arity)
    callback = Callback.new(path, Role.adapt(role, function), timeout)
    read = %{callback: callback.id}
    # Python gives a metric of the usual arity no more than that.
    read = if arity == hd(Role.arities(role)), do: read, else: Map.put(read, :arity, arity)
    {read, [callback]}
  end
end
