defmodule DSPex.Python.Functions.ModelOptions do
  @moduledoc false

  # The options of a language model, and what can be told of them before there is a Python: a provider that there is not, a misspelt
  # name, a value of the wrong type, a model without a name. Python checks the rest, such as bounds, when it gets the model, and any
  # other name passes here. No message shows the text of a value, which may be a key.

  alias DSPex.Python.{Error, ModelFunction}
  alias DSPex.Python.Functions.{NamedFunction, Providers}
  alias DSPex.Python.Wire.Keywords
  alias DSPex.Suggestion

  # Those of Python (erlport_bridge/programs/models/configuration.py); a test compares the two by the table of docs/operations.md.
  @settings %{
    "temperature" => :number,
    "max_tokens" => :integer,
    "n" => :integer,
    "top_p" => :number,
    "stop" => :strings,
    "rollout_id" => :integer,
    "seed" => :integer,
    "presence_penalty" => :number,
    "frequency_penalty" => :number,
    "reasoning_effort" => :string
  }
  @of_all %{"fallbacks" => :models}
  @of_client Map.merge(@of_all, %{
               "model" => :string,
               "api_key" => :key,
               "api_base" => :string,
               "base_url" => :string,
               "headers" => :headers,
               "model_type" => :string,
               "num_retries" => :integer,
               "cache" => :boolean,
               "requests_per_minute" => :integer,
               "max_concurrent_requests" => :integer
             })
  @of_function Map.merge(@of_all, %{
                 "model" => :string,
                 "num_retries" => :integer,
                 # ModelFunction checks these.
                 "function" => :any,
                 "timeout" => :any
               })
  @types Map.merge(@of_client, @settings)
  @expected %{
    string: "a string",
    strings: "a string or a list of strings",
    number: "a number",
    integer: "an integer",
    boolean: "true or false",
    key:
      "a string, {:system, variable}, a function without arguments or {module, function, args}",
    headers: "a map or a keyword list",
    models: "a list of models"
  }
  @with_address ~w(hosted_vllm openai_compatible)

  @doc """
  Returns the types of the options of a model at a service, by their names.
  """
  @spec types() :: %{String.t() => atom()}
  def types, do: @types

  @doc """
  Checks a model whose form is valid (`DSPex.Python.Functions.Model.validate/1`), and its fallback models.
  """
  @spec check(term()) :: :ok | {:error, Error.t()}
  def check(model) do
    read = read(model)

    fallbacks =
      for {model, index} <- Enum.with_index(fallbacks(read)),
          read = read(model),
          do: {index, model, read}

    models = if read, do: [{nil, model, read} | fallbacks], else: []

    # What is wrong with a provider says more than what is wrong with options that may be those of another.
    with :ok <- each(models, &check_provider/2), do: each(models, &check_options/2)
  end

  defp each(models, check) do
    Enum.find_value(models, :ok, fn {index, written, read} ->
      case check.(written, read) do
        :ok -> nil
        {:error, error} -> {:error, among(error, index)}
      end
    end)
  end

  # The options of a fallback model are named as those of the first one.
  defp among(error, nil), do: error

  defp among(error, index) do
    place = "fallbacks[#{index}]"
    path = Enum.join([place | List.wrap(error.path)], ".")
    details = Map.put(error.details, "path", path)
    %{error | message: "#{error.message}, at #{place}", path: path, details: details}
  end

  # The provider as it was written, and the options by their names; `nil` for another form, which Python refuses.
  defp read(provider) when (is_atom(provider) and provider != nil) or is_binary(provider),
    do: {provider, %{}}

  defp read({provider, function}) when is_function(function) or is_tuple(function),
    do: read({provider, function: function})

  defp read({provider, options})
       when (is_atom(provider) and provider != nil) or is_binary(provider) do
    if Keyword.keyword?(options) or (is_map(options) and not is_struct(options)),
      do: {provider, Map.new(options, fn {name, value} -> {named(name), value} end)}
  end

  defp read([_one | _more] = options),
    do: if(Keyword.keyword?(options), do: options |> Map.new() |> read())

  defp read(%{provider: provider} = options), do: read({provider, Map.delete(options, :provider)})

  defp read(%{"provider" => provider} = options),
    do: read({provider, Map.delete(options, "provider")})

  defp read(_other), do: nil

  defp named(name) when is_atom(name), do: Atom.to_string(name)
  defp named(name), do: name

  defp fallbacks({_provider, %{"fallbacks" => [_one | _more] = fallbacks}}),
    do: if(List.improper?(fallbacks), do: [], else: fallbacks)

  defp fallbacks(_model), do: []

  defp check_provider(_written, {provider, _options}) do
    name = name(provider)
    if Providers.known?(name), do: :ok, else: {:error, unknown_provider(name)}
  end

  # Or `"provider/model"`.
  defp name(provider), do: provider |> to_string() |> String.split("/", parts: 2) |> hd()

  # A text that is near to no name may be a key in the wrong place, and is not shown.
  defp unknown_provider(name) do
    hint = Providers.hint(name)
    shown = if hint != "", do: " #{inspect(name)}#{hint}"

    Error.new(
      :provider,
      "unknown provider#{shown}; write a model as in #{example()}; known providers: #{Enum.join(Providers.names(), ", ")}"
    )
  end

  @doc """
  Returns a model as an example for messages.
  """
  @spec example() :: String.t()
  def example, do: ~S|{:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}|

  defp check_options(written, {provider, options}) do
    with :ok <- check_once(written, provider),
         do: of_provider(name(provider), provider, options)
  end

  # `options` are a map, which has a key once.
  defp check_once({_provider, [_one | _more] = options}, provider), do: once(options, provider)
  defp check_once([_one | _more] = options, provider), do: once(options, provider)
  defp check_once(_map_or_name, _provider), do: :ok

  defp once(options, provider) do
    case Keywords.repeated(options, "the options of the model #{inspect(provider)}") do
      nil -> :ok
      message -> wrong(message)
    end
  end

  defp of_provider("elixir", provider, options) do
    with {:ok, _options, _callback} <- ModelFunction.read(options),
         do: check_each(provider, options, Map.merge(@of_function, @settings))
  end

  # It takes the options of a service, and reads no more of them than these. A key that is a function must be one everywhere.
  defp of_provider("embedded", provider, options) do
    others = %{Map.new(@of_client, fn {name, _type} -> {name, :any} end) | "api_key" => :key}
    check_each(provider, options, others |> Map.merge(@of_all) |> Map.merge(@settings))
  end

  defp of_provider(name, provider, options) do
    with :ok <- check_each(provider, options, @types),
         :ok <- check_model(name, provider, options),
         do: check_address(name, options)
  end

  defp check_each(provider, options, types) do
    Enum.find_value(options, :ok, fn {name, value} ->
      with :ok <- check_name(name, types, provider),
           :ok <- check_type(name, value, types[name], provider),
           do: nil
    end)
  end

  defp check_name(name, types, _provider) when is_map_key(types, name), do: :ok

  defp check_name(name, types, provider) when is_binary(name) do
    case Suggestion.misspelt(name, Map.keys(types)) do
      nil ->
        :ok

      meant ->
        wrong(
          "unknown option #{inspect(name)} of the model #{inspect(provider)} (did you mean #{inspect(meant)}?)",
          name
        )
    end
  end

  defp check_name(name, _types, provider) do
    wrong(
      "expected an atom or a string as the name of an option of the model #{inspect(provider)}, got #{outline(name)}"
    )
  end

  defp check_type(name, value, type, provider) do
    if value == nil or system?(value) or type?(type, value) do
      if type == :key, do: check_function(name, value, provider), else: :ok
    else
      wrong(
        "expected #{@expected[type]} at the option #{name} of the model #{inspect(provider)}, got #{outline(value)}",
        name
      )
    end
  end

  @doc """
  Checks the option `api_key`: its form, and that the function exists if it is `{module, function, args}`.
  """
  @spec check_key(term(), term()) :: :ok | {:error, Error.t()}
  def check_key(key, provider), do: check_type("api_key", key, :key, provider)

  defp check_function(name, {module, function, args}, provider) do
    with {:error, message} <- NamedFunction.check(module, function, length(args)),
         do: wrong("#{message} at the option #{name} of the model #{inspect(provider)}", name)
  end

  defp check_function(_name, _text_or_function, _provider), do: :ok

  defp system?({:system, variable}), do: is_binary(variable)
  defp system?(_value), do: false

  # Of a name that Python may know, and of an option that is checked elsewhere.
  defp type?(type, _value) when type in [nil, :any], do: true
  defp type?(:string, ""), do: false
  defp type?(:string, text) when is_binary(text), do: String.valid?(text)
  defp type?(:string, atom) when is_atom(atom), do: not is_boolean(atom)
  defp type?(:string, [_one | _more] = charlist), do: all?(charlist, &(&1 in 0..0x10FFFF))
  defp type?(:strings, [_one | _more] = texts), do: all?(texts, &type?(:string, &1))
  defp type?(:strings, text), do: type?(:string, text)
  defp type?(:number, value), do: is_number(value)
  defp type?(:integer, value), do: is_integer(value)
  defp type?(:boolean, value), do: is_boolean(value)
  defp type?(:key, function) when is_function(function), do: is_function(function, 0)

  defp type?(:key, {module, function, args}),
    do: is_atom(module) and is_atom(function) and all?(args, fn _arg -> true end)

  defp type?(:key, text), do: type?(:string, text)
  defp type?(:headers, map) when is_map(map), do: not is_struct(map)
  defp type?(:headers, list), do: all?(list, &match?({_name, _value}, &1))
  defp type?(:models, list), do: all?(list, fn _model -> true end)
  defp type?(_type, _value), do: false

  # `Enum.all?` raises for an improper list.
  defp all?(list, check),
    do: is_list(list) and not List.improper?(list) and Enum.all?(list, check)

  defp check_model(name, provider, options) do
    if named?(provider) or options["model"] != nil do
      :ok
    else
      wrong(
        "expected the name of a model of the provider #{inspect(name)}, such as \"#{name}/MODEL\" or {:#{name}, model: \"MODEL\"}",
        "model"
      )
    end
  end

  defp named?(provider),
    do: match?([_name, <<_, _::binary>>], String.split(to_string(provider), "/", parts: 2))

  defp check_address(name, options) do
    if name in @with_address and options["api_base"] == nil and options["base_url"] == nil do
      wrong(
        "provider #{inspect(name)} needs the address of its server, such as api_base: \"http://127.0.0.1:8000/v1\"",
        "api_base"
      )
    else
      :ok
    end
  end

  defp wrong(message, name \\ nil), do: {:error, Error.new(:input, message, %{"path" => name})}

  @doc """
  Says what came in place of something else, without the text in it.
  """
  @spec outline(term()) :: String.t()
  def outline(value) when is_number(value) or is_atom(value) or value == "", do: inspect(value)
  def outline(value) when is_bitstring(value), do: "a string"
  def outline(value) when is_list(value), do: "a list"
  def outline(%struct{}), do: "%#{inspect(struct)}{}"
  def outline(value) when is_map(value), do: "a map"
  def outline(value) when is_tuple(value), do: "a tuple of #{tuple_size(value)}"
  def outline(value) when is_function(value), do: "a function"
  def outline(value) when is_pid(value), do: "a process"
  def outline(value), do: inspect(value)
end
