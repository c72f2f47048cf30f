defmodule DSPex.Python.ModelFunction do
  @kinds ~w(rate_limit auth billing server timeout transport context_window unsupported_model provider)a

  @moduledoc """
  Defines a language model in Elixir: a function that takes DSPy's request and returns the model's answer.

      answer = fn %{messages: messages} -> MyApp.LLM.complete(messages) end

      # for a pool, in its configuration or by DSPex.Python.start_pool/2
      model: {:elixir, answer}

      # for a running pool or session
      DSPex.Python.configure_lm(:elixir, function: answer, model: "my-model", temperature: 0.2)

      # for one call
      DSPex.Python.execute_module("dspy.Predict", "question -> answer", "Why?", lm: {:elixir, answer})

  For tests, use `DSPex.Python.ScriptedModel`.

  ## Options

    * `:function` - a function of one argument, or `{module, function_name}`
    * `:model` - its name, in `prediction.model` and in errors; `"function"` by default
    * `:timeout` - how long an answer may take, in ms; as long as the call by default
    * `:num_retries` - how often DSPy asks again after a retryable error, waiting 1, 2, 4 s; 0 by default
    * settings such as `:temperature` and `:max_tokens`, which are passed to the function

  ## The request

  A map:

    * `:messages` - `%{role: role, content: content}`, the role `"system"`, `"user"`, `"assistant"` or `"tool"`, the content
      text, or a list of parts (`%{"type" => "image", …}`) if it is not only text
    * `:settings` - `%{temperature: 0.2, …}`: the settings that were given of `:temperature`, `:max_tokens`, `:top_p`, `:stop`, `:seed`,
      `:presence_penalty`, `:frequency_penalty`, `:response_format`, `:reasoning`
    * `:tools` - for modules that use native function calling: `%{"name" => …, "description" => …, "parameters" => json_schema}`
    * `:model` - the name
    * `:stream` - whether the caller reads the answer piece by piece

  ## The answer

    * text
    * a map (or keyword list) with `:text`, and optionally `:reasoning`, `:tool_calls` (`%{name:, arguments: map}` with an
      optional `:id`), `:usage` (`%{input_tokens:, output_tokens:}`) and `:finish_reason` (`:stop`, `:length`, `:tool_call`, `:content_filter`)
    * a stream or a list of pieces of text; its last element may be such a map. Pieces are passed on as they come, with
      back-pressure: a slow reader slows the stream down
    * `{:ok, one_of_these}`
    * `{:error, reason}`: a text, an exception, or `kind`, `{kind, text}`, `{kind, options}` with `:message` and `:retry_after` (seconds).
      The kinds are #{Enum.map_join(@kinds, ", ", &"`#{inspect(&1)}`")};
      for a temporary kind, the error of the call is `retryable`

  The function runs in a process of its own for each request, several at the same time for concurrent calls (see
  `DSPex.Python.Callbacks`). It may call `DSPex.Python` itself. It is killed when its call ends: at the deadline, with its
  caller, or when a stream is halted. An exception is logged with its stacktrace; the call returns an error of kind
  `:provider`.
  """

  alias DSPex.Suggestion
  alias DSPex.Python.Error
  alias DSPex.Python.Functions.{Callback, ModelRequests, NamedFunction}
  alias DSPex.Python.Wire.{Keywords, Timeout}

  @finish_reasons ~w(stop length tool_call content_filter)a
  @answer_keys ~w(text reasoning tool_calls usage finish_reason)a
  @settings ~w(temperature max_tokens top_p stop seed presence_penalty frequency_penalty response_format reasoning)a

  @type t :: (map() -> term()) | {module(), atom()} | keyword() | map()

  @typedoc "Calls an operation of the pool with its arguments, within a timeout in ms."
  @type pool_call :: (atom(), [term()], timeout() -> {:ok, term()} | {:error, Error.t()})

  @doc """
  Reads a model function: returns its options in Python's form, and the function to be registered
  (`DSPex.Python.Callbacks.during/2`).

  Only needed if the call is not made by `DSPex.Python`, as under the real ErlPort. Pieces of an answer are sent by
  `pool_call`; without it, as under the real ErlPort, an answer goes to Python when it is complete.

      iex> {:ok, %{model: "m", callback: id}, %{id: id}} =
      ...>   DSPex.Python.ModelFunction.read(function: fn _request -> "text" end, model: "m")
      iex> is_binary(id)
      true
  """
  @spec read(t(), pool_call() | nil) :: {:ok, map(), Callback.t()} | {:error, Error.t()}
  def read(options, pool_call \\ nil) do
    given = options
    options = options(options)
    function = option(options, :function)
    timeout = option(options, :timeout, :infinity)
    name = option(options, :model, "function")

    with :ok <- checked_once(given),
         :ok <- checked_names(options),
         {:ok, function} <- checked_function(function),
         :ok <- checked_timeout(timeout) do
      rest = Map.drop(options, [:function, "function", :timeout, "timeout", "model"])

      callback =
        Callback.new("the model #{inspect(name)}", &answer(function, pool_call, &1), timeout)

      {:ok, Map.merge(rest, %{model: name, callback: callback.id}), callback}
    end
  end

  defp options(function) when is_function(function), do: %{function: function}

  defp options({module, name}) when is_atom(module) and is_atom(name),
    do: %{function: {module, name}}

  defp options(options), do: Map.new(options)

  # Keys may be atoms or strings.
  defp option(options, key, default \\ nil),
    do: Map.get(options, key, Map.get(options, Atom.to_string(key), default))

  defp checked_once([_one | _more] = options),
    do: Keywords.check(options, "the options of the model :elixir")

  defp checked_once(_options), do: :ok

  # Python checks the other options, and does not know these.
  defp checked_names(options) do
    known = [:function, :timeout]
    names = for {name, _value} <- options, is_atom(name) or is_binary(name), do: to_string(name)

    wrong =
      for name <- names -- Enum.map(known, &to_string/1),
          meant = Suggestion.misspelt(name, known),
          do: {name, meant}

    case wrong do
      [] ->
        :ok

      [{name, meant} | _rest] ->
        message =
          "unknown option #{inspect(name)} of the model :elixir (did you mean #{inspect(meant)}?)"

        {:error, Error.new(:input, message, %{"path" => name})}
    end
  end

  defp checked_function(function) when is_function(function, 1), do: {:ok, function}

  defp checked_function({module, name}) when is_atom(module) and is_atom(name) do
    case NamedFunction.check(module, name, 1) do
      :ok -> {:ok, Function.capture(module, name, 1)}
      {:error, message} -> refused("function", message)
    end
  end

  defp checked_function(other) do
    wrong("function", "expected a function of one argument or {module, function_name}", other)
  end

  defp checked_timeout(timeout) do
    if Timeout.valid?(timeout),
      do: :ok,
      else: wrong("timeout", "expected a time limit in ms or :infinity", timeout)
  end

  defp wrong(option, expected, got),
    do: refused(option, expected, ", got #{inspect(got, limit: 5)}")

  defp refused(option, what, got \\ "") do
    message = "#{what} at the option #{option} of the model :elixir#{got}"
    {:error, Error.new(:input, message, %{"path" => option})}
  end

  # Python calls this function. The answer has string keys and holds the kind of an error.
  defp answer(function, pool_call, %{"token" => token, "request" => request, "stream" => stream?}) do
    ModelRequests.register(token)
    pieces = if stream? and pool_call != nil, do: {pool_call, token}
    request |> request(stream?) |> function.() |> outcome(pieces)
  end

  defp request(request, stream?) do
    %{
      model: request["model"],
      messages: for(message <- request["messages"], do: message(message)),
      settings: settings(request["settings"]),
      tools: request["tools"],
      stream: stream?
    }
  end

  defp message(%{"role" => role, "content" => content}), do: %{role: role, content: content}

  defp settings(settings) do
    for name <- @settings,
        {:ok, value} <- [Map.fetch(settings, Atom.to_string(name))],
        into: %{} do
      {name, value}
    end
  end

  defp outcome({:ok, answer}, pieces), do: outcome(answer, pieces)
  defp outcome({:error, reason}, _pieces), do: failure(reason)
  defp outcome(text, _pieces) when is_binary(text), do: full(%{text: text})
  defp outcome(pieces, to) when is_function(pieces, 2), do: pieces(pieces, to)

  defp outcome([{key, _value} | _rest] = answer, _pieces) when is_atom(key) do
    with :ok <- once(answer), do: answer |> Map.new() |> full()
  end

  defp outcome(list, to) when is_list(list), do: pieces(list, to)

  defp outcome(answer, _pieces) when is_map(answer) and not is_struct(answer), do: full(answer)

  defp outcome(other, to) do
    if is_struct(other) and Enumerable.impl_for(other) != nil,
      do: pieces(other, to),
      else: unexpected(other)
  end

  # Sends each piece as it comes, or collects all pieces.
  defp pieces(pieces, to) do
    pieces
    |> Enum.reduce_while({[], %{}}, &take_piece(&1, &2, to))
    |> case do
      {:unexpected, piece} -> unexpected(piece)
      {:not_passed_on, error} -> failure(:transport, error.message, nil)
      {texts, last} -> full(Map.put_new(last, :text, texts |> Enum.reverse() |> Enum.join()))
    end
  end

  defp take_piece("", taken, _to), do: {:cont, taken}

  defp take_piece(piece, {texts, last}, nil) when is_binary(piece),
    do: {:cont, {[piece | texts], last}}

  defp take_piece(piece, taken, {pool_call, token}) when is_binary(piece) do
    # Back-pressure: Python answers when the reader has room for another piece. This process is killed when its call ends.
    case pool_call.(:model_piece, [token, piece], :infinity) do
      {:ok, {:ok, true}} -> {:cont, taken}
      {:ok, _not_wanted} -> {:halt, taken}
      {:error, error} -> {:halt, {:not_passed_on, error}}
    end
  end

  defp take_piece(%{} = last, {texts, _last}, _to) when not is_struct(last),
    do: {:cont, {texts, last}}

  defp take_piece(other, _taken, _to), do: {:halt, {:unexpected, other}}

  defp full(answer) do
    answer = Map.new(answer, fn {key, value} -> {to_string(key), value} end)
    unknown = Map.keys(answer) -- Enum.map(@answer_keys, &Atom.to_string/1)

    cond do
      unknown != [] ->
        failure(
          "the model function gave the key #{inspect(hd(unknown))}; known are #{Enum.map_join(@answer_keys, ", ", &inspect/1)}"
        )

      answer["finish_reason"] not in [nil | @finish_reasons] ->
        failure(
          "the model function gave the finish reason #{inspect(answer["finish_reason"])}; known are #{Enum.map_join(@finish_reasons, ", ", &inspect/1)}"
        )

      true ->
        answer
    end
  end

  defp unexpected(other) do
    failure(
      "the model function gave #{inspect(other, limit: 5, printable_limit: 50)}; expected text, " <>
        "a map with :text, a stream of texts, or {:error, reason}"
    )
  end

  defp failure(%Error{kind: kind} = error) when kind in @kinds,
    do: failure(kind, error.message, error.details["retry_after"])

  defp failure(reason) when is_binary(reason), do: failure(:provider, reason, nil)

  defp failure(exception) when is_exception(exception),
    do: failure(:provider, Exception.message(exception), nil)

  defp failure(kind) when kind in @kinds, do: failure({kind, []})

  defp failure({kind, message}) when kind in @kinds and is_binary(message),
    do: failure(kind, message, nil)

  defp failure({kind, options}) when kind in @kinds and (is_list(options) or is_map(options)) do
    with :ok <- once(options) do
      options = Map.new(options)
      failure(kind, options[:message] || "the model function says #{kind}", options[:retry_after])
    end
  end

  # As the kind of an error, it would have had the call made again, or a fallback model asked.
  defp failure(other) do
    kind = if is_tuple(other) and tuple_size(other) == 2, do: elem(other, 0), else: other
    meant = if is_atom(kind), do: Suggestion.misspelt(kind, @kinds)
    hint = if meant, do: " (did you mean the kind #{inspect(meant)}?)", else: ""
    failure(:provider, inspect(other, limit: 10) <> hint, nil)
  end

  # A map would have the last one without a word.
  defp once(pairs) do
    case Keywords.repeated(pairs, "the answer of the model function") do
      nil -> :ok
      message -> failure(message)
    end
  end

  defp failure(kind, message, retry_after) do
    %{
      "error" => %{
        "kind" => Atom.to_string(kind),
        "message" => message,
        "retry_after" => retry_after
      }
    }
  end
end
