defmodule DSPex.Python.ModuleSpec do
  @moduledoc """
  A module that is called: a name, or a map that says what it is made of.

      %{
        module: "dspy.BestOfN",
        N: 3,
        threshold: 0.9,
        reward: fn %{"question" => question}, prediction -> score(question, prediction[:answer]) end,
        of: %{module: "dspy.ChainOfThought", signature: "question -> answer"}
      }

  A map (or keyword list) has `:module`, the options of that module (`DSPex.Python.describe_module/2` lists them), and perhaps
  `:signature`, `:instructions` and `:tools`. A module that runs another one has it as `:of`, up to five of them. The
  signature may stand in any of the maps or beside the whole, once.

  ## Functions

    * `:reward` - of `dspy.BestOfN` and `dspy.Refine`: takes the inputs, a map with string keys, and the
      `DSPex.Prediction`; gives a number, the more the better, or a boolean. `%{function: fun, description: text}` also tells the model
      that gives advice for `dspy.Refine` what it rewards
    * `:retriever` - of `dspy.Retrieve`: takes the query and how many passages are wanted; gives a list of texts
    * `:embedder` - of `dspy.Retrieve` with `:passages` and of `dspy.KNN`: takes a list of texts and gives their vectors, lists of numbers
    * `:sub_lm` - of `dspy.RLM`: a model, written as the option `:lm` of a call; a function too
    * `:tools` - see `DSPex.Python.Tool`

  They run as functions of tools do: each in its own process, as long as the call lasts, so that a stored program can have none. An
  exception is the error of the call, with its place.

  Without a function, a check is a reward, of 1.0 or 0.0: `%{check: :equals, field: :answer, value: "Lisbon"}` (or `input: :expected`, the
  name of an input), `:contains`, and `:length` or `:words` with `:minimum` and `:maximum`.
  """

  alias DSPex.{Prediction, Python}
  alias Python.Callbacks.Callback
  alias Python.{Error, Model, Tool}

  @type t :: String.t() | map() | keyword()

  # Options that are models beside the one of a call.
  @models Enum.flat_map(~w(sub_lm teacher_lm prompt_lm reflection_lm)a, &[&1, Atom.to_string(&1)])

  @doc false
  # Gives a module's spec and the options of its call as Python of `pool` takes them, and the functions that were in them.
  @spec read(term(), map(), atom()) :: {:ok, term(), map(), [Callback.t()]} | {:error, Error.t()}
  def read(spec, options, pool) do
    {spec, callbacks} = read_spec(spec, "spec", pool)
    {options, of_options} = read_map(options, "opts", pool)
    {:ok, spec, options, callbacks ++ of_options}
  catch
    {:spec, error} -> {:error, error}
  end

  defp read_spec([{key, _value} | _rest] = spec, path, pool) when is_atom(key) do
    if Keyword.keyword?(spec), do: spec |> Map.new() |> read_map(path, pool), else: {spec, []}
  end

  defp read_spec(spec, path, pool) when is_map(spec) and not is_struct(spec),
    do: read_map(spec, path, pool)

  defp read_spec(spec, _path, _pool), do: {spec, []}

  # What is neither a function nor may hold one is left to Python to check.
  defp read_map(map, path, pool) do
    Enum.reduce(map, {map, []}, fn {key, value}, {read, callbacks} ->
      {value, more} = read_value(key, value, "#{path}.#{shown(key)}", pool)
      {Map.put(read, key, value), callbacks ++ more}
    end)
  end

  defp read_value(key, value, path, pool) when key in [:of, "of", :options, "options"],
    do: read_spec(value, path, pool)

  defp read_value(key, value, path, _pool) when key in [:reward, "reward", :metric, "metric"],
    do: read_function(value, 2, path, &reward/1)

  defp read_value(key, value, path, _pool) when key in [:retriever, "retriever"],
    do: read_function(value, 2, path, &fn %{"query" => query, "k" => k} -> &1.(query, k) end)

  defp read_value(key, value, path, _pool) when key in [:embedder, "embedder"],
    do: read_function(value, 1, path, &fn %{"texts" => texts} -> &1.(texts) end)

  defp read_value(key, value, path, _pool) when key in [:tools, "tools"],
    do: value |> Tool.read(path) |> read_or_throw()

  defp read_value(key, value, _path, pool) when key in @models,
    do: value |> Model.for_call(pool) |> read_or_throw()

  defp read_value(_key, value, _path, _pool), do: {value, []}

  defp read_or_throw({:ok, value, callbacks}), do: {value, callbacks}
  defp read_or_throw({:error, error}), do: throw({:spec, error})

  # `call` makes a function of one map, which is what Python calls, of one with `arity` arguments.
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

  defp shown(key) when is_atom(key) or is_binary(key), do: to_string(key)
  defp shown(key), do: inspect(key)
end
