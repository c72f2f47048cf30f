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
  an answer as in `DSPex.Python.ModelFunction`. A reply is

    * a map of fields, written in the form of DSPy's `adapter: "chat"`. It must have every output field, including fields
      that the module adds, such as `reasoning`. Values other than text are written as JSON
    * text, as the model writes it
    * a list of texts: pieces of a stream
    * `{:error, reason}`
    * a function that takes the request

  A request beyond the last reply is an error of kind `:provider`.
  """

  use GenServer

  alias DSPex.Python.JSON

  @type reply :: map() | String.t() | [String.t()] | {:error, term()} | (map() -> term())

  @doc """
  Starts a model with its replies, linked to the calling process.
  """
  @spec start_link([reply()] | (map() -> term())) :: GenServer.on_start()
  def start_link(replies) when is_list(replies) or is_function(replies, 1),
    do: GenServer.start_link(__MODULE__, replies)

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
        message = "the scripted model has no reply to request #{length(state.requests)}"
        {:reply, {:error, message}, state}

      function ->
        {:reply, function, state}
    end
  end

  # A function runs in the process of its request, so that a slow one delays no other request.
  defp reply(model, request) do
    case GenServer.call(model, {:next, request}) do
      function when is_function(function, 1) -> function.(request)
      fields when is_map(fields) -> written(fields)
      reply -> reply
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
