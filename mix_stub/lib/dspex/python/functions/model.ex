defmodule DSPex.Python.Functions.Model do
  @moduledoc false

  # Reads a language model as it is written in Elixir, and returns it in the form that Python takes.

  alias DSPex.Python.{Error, ModelFunction}
  alias DSPex.Python.Functions.{Callback, ModelOptions}
  alias DSPex.Python.Wire.Keywords

  @as_function "a model that is a function of Elixir is written {:elixir, function}"

  @type t ::
          nil
          | provider()
          | {provider(), keyword() | map()}
          | {:elixir, ModelFunction.t()}
          | {:resolved, {provider(), map()}, [Callback.t()]}
  @type provider :: atom() | String.t()

  @doc """
  Checks the form of a model. The message never shows the value of an option, which may be a key.
  """
  @spec validate(t()) :: :ok | {:error, String.t()}
  def validate({elixir, function})
      when elixir in [:elixir, "elixir"] and is_function(function, 1),
      do: :ok

  def validate({elixir, {module, name}})
      when elixir in [:elixir, "elixir"] and is_atom(module) and is_atom(name),
      do: :ok

  def validate({elixir, function}) when elixir in [:elixir, "elixir"] and is_function(function) do
    {:error,
     "expected a function of one argument, the request, as the model :elixir, got #{inspect(function)}"}
  end

  def validate({elixir, other})
      when elixir in [:elixir, "elixir"] and not is_list(other) and not is_map(other) do
    {:error, "expected a function of one argument, the request, as in {:elixir, function}"}
  end

  def validate({provider, options})
      when not is_nil(provider) and (is_atom(provider) or is_binary(provider)) do
    if (is_map(options) and not is_struct(options)) or Keyword.keyword?(options) do
      message = Keywords.repeated(options, "the options of the model #{inspect(provider)}")
      if message, do: {:error, message}, else: :ok
    else
      {:error,
       "expected the options of the model #{inspect(provider)} as a keyword list or a map, " <>
         "such as {#{inspect(provider)}, model: \"MODEL\"}"}
    end
  end

  def validate(model) when (is_atom(model) and not is_boolean(model)) or is_binary(model), do: :ok

  def validate(model), do: {:error, "#{expected()}, got #{got(model)}"}

  defp expected do
    "expected :embedded, {provider, options} such as #{ModelOptions.example()}, {:elixir, function}, or nil"
  end

  # With what is meant, as far as that can be told.
  defp got(function) when is_function(function), do: "a function; #{@as_function}"

  defp got(pid) when is_pid(pid),
    do: "a process; a scripted model is written DSPex.Python.ScriptedModel.lm(pid)"

  defp got(model) do
    got = ModelOptions.outline(model)

    cond do
      Keyword.keyword?(model) and Keyword.has_key?(model, :provider) ->
        got <> as_pair()

      is_map(model) and (is_map_key(model, :provider) or is_map_key(model, "provider")) ->
        got <> as_pair()

      is_list(model) and model != [] ->
        "#{got}; fallback models are the option :fallbacks of the first one"

      true ->
        got
    end
  end

  defp as_pair, do: "; write the provider before its options, and not among them"

  @doc """
  Returns the provider and the options for `configure_lm`, and the functions that Python must be able to call as long as
  the model is configured. Each `{:system, variable}` is read from the environment. A key that is a function becomes one of these
  functions: Python calls it before each request.

  `pool_call` calls an operation of the pool; model functions send their pieces by it.
  """
  @spec resolve(t(), ModelFunction.pool_call() | nil) ::
          {:ok, {provider(), map()}, [Callback.t()]} | {:error, Error.t()}
  # Was resolved on another node, whose functions the callbacks ask (DSPex.Python.Cluster.Proxies).
  def resolve({:resolved, {provider, options}, callbacks}, _pool_call),
    do: {:ok, {provider, options}, callbacks}

  def resolve({elixir, options}, pool_call) when elixir in [:elixir, "elixir"] do
    with {:ok, options, callback} <- ModelFunction.read(options, pool_call),
         {:ok, options, callbacks} <- with_fallbacks(options, pool_call),
         do: {:ok, {:elixir, options}, [callback | callbacks]}
  end

  def resolve({provider, options}, pool_call) do
    with {:ok, options, of_key} <- read_all(provider, options),
         {:ok, options, callbacks} <- with_fallbacks(options, pool_call),
         do: {:ok, {provider, options}, of_key ++ callbacks}
  end

  def resolve(elixir, pool_call) when elixir in [:elixir, "elixir"],
    do: resolve({:elixir, []}, pool_call)

  def resolve(provider, _pool_call), do: {:ok, {provider, %{}}, []}

  defp with_fallbacks(options, pool_call) do
    key = Enum.find([:fallbacks, "fallbacks"], &is_list(options[&1]))

    if key do
      with {:ok, models, callbacks} <- all_for_call(options[key], pool_call, to_string(key)),
           do: {:ok, Map.put(options, key, models), callbacks}
    else
      {:ok, options, []}
    end
  end

  defp read_all(provider, options) do
    options
    |> Enum.reduce_while({:ok, %{}, []}, fn {name, value}, {:ok, resolved, callbacks} ->
      case read(name, value, provider) do
        {:ok, value} ->
          {:cont, {:ok, Map.put(resolved, name, value), callbacks}}

        {:ok, value, callback} ->
          {:cont, {:ok, Map.put(resolved, name, value), [callback | callbacks]}}

        {:missing, variable} ->
          {:halt, {:error, unset(provider, name, variable)}}

        {:error, _error} = error ->
          {:halt, error}
      end
    end)
  end

  @doc """
  Checks the model that was given to `DSPex.Python.configure_lm/3`.
  """
  @spec checked(term(), term()) :: {:ok, t()} | {:error, Error.t()}
  def checked({_provider, _options} = model, none) when none in [[], %{}],
    do: at(checked(model), "provider")

  def checked(provider, options) when is_atom(provider) or is_binary(provider) do
    place = if provider == nil, do: "provider", else: "config"
    at(checked({provider, options}), place)
  end

  def checked(model, _options) do
    message = "#{expected()}, got a whole model and options beside it; write them in the model"
    wrong = with {:ok, _model} <- checked(model), do: {:error, Error.new(:input, message)}
    at(wrong, "provider")
  end

  @doc """
  Resolves a model whose form is checked, for a pool or a session; an error names the place in the options of
  `DSPex.Python.configure_lm/3`, as Python's errors about a model do.
  """
  @spec resolve_checked(t(), ModelFunction.pool_call() | nil) ::
          {:ok, {provider(), map()}, [Callback.t()]} | {:error, Error.t()}
  def resolve_checked(model, pool_call), do: model |> resolve(pool_call) |> at("config")

  defp at({:error, error}, path), do: {:error, below(error, path)}
  defp at(checked, _path), do: checked

  @doc """
  Returns the model of one call in Python's form, and the functions that Python must be able to call during the call.

  Python's form is a name, a map with `:provider`, or a list of these. Python refuses what is not a model. `path` is where
  the caller wrote the model, for errors.
  """
  @spec for_call(term(), ModelFunction.pool_call() | nil, String.t()) ::
          {:ok, term(), [Callback.t()]} | {:error, Error.t()}
  def for_call(model, pool_call, path) do
    with {:error, error} <- read_for_call(model, pool_call, path),
         do: {:error, below(error, path)}
  end

  # Errors of one model have the path inside of it, or none if the whole model is wrong.
  defp below(%Error{path: inner} = error, path) do
    inside? = is_binary(inner) and String.starts_with?(inner, path)
    path = if inside?, do: inner, else: Enum.join([path | List.wrap(inner)], ".")
    %{error | path: path, details: Map.put(error.details, "path", path)}
  end

  defp read_for_call({_provider, _options} = model, pool_call, _path) do
    with {:ok, model} <- checked(model),
         {:ok, {provider, options}, callbacks} <- resolve(model, pool_call),
         do: {:ok, Map.put(options, :provider, provider), callbacks}
  end

  # A list of models: each is the fallback model of the one before. `[openai: …, anthropic: …]` is such a list; a keyword
  # list with a `:provider` is one model.
  defp read_for_call([_one | _more] = models, pool_call, path) do
    cond do
      List.improper?(models) ->
        {:ok, models, []}

      # Or without it: `[model: "gpt-4o"]`, where Python says what is missing.
      Keyword.keyword?(models) and (models[:provider] != nil or models[:model] != nil) ->
        one_for_call(models, pool_call, path)

      true ->
        all_for_call(models, pool_call, path)
    end
  end

  defp read_for_call(other, _pool_call, path) when is_function(other) or is_pid(other),
    do: {:error, Error.new(:input, "expected a model at #{path}, got #{got(other)}")}

  defp read_for_call(elixir, _pool_call, _path) when elixir in [:elixir, "elixir"],
    do: checked({elixir, nil})

  defp read_for_call(lm, pool_call, path), do: one_for_call(lm, pool_call, path)

  defp one_for_call(lm, pool_call, path) do
    if (is_map(lm) and not is_struct(lm)) or (lm != [] and Keyword.keyword?(lm)) do
      options = Map.new(lm)
      provider = options[:provider] || options["provider"]

      with :ok <- Keywords.check(lm, path),
           {:ok, {_provider, options}, callbacks} <- resolve({provider, options}, pool_call),
           do: {:ok, options, callbacks}
    else
      {:ok, lm, []}
    end
  end

  defp all_for_call(models, pool_call, path) do
    models
    |> Enum.with_index()
    |> Enum.reduce_while({:ok, [], []}, fn {model, index}, {:ok, found, callbacks} ->
      case for_call(model, pool_call, "#{path}[#{index}]") do
        {:ok, model, more} -> {:cont, {:ok, [model | found], callbacks ++ more}}
        error -> {:halt, error}
      end
    end)
    |> case do
      {:ok, found, callbacks} -> {:ok, Enum.reverse(found), callbacks}
      error -> error
    end
  end

  defp checked({nil, _options}) do
    message = "expected a provider such as :openai, or #{ModelOptions.example()}, got nil"
    {:error, Error.new(:input, message)}
  end

  defp checked(model) do
    case validate(model) do
      :ok -> {:ok, model}
      {:error, message} -> {:error, Error.new(:input, message)}
    end
  end

  defp read(name, {:system, variable}, _provider) when is_binary(variable) do
    {:ok, as_written(to_string(name), System.fetch_env!(variable))}
  rescue
    # It is not set, or cannot be: its name is empty or has a = in it.
    _unset in [System.EnvError, ArgumentError, ErlangError] -> {:missing, variable}
  end

  # Python says what is wrong with any other text.
  defp read(name, key, provider)
       when name in [:api_key, "api_key"] and (not is_binary(key) or key == "") do
    with :ok <- ModelOptions.check_key(key, provider) do
      case key do
        {module, function, args} ->
          key_function(fn -> apply(module, function, args) end, provider)

        function when is_function(function) ->
          key_function(function, provider)

        atom_or_charlist ->
          {:ok, atom_or_charlist}
      end
    end
  end

  defp read(_name, value, _provider), do: {:ok, value}

  # A variable of the environment is always text. Python's error shows a text that is not a number.
  defp as_written(name, text) do
    case ModelOptions.types()[name] do
      type when type in [:number, :integer] ->
        number(String.trim(text)) || text

      :boolean ->
        Map.get(
          %{"true" => true, "false" => false},
          text |> String.trim() |> String.downcase(),
          text
        )

      _text ->
        text
    end
  end

  defp number(text) do
    case {Integer.parse(text), Float.parse(text)} do
      {{integer, ""}, _float} -> integer
      {_part, {float, ""}} -> float
      _none -> nil
    end
  end

  # The key is an answer to Python, so no log and no message of a process shows it.
  defp key_function(function, provider) do
    name = "the API key of the model #{inspect(provider)}"

    callback = Callback.new(name, fn _no_arguments -> function.() end, :infinity)
    {:ok, %{callback: callback.id}, callback}
  end

  defp unset(provider, name, variable) do
    Error.new(
      :lm_not_configured,
      "the environment variable #{inspect(variable)} for #{name} of the model #{inspect(provider)} is not set",
      %{"provider" => to_string(provider), "path" => to_string(name)}
    )
  end
end
