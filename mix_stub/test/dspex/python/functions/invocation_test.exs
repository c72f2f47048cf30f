defmodule DSPex.Python.Functions.InvocationTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python

  # Shows the log of failing tests only.
  @moduletag :capture_log

  @qa "question -> answer"
  @inputs %{question: ~s|How many pieces of the article "bolt" are in stock?|}

  # A handler of Erlang's logger that sends entries about failed functions of a pool to the test.
  @doc false
  def log(%{meta: %{pool: pool} = metadata, msg: {:string, text}}, %{config: {test, pool}}),
    do: send(test, {:logged, IO.chardata_to_string(text), metadata})

  def log(_of_another_pool, _config), do: :ok

  setup do
    pool = start_pool!()
    :ok = :logger.add_handler(pool, __MODULE__, %{config: {self(), pool}})
    on_exit(fn -> :logger.remove_handler(pool) end)
    {:ok, pool: pool}
  end

  defp failing do
    tool = %{
      name: "stock",
      description: "How many pieces of an article are in stock",
      parameters: %{article: :string},
      function: fn _arguments -> raise "broken today" end
    }

    [
      {"dspy.ReAct", [tools: [tool]]},
      {"dspy.Predict", [lm: {:elixir, fn _request -> raise "broken today" end}]},
      {"dspy.Predict", [lm: {:openai, model: "m", api_key: fn -> raise "broken today" end}]},
      {%{module: "dspy.BestOfN", N: 1, of: "dspy.Predict"},
       [reward: fn _inputs, _prediction -> raise "broken today" end]}
    ]
  end

  defp ask(module, options), do: Python.execute_module(module, @qa, @inputs, options)

  test "the log entry about a function that fails has the pool and the request's id", %{
    pool: pool
  } do
    Logger.metadata(tenant: "acme", request_id: "web-7")

    for {module, options} <- failing(), id <- ["r-1", nil] do
      options = if id, do: [request_id: id] ++ options, else: options
      ask(module, [pool: pool] ++ options)
      assert_receive {:logged, text, metadata}
      assert text =~ "called by python, failed: ** (RuntimeError) broken today"
      # The call's own id; otherwise the caller's metadata say which request it is.
      assert {metadata.request_id, metadata.tenant} == {id || "web-7", "acme"}
    end
  end

  test "so has the entry about a configured model, whose caller had no id", %{pool: pool} do
    {:ok, _model} =
      Python.configure_lm(:elixir, [function: fn _request -> raise "broken" end], pool: pool)

    for stream? <- [false, true] do
      options = [pool: pool, request_id: "r-2"]

      if stream?,
        do: "dspy.Predict" |> Python.stream(@qa, @inputs, options) |> Stream.run(),
        else: ask("dspy.Predict", options)

      assert_receive {:logged, _text, %{request_id: "r-2"}}
    end

    ask("dspy.Predict", pool: pool)
    assert_receive {:logged, _text, metadata}
    refute is_map_key(metadata, :request_id)
  end
end
