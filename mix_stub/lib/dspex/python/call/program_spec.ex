defmodule DSPex.Python.Call.ProgramSpec do
  @moduledoc false

  # Converts the models in the spec of a program, and among the options of load_program, to Python's form; and `{module,
  # name}`, an exported function, to the text that a program keeps of it.

  alias DSPex.Python.{Cluster, Error, Exports, Tool}
  alias DSPex.Python.Functions.{Exported, Model}
  alias DSPex.Python.Wire.Keywords

  # A spec or a module that it names may have a model at each of these keys.
  @models Enum.flat_map(~w(lm sub_lm)a, &[&1, Atom.to_string(&1)])
  @functions for role <- ~w(reward retriever embedder)a,
                 key <- [role, Atom.to_string(role)],
                 into: %{},
                 do: {key, role}
  @nested Enum.flat_map(~w(of options)a, &[&1, Atom.to_string(&1)])

  @doc """
  Converts the spec of a program: its own model, and those of its stages and modules.
  """
  @spec to_python(term(), Cluster.pool()) :: {:ok, term()} | {:error, Error.t()}
  def to_python(spec, pool), do: converted(fn -> spec(spec, "spec", Cluster.caller(pool)) end)

  @doc """
  Converts the options of load_program.
  """
  @spec load_options(map(), Cluster.pool()) :: {:ok, map()} | {:error, Error.t()}
  def load_options(options, pool) do
    pool_call = Cluster.caller(pool)

    converted(fn ->
      Map.new(options, fn
        {:lm, model} -> {:lm, model(model, "opts.lm", pool_call)}
        {:lms, models} -> {:lms, models(models, "opts.lms", pool_call)}
        other -> other
      end)
    end)
  end

  # Python refuses the pairs of any other list that has a key twice.
  defp check(keywords, path) do
    with {:error, error} <- Keywords.check(keywords, path), do: throw({:spec, error})
  end

  defp converted(function) do
    {:ok, function.()}
  catch
    {:spec, error} -> {:error, error}
  end

  defp spec(spec, path, pool_call) do
    keywords? = spec != [] and Keyword.keyword?(spec)
    if keywords?, do: check(spec, path)
    spec = if keywords?, do: Map.new(spec), else: spec

    with_map(spec, fn {key, value} ->
      case to_string(key) do
        "modules" when is_list(value) -> {key, modules(value, "#{path}.modules", pool_call)}
        _other -> {key, value(key, value, path, pool_call)}
      end
    end)
  end

  defp modules(modules, path, pool_call) do
    if List.improper?(modules) do
      modules
    else
      for {module, index} <- Enum.with_index(modules),
          do: module(module, "#{path}[#{index}]", pool_call)
    end
  end

  defp module(spec, path, pool_call),
    do: with_map(spec, fn {key, value} -> {key, value(key, value, path, pool_call)} end)

  defp value(_key, nil, _path, _pool_call), do: nil

  defp value(key, model, path, pool_call) when key in @models,
    do: model(model, "#{path}.#{key}", pool_call)

  # The models of a stage's predictors, by their names.
  defp value(key, models, path, pool_call) when key in [:lms, "lms"],
    do: models(models, "#{path}.lms", pool_call)

  defp value(key, spec, path, pool_call) when key in @nested,
    do: module(spec, "#{path}.#{key}", pool_call)

  defp value(key, tools, path, _pool_call) when key in [:tools, "tools"] and is_list(tools) do
    if List.improper?(tools),
      do: tools,
      else: Enum.with_index(tools, &tool(&1, "#{path}.#{key}[#{&2}]"))
  end

  defp value(key, value, path, _pool_call) do
    case @functions do
      %{^key => role} -> function(value, role, "#{path}.#{key}")
      _no_function -> value
    end
  end

  defp tool({module, name}, path) when is_atom(module) and is_atom(name) do
    exported(module, name, path, fn _text -> Tool.exported(module, name) end)
  end

  defp tool(other, _path), do: other

  defp function({module, name}, role, path) when is_atom(module) and is_atom(name),
    do: exported(module, name, path, &Exported.find(&1, role))

  defp function(%{function: {module, name} = function} = described, role, path)
       when is_atom(module) and is_atom(name) do
    described |> Map.delete(:function) |> Map.merge(function(function, role, "#{path}.function"))
  end

  defp function(other, _role, _path), do: other

  defp exported(module, name, path, check) do
    text = Exports.text(module, name)

    with {:error, sentence} <- check.(text),
         do: throw({:spec, Error.new(:input, "#{sentence}, at #{path}", %{"path" => path})})

    %{"elixir" => text}
  end

  defp models(models, path, pool_call) do
    with_map(models, fn
      {name, nil} -> {name, nil}
      {name, model} -> {name, model(model, "#{path}.#{name}", pool_call)}
    end)
  end

  # Python refuses what is no map. The order of a keyword list is kept.
  defp with_map(map, change) when is_map(map) and not is_struct(map),
    do: Map.new(map, &change_named(&1, change))

  defp with_map([_one | _more] = list, change),
    do: if(Keyword.keyword?(list), do: Enum.map(list, change), else: list)

  defp with_map(other, _change), do: other

  defp change_named({key, value}, change) when is_atom(key) or is_binary(key),
    do: change.({key, value})

  defp change_named(other, _change), do: other

  defp model(model, path, pool_call) do
    case Model.for_call(model, pool_call, path) do
      {:ok, model, []} -> model
      {:ok, _model, _functions} -> throw({:spec, outlives_call(path)})
      {:error, error} -> throw({:spec, error})
    end
  end

  defp outlives_call(path) do
    remedy =
      if path == "spec.lm",
        do:
          "; configure it for the program's session: DSPex.Python.configure_lm(:elixir, function, session_id: …)",
        else: ""

    message =
      "expected no function of Elixir at #{path}, which would have to outlive the call" <> remedy

    Error.new(:input, message, %{"path" => path})
  end
end
