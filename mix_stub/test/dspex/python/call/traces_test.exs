defmodule DSPex.Python.Call.TracesTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.{ModelServer, Prediction, Python, Trace}
  alias DSPex.Python.Call.Traces
  alias DSPex.Python.{Error, ScriptedModel}

  @moduletag :capture_log
  @qa "question -> answer"

  setup_all do
    url = ModelServer.start!()
    {:ok, url: url, pool: start_pool!(model: ModelServer.model(url, "good"))}
  end

  defp kinds(trace), do: Enum.map(trace.spans, & &1["kind"])
  defp spans(trace, kind), do: Enum.filter(trace.spans, &(&1["kind"] == kind))

  # Each span lies within its parent, and has the parent that the tree says.
  defp assert_tree(trace) do
    by_id = Map.new(trace.spans, &{&1["id"], &1})
    assert map_size(by_id) == length(trace.spans)

    for span <- trace.spans do
      parent = by_id[span["parent"]]
      assert parent != nil or span["kind"] == "call"

      if parent do
        assert span["start_us"] >= parent["start_us"] - 1_000

        assert span["start_us"] + span["duration_us"] <=
                 parent["start_us"] + parent["duration_us"] + 1_000
      end
    end
  end

  test "a call has the tree of its spans in its prediction, if it asks for it", %{pool: pool} do
    {:ok, prediction} =
      Python.execute_module("dspy.ChainOfThought", @qa, "Why?",
        pool: pool,
        trace: true,
        metadata: %{tenant: "acme", pid: self()}
      )

    trace = prediction.trace
    assert kinds(trace) == ~w(call queue python module module model)
    assert_tree(trace)
    [call] = spans(trace, "call")
    assert call["attributes"]["metadata"]["tenant"] == "acme"
    [model] = spans(trace, "model")

    assert %{"messages" => [_system, %{"content" => asked}], "reply" => [_text]} =
             model["attributes"]

    assert asked =~ "Why?"
    assert Python.trace({:ok, prediction}) == trace

    {:ok, prediction} = Python.execute_module("dspy.Predict", @qa, "Why?", pool: pool)
    assert prediction.trace == nil

    {:ok, prediction} =
      Python.execute_module("dspy.Predict", @qa, "Why?", pool: pool, trace: :metadata)

    assert [%{"attributes" => attributes}] = spans(prediction.trace, "model")
    refute Map.has_key?(attributes, "messages") or Map.has_key?(attributes, "reply")
  end

  for format <- [:native, :json] do
    test "errors have it too, with what was paid, as #{format}", %{pool: pool, url: url} do
      options = [pool: pool, trace: true, serialization_format: unquote(format)]
      broken = ModelServer.model(url, "status-503")

      {:error, %Error{kind: :server} = error} =
        Python.execute_module("dspy.Predict", @qa, "Why?", [lm: broken] ++ options)

      assert [%{"status" => "error", "error" => %{"kind" => "server"}}] =
               spans(error.trace, "model")

      assert [%{"status" => "error"}] = spans(error.trace, "call")
      refute Map.has_key?(error.details, "trace")
      assert_tree(error.trace)

      inputs = ["Why?", %{query: "no"}]

      {:ok, [{:ok, one}, {:error, other}]} =
        Python.execute_batch("dspy.Predict", @qa, inputs, options)

      assert kinds(one.trace) == ~w(call queue python item module model)
      assert kinds(other.trace) == ~w(call queue python item)
    end
  end

  for size <- [1, 2] do
    test "a batch that fails as a whole in #{size} workers has it too", %{url: url} do
      pool = start_pool!(model: ModelServer.model(url, "good"), size: unquote(size))
      options = [pool: pool, trace: true]
      {:error, error} = Python.execute_batch("dspy.Predict", "wrong", ["Why?", "When?"], options)
      assert error.kind == :signature
      assert kinds(error.trace) == ~w(call queue python)
      assert %{"status" => "error", "parent" => nil} = hd(error.trace.spans)
      assert_tree(error.trace)

      assert [{:error, error}] =
               Enum.to_list(Python.stream_batch("dspy.Predict", "wrong", ["Why?"], options))

      assert kinds(error.trace) == ~w(call queue python)
    end
  end

  test "an error that is made in Elixir has the span of the call", %{pool: pool} do
    {:error, error} =
      Python.execute_module("dspy.Predict", @qa, "Why?",
        pool: pool,
        trace: true,
        tools: [%{name: 1}]
      )

    assert kinds(error.trace) == ["call"]

    {:error, error} =
      Python.execute_module("dspy.Predict", @qa, "Why?", pool: :nonesuch, trace: true)

    assert [%{"error" => %{"kind" => "pool_not_found"}}] = error.trace.spans
  end

  test "a wrong value of the option is an error", %{pool: pool} do
    {:error, error} = Python.execute_module("dspy.Predict", @qa, "Why?", pool: pool, trace: 7)
    assert {error.kind, error.path} == {:input, "opts.trace"}
    {:error, error} = Python.list_modules(pool: pool, trace: true, strict: true)
    assert error.kind == :input

    assert_raise ArgumentError, ~r/expected :metadata to be a map, such as .*, got text$/, fn ->
      Python.ping(nil, pool: pool, metadata: "acme")
    end
  end

  test "the trace is that of the caller, if the call names one", %{pool: pool} do
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    {:ok, prediction} =
      Python.execute_module("dspy.Predict", @qa, "Why?",
        pool: pool,
        trace: true,
        traceparent: traceparent
      )

    assert prediction.trace.id == "0af7651916cd43dd8448eb211c80319c"
    assert hd(prediction.trace.spans)["parent"] == "b7ad6b7169203331"

    for wrong <- ["00-0-0-0", "", "00-" <> String.duplicate("0", 32) <> "-b7ad6b7169203331-01"] do
      {:ok, prediction} =
        Python.execute_module("dspy.Predict", @qa, "Why?",
          pool: pool,
          trace: true,
          traceparent: wrong
        )

      assert prediction.trace.id =~ ~r/^[0-9a-f]{32}$/
    end
  end

  test "a header of a later version may have more, one of version 00 may not" do
    header = "-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    for right <- ["00" <> header, "01" <> header, "cc" <> header <> "-more-of-it"] do
      traces = Traces.new(right)
      assert {traces.trace_id, traces.flags} == {"0af7651916cd43dd8448eb211c80319c", "00"}
    end

    for wrong <- ["00" <> header <> "-more", "ff" <> header, "cc" <> header <> "0", "0" <> header] do
      assert Traces.new(wrong).parent_id == nil
    end
  end

  test "streams, evaluations and compilations have it", %{pool: pool} do
    assert {:prediction, prediction} =
             Enum.at(Python.stream("dspy.Predict", @qa, "Why?", pool: pool, trace: true), -1)

    assert [%{"attributes" => %{"first_token_us" => first}, "duration_us" => duration}] =
             spans(prediction.trace, "model")

    assert first <= duration

    {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)
    examples = [%{question: "a", answer: "answer to a"}, %{question: "b", answer: "no"}]
    options = [metric: :exact_match, trace: true]
    {:ok, evaluation} = Python.evaluate_program(program, examples, :exact_match, trace: true)
    assert length(spans(evaluation.trace, "item")) == 2
    assert_tree(evaluation.trace)
    [{:ok, first} | _rest] = evaluation.results
    assert length(spans(Python.trace(first), "item")) == 1

    elements =
      program |> Python.stream_evaluate(examples, :exact_match, trace: true) |> Enum.to_list()

    assert length(spans(Python.trace(List.last(elements)), "item")) == 2
    assert length(spans(Python.trace(hd(elements)), "item")) == 1

    {:ok, compiled} =
      Python.compile_program(program, examples, [optimizer: "dspy.BootstrapFewShot"] ++ options)

    assert [%{"name" => "dspy.BootstrapFewShot"} = optimizer] = spans(compiled.trace, "optimizer")
    assert_tree(compiled.trace)
    assert spans(compiled.trace, "model") != []
    assert Enum.any?(spans(compiled.trace, "module"), &(&1["parent"] == optimizer["id"]))
  end

  test "a batch that is spread over workers has one tree", %{url: url} do
    pool = start_pool!(model: ModelServer.model(url, "good"), size: 2)
    :ok = Python.await_pools([pool])
    inputs = for number <- 1..20, do: "Why #{number}?"
    {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, pool: pool, trace: true)
    trace = Python.trace(results)
    assert_tree(trace)
    assert length(spans(trace, "item")) == 20
    assert length(spans(trace, "call")) == 1

    assert trace
           |> spans("python")
           |> Enum.map(& &1["attributes"]["worker"])
           |> Enum.uniq()
           |> length() == 2

    assert Enum.all?(results, &match?({:ok, %Prediction{trace: %Trace{}}}, &1))

    elements =
      Enum.to_list(Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool, trace: true))

    assert elements |> Python.trace() |> spans("item") |> length() == 20
    assert elements |> Python.trace() |> spans("call") |> length() == 1
    elements = Enum.to_list(Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool))
    assert Enum.all?(elements, &match?({_index, {:ok, %Prediction{trace: nil}}}, &1))

    {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, pool: pool)
    assert Enum.all?(results, &match?({:ok, %Prediction{trace: nil}}, &1))
  end

  # Calls its tool, which fails the first time, and then answers. Two requests later it is asked for a word about the answer.
  defp agent(request) do
    text = ScriptedModel.text(request)

    cond do
      text =~ "slow question" ->
        Process.sleep(:infinity)

      not (text =~ "next_tool_name") ->
        answer(%{polished: "It is 17."}, 30, 3)

      text =~ "observation_1" ->
        answer(%{next_thought: "done", next_tool_name: "finish", next_tool_args: %{}}, 20, 2)

      text =~ "observation_0" ->
        answer(look_up(%{article: "bolt"}), 10, 1)

      text =~ "answer" ->
        answer(look_up(%{article: "nut"}), 10, 1)
    end
  end

  defp look_up(arguments),
    do: %{next_thought: "look", next_tool_name: "stock", next_tool_args: arguments}

  defp answer(fields, input, output) do
    %{
      text: ScriptedModel.written(fields),
      usage: %{input_tokens: input, output_tokens: output, total_tokens: input + output}
    }
  end

  defp extracting(request) do
    if ScriptedModel.text(request) =~ "next_tool_name",
      do: agent(request),
      else: extracted(ScriptedModel.text(request))
  end

  defp extracted(text) do
    if text =~ "polished",
      do: answer(%{polished: "It is 17."}, 30, 3),
      else: answer(%{reasoning: "seen", answer: "17"}, 40, 4)
  end

  defp stock do
    %{
      name: "stock",
      description: "how many pieces of an article there are",
      parameters: %{article: :string},
      function: fn
        %{"article" => "nut"} -> {:error, "no such article"}
        %{"article" => "bolt"} -> 17
      end
    }
  end

  test "the tree of an agent in a pipeline in a batch: fallback, retry, cache, failed tool, cancelled sibling",
       %{url: url} do
    model = start_supervised!({ScriptedModel, &extracting/1})
    {:openai, broken} = ModelServer.model(url, "status-503")
    pool = start_pool!(model: ModelServer.model(url, "good"))

    spec = %{
      modules: [
        %{name: "agent", module: "dspy.ReAct", signature: "question -> answer"},
        %{name: "polish", module: "dspy.Predict", signature: "answer -> polished"}
      ]
    }

    {:ok, program} = Python.create_program(spec, pool: pool)
    retried = {:openai, Keyword.put(broken, :num_retries, 1)}

    options = [
      tools: [stock()],
      trace: true,
      timeout: 20_000,
      on_error: :fail_fast,
      max_concurrency: 2
    ]

    inputs = ["How many?", %{query: "wrong"}, "A slow question?"]

    # One after the other, so that the first has ended when the second fails.
    {:ok, [{:ok, first}]} =
      Python.execute_program_batch(
        program,
        Enum.take(inputs, 1),
        [lm: [retried, ScriptedModel.lm(model)]] ++ options
      )

    assert first[:polished] == "It is 17."
    trace = first.trace
    assert_tree(trace)
    by_id = Map.new(trace.spans, &{&1["id"], &1})
    [item] = spans(trace, "item")
    [outer] = Enum.filter(trace.spans, &(&1["parent"] == item["id"]))
    assert {outer["kind"], outer["name"]} == {"module", "program"}

    stages =
      for span <- trace.spans,
          span["parent"] == outer["id"],
          do: {span["name"], span["attributes"]["stage"]}

    assert stages == [{"dspy.ReAct", "agent"}, {"dspy.Predict", "polish"}]
    assert Enum.all?(spans(trace, "model") ++ spans(trace, "tool"), & &1["attributes"]["stage"])

    # Each request goes to the fallback model, after an attempt that is repeated once.
    models = spans(trace, "model")
    {failed, answered} = Enum.split_with(models, &(&1["status"] == "error"))
    assert length(failed) == length(answered) and length(failed) == 5

    assert Enum.all?(
             failed,
             &(&1["attributes"]["attempts"] == 2 and
                 match?([%{"kind" => "server"}], &1["attributes"]["retries"]))
           )

    assert Enum.all?(answered, &(&1["attributes"]["fallback_for"] == "openai/status-503"))
    assert Enum.all?(models, &(by_id[&1["parent"]]["kind"] == "module"))

    # The agent calls its tools, not one of its predictors.
    assert [
             %{"status" => "error", "error" => %{"kind" => "tool", "message" => message}},
             %{"status" => "ok"} = found
           ] = spans(trace, "tool")

    assert message =~ "no such article"
    assert found["attributes"]["result"] == "17" and found["attributes"]["arguments"] =~ "bolt"
    assert by_id[found["parent"]]["name"] == "dspy.ReAct"

    # What the scripted model has counted.
    usage = Trace.usage(trace)
    assert {usage.input_tokens, usage.output_tokens, usage.total_tokens} == {110, 11, 121}
    assert usage.total_tokens == Prediction.total_tokens(first)

    {:ok, [_first, {:error, wrong}, {:error, cancelled}]} =
      Python.execute_program_batch(
        program,
        inputs,
        [lm: ScriptedModel.lm(model), max_concurrency: 1] ++
          Keyword.delete(options, :max_concurrency)
      )

    assert {wrong.kind, kinds(wrong.trace)} == {:input, ~w(call queue python store item)}
    assert {cancelled.kind, kinds(cancelled.trace)} == {:cancelled, ~w(call queue python store)}
  end

  test "an item that is cancelled by another one has its spans until then", %{
    pool: pool,
    url: url
  } do
    test = self()

    waits = fn _request ->
      send(test, :asked)
      Process.sleep(:infinity)
    end

    task =
      Task.async(fn ->
        Python.execute_batch("dspy.Predict", @qa, ["slow", "fails"],
          pool: pool,
          trace: true,
          on_error: :fail_fast,
          timeout: 60_000,
          max_concurrency: 2,
          lm:
            {:elixir,
             function: fn request ->
               if ScriptedModel.text(request) =~ "slow",
                 do: waits.(request),
                 else: fail_later(test)
             end}
        )
      end)

    assert_receive :asked, 20_000
    assert_receive {:fails, failing}, 20_000
    send(failing, :now)
    {:ok, [{:error, slow}, {:error, _failed}]} = Task.await(task, 60_000)
    assert slow.kind == :cancelled
    assert [%{"status" => "cancelled"}] = spans(slow.trace, "item")
    assert [%{"status" => "cancelled"}] = spans(slow.trace, "model")
    assert url
  end

  defp fail_later(test) do
    send(test, {:fails, self()})
    receive do: (:now -> {:error, :auth})
  end

  test "an answer from the cache costs nothing", %{pool: pool, url: url} do
    {:openai, model} = ModelServer.model(url, "good")
    options = [pool: pool, trace: true, lm: {:openai, Keyword.put(model, :cache, true)}]

    for _ <- 1..2,
        do: {:ok, _prediction} = Python.execute_module("dspy.Predict", @qa, "Cached?", options)

    {:ok, prediction} = Python.execute_module("dspy.Predict", @qa, "Cached?", options)

    assert [%{"attributes" => %{"cache_hit" => true} = attributes}] =
             spans(prediction.trace, "model")

    assert attributes["cost"] == 0.0
    refute Map.has_key?(attributes, "total_tokens")
    assert Trace.usage(prediction.trace).cost == 0.0
  end

  test "traces have no API key, in whatever is asked and answered", %{pool: pool} do
    {:ok, prediction} =
      Python.execute_module("dspy.Predict", @qa, "My key is test-key-7f3a",
        pool: pool,
        trace: true
      )

    text = inspect(prediction.trace, limit: :infinity, printable_limit: :infinity)
    refute text =~ "test-key-7f3a"
    assert text =~ "[redacted]"
  end

  test "ids are random in all their digits" do
    ends =
      for _ <- 1..20,
          uniq: true,
          do: String.slice(DSPex.Python.Call.Traces.new(nil).trace_id, 24, 8)

    assert length(ends) > 10
  end
end
