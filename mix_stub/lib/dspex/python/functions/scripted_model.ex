defmodule DSPex.Python.ScriptedModel do
  @moduledoc """
  Runs a language model with fixed replies, for tests: no network, no key, the same replies each time.

      test "asks the model and reads its answer" do
        model = start_supervised!({ScriptedModel, [%{answer: "Lisbon"}]})

        {:ok, prediction} =
          DSPex.Python.execute_module("dspy.Predict", "question -> answer", "The capital of Portugal?",
            lm: ScriptedModel.lm(model)
          )

        assert prediction[:answer] == "Lisbon"
        assert [request] = ScriptedModel.requests(model)
        assert ScriptedModel.text(request) =~ "The capital of Portugal?"
      end

  ## Replies

  A list of replies, one for each request in the order of the requests; or a function that takes each request and returns
  an answer as in `DSPex.Python.ModelFunction`, or a map of fields. A reply is

    * a map of fields, written in the form of DSPy's `adapter: "chat"`, or as JSON if the prompt asks for it. It must have
      every output field, including fields that the module adds, such as `reasoning`. Values other than text are written as
      JSON. A field for which the prompt does not ask is an error that names it
    * text, as the model writes it
    * a list of texts: pieces of a stream
    * `{:error, reason}`
    * a function that takes the request, and returns one of these or an answer. A map that it returns is one of fields, unless it
      has the key `:text` or `:tool_calls` of an answer

  A request beyond the last reply is an error of kind `:provider`. An answer that cannot be read, for instance because
  a field is missing, is asked for again as JSON: that is a request too.
  """

  use GenServer

  alias DSPex.Python.JSON
  alias DSPex.Suggestion

  # In the last message of a prompt of the JSON adapter.
  @json_asked "Respond with a JSON object"

  # Of a model function's answer that is a map; a map without them is one of fields.
  @answer_keys [:text, :tool_calls, "text", "tool_calls"]

  @type reply :: map() | String.t() | [String.t()] | {:error, term()} | (map() -> term())

  @doc """
  Starts a model with its replies, linked to the calling process.
  """
  @spec start_link([reply()] | (map() -> term())) :: GenServer.on_start()
  def start_link(replies) when is_list(replies) or is_function(replies, 1),
    do: GenServer.start_link(__MODULE__, replies)

  def start_link(other) do
    raise ArgumentError,
          "expected a list of replies or a function of one argument, got #{inspect(other)}"
  end

  @doc """
  Returns the model for the option `:lm` of a call, for the `:model` of a pool, or for `DSPex.Python.configure_lm/1`.
  """
  @spec lm(GenServer.server()) :: {:elixir, keyword()}
  def lm(model), do: {:elixir, function: &reply(model, &1), model: "scripted"}

  @doc """
  Returns all requests so far, oldest first.
  """
  @spec requests(GenServer.server()) :: [map()]
  def requests(model), do: GenServer.call(model, :requests)

  @doc """
  Returns the contents of all messages of a request as one text.
  """
  @spec text(map()) :: String.t()
  def text(%{messages: messages}), do: Enum.map_join(messages, "\n", &content(&1.content))

  @doc """
  Writes fields in the form in which a model answers a prompt of DSPy's chat adapter.

      iex> DSPex.Python.ScriptedModel.written(%{score: 3})
      "[[ ## score ## ]]\\n3\\n\\n[[ ## completed ## ]]"
  """
  @spec written(map() | keyword()) :: String.t()
  def written(fields) do
    fields = if is_map(fields), do: Enum.sort_by(fields, &to_string(elem(&1, 0))), else: fields

    Enum.map_join(fields, fn {name, value} -> "[[ ## #{name} ## ]]\n#{value(value)}\n\n" end) <>
      "[[ ## completed ## ]]"
  end

  @impl true
  def init(replies), do: {:ok, %{replies: replies, requests: []}}

  @impl true
  def handle_call(:requests, _from, state),
    do: {:reply, Enum.reverse(state.requests), state}

  def handle_call({:next, request}, _from, state) do
    state = %{state | requests: [request | state.requests]}

    case state.replies do
      [reply | replies] ->
        {:reply, reply, %{state | replies: replies}}

      [] ->
        {:reply, {:error, no_reply(request, length(state.requests))}, state}

      function ->
        {:reply, function, state}
    end
  end

  # A function runs in the process of its request, so that a slow one delays no other request.
  defp reply(model, request) do
    case GenServer.call(model, {:next, request}) do
      function when is_function(function, 1) -> request |> function.() |> answered(request)
      fields when is_map(fields) -> written_for(request, fields)
      reply -> reply
    end
  end

  defp answered({:ok, answer}, request) when is_map(answer), do: answered(answer, request)

  defp answered(answer, request) when is_map(answer) and not is_struct(answer) do
    if Enum.any?(@answer_keys, &is_map_key(answer, &1)),
      do: answer,
      else: written_for(request, answer)
  end

  defp answered(answer, _request), do: answer

  # DSPy's chat adapter asks again in the form of its JSON adapter, and tells nobody why.
  defp no_reply(%{messages: messages}, number) do
    message = "the scripted model has no reply to request #{number}"

    case {json?(messages), number} do
      {false, _number} ->
        message

      {true, 1} ->
        message <> ", which asks for JSON"

      {true, _number} ->
        message <>
          ", which asks for JSON; an answer that cannot be read is asked for again as JSON: check the fields of the reply before"
    end
  end

  # An answer in JSON that has other fields is an error of DSPy that names them.
  defp written_for(%{messages: messages} = request, fields),
    do: if(json?(messages), do: value(fields), else: checked(fields, asked(request)))

  defp json?(messages), do: content(List.last(messages).content) =~ @json_asked

  # The fields for which the prompt of the chat adapter asks, by their markers. What stands before its last request are markers of
  # inputs too, which no reply has. In a prompt of another form all markers count.
  defp asked(%{messages: messages} = request) do
    requested = messages |> List.last() |> Map.fetch!(:content) |> content()

    prompt =
      case String.split(requested, "Respond with the corresponding output fields") do
        [_prompt] -> text(request)
        parts -> List.last(parts)
      end

    names =
      ~r/\[\[ ## (\w+) ## \]\]/u |> Regex.scan(prompt) |> Enum.map(&List.last/1) |> Enum.uniq()

    names -- ["completed"]
  end

  # A misspelt field would be an answer that cannot be read, which does not tell that the script is wrong.
  defp checked(fields, asked) do
    case Enum.find(Map.keys(fields), &(asked != [] and to_string(&1) not in asked)) do
      nil ->
        written(fields)

      name ->
        {:error,
         "the reply of the scripted model has the field #{inspect(name)}, for which the prompt does not ask" <>
           Suggestion.hint(to_string(name), asked) <> "; its fields: #{Enum.join(asked, ", ")}"}
    end
  end

  defp value(value) when is_binary(value), do: value

  defp value(value) do
    case JSON.encode(value) do
      {:ok, text} -> text
      {:error, reason, path} -> raise ArgumentError, "#{reason}, at #{path}"
    end
  end

  defp content(content) when is_binary(content), do: content
  defp content(parts), do: Enum.map_join(parts, "\n", &(&1["text"] || ""))
end
