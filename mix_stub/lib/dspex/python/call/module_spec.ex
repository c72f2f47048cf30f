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

  Functions run as those of tools do: each in its own process, only during the call. Each call of a stored program brings them again.
  An exception becomes the error of the call, with the path of the function.

  A check is a reward without a function, 1.0 or 0.0: `%{check: :equals, field: :answer, value: "Lisbon"}` (or
  `input: :expected`, the name of an input), `:contains`, and `:length` or `:words` with `:minimum` and `:maximum`.
  """

  alias DSPex.Prediction
  alias DSPex.Python.{Error, ModelFunction, Tool}
  alias DSPex.Python.Functions.{Callback, Model}

  @type t :: String.t() | map() | keyword()

  # Options that are models, other than the model of the call.
  @models Enum.flat_map(~w(sub_lm teacher_lm prompt_lm reflection_lm)a, &[&1, Atom.to_string(&1)])

  @doc false
  # Returns a module's spec and the options of its call in Python's form, and the functions that were in them.
  @spec read(term(), map(), ModelFunction.pool_call() | nil) ::
          {:ok, term(), map(), [Callback.t()]} | {:error, Error.t()}
  def read(spec, options, pool_call) do
    {spec, callbacks} = read_spec(spec, "spec", pool_call)
    {options, of_options} = read_map(options, "opts", pool_call)
    {:ok, spec, options, callbacks ++ of_options}
  catch
    {:spec, error} -> {:error, error}
  end

  defp read_spec([{key, _value} | _rest] = spec, path, pool_call) when is_atom(key) do
    if Keyword.keyword?(spec),
      do: spec |> Map.new() |> read_map(path, pool_call),
      else: {spec, []}
  end

  defp read_spec(spec, path, pool_call) when is_map(spec) and not is_struct(spec),
    do: read_map(spec, path, pool_call)

  defp read_spec(spec, _path, _pool_call), do: {spec, []}

  # Python checks all values that neither are functions nor can hold any.
  defp read_map(map, path, pool_call) do
    Enum.reduce(map, {map, []}, fn {key, value}, {read, callbacks} ->
      {value, more} = read_value(key, value, "#{path}.#{shown(key)}", pool_call)
      {Map.put(read, key, value), callbacks ++ more}
    end)
  end

  defp read_value(key, value, path, pool_call) when key in [:of, "of", :options, "options"],
    do: read_spec(value, path, pool_call)

  # A metric may also take what DSPy gives metrics: the trace, the predictor's name and the predictor's trace.
  defp read_value(key, value, path, _pool_call)
       when key in [:metric, "metric"] and
              (is_function(value, 3) or is_function(value, 4) or is_function(value, 5)) do
    {:arity, arity} = Function.info(value, :arity)
    {read, callbacks} = read_function(value, arity, path, &traced_metric(&1, arity))
    {Map.put(read, :arity, arity), callbacks}
  end

  defp read_value(key, value, path, _pool_call)
       when key in [:reward, "reward", :metric, "metric"],
       do: read_function(value, 2, path, &reward/1)

  defp read_value(key, value, path, _pool_call) when key in [:retriever, "retriever"],
    do: read_function(value, 2, path, &fn %{"query" => query, "k" => k} -> &1.(query, k) end)

  defp read_value(key, value, path, _pool_call) when key in [:embedder, "embedder"],
    do: read_function(value, 1, path, &fn %{"texts" => texts} -> &1.(texts) end)

  defp read_value(key, value, path, _pool_call) when key in [:tools, "tools"],
    do: value |> Tool.read(path) |> read_or_throw()

  defp read_value(key, value, _path, pool_call) when key in @models,
    do: value |> Model.for_call(pool_call) |> read_or_throw()

  defp read_value(_key, value, _path, _pool_call), do: {value, []}

  defp read_or_throw({:ok, value, callbacks}), do: {value, callbacks}
  defp read_or_throw({:error, error}), do: throw({:spec, error})

  # `call` converts a function of `arity` arguments to a function of one map, as Python calls it.
  defp read_function(function, arity, path, call) when is_function(function) do
    if not is_function(function, arity) do
      message = "expected a function of #{arity} arguments at #{path}, got #{inspect(function)}"
      throw({:spec, Error.new(:input, message, %{"path" => path})})
    end

    callback = Callback.new(path, call.(function), :infinity)
    {%{callback: callback.id}, [callback]}
  end

  defp read_function(%{function: function} = described, arity, path, call)
       when is_function(function) do
    {read, callbacks} = read_function(function, arity, "#{path}.function", call)
    {described |> Map.delete(:function) |> Map.merge(read), callbacks}
  end

  defp read_function(other, _arity, _path, _call), do: {other, []}

  defp reward(function) do
    fn %{"inputs" => inputs, "prediction" => fields} ->
      function.(inputs, Prediction.from_term(fields))
    end
  end

  defp traced_metric(function, arity) do
    fn %{"inputs" => inputs, "prediction" => fields} = given ->
      traced = [given["trace"], given["pred_name"], given["pred_trace"]]
      arguments = [inputs, Prediction.from_term(fields) | Enum.take(traced, arity - 2)]
      apply(function, arguments)
    end
  end

  defp shown(key) when is_atom(key) or is_binary(key), do: to_string(key)
  defp shown(key), do: inspect(key)
end
