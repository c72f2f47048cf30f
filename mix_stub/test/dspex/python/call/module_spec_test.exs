defmodule DSPex.Python.Call.ModuleSpecTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.{ModelServer, Prediction, Python}
  alias DSPex.Python.ModuleSpec

  @qa "question -> answer"

  setup_all do
    url = ModelServer.start!()
    {:ok, pool: start_pool!(model: ModelServer.model(url, "echo"))}
  end

  defp execute(context, spec, options \\ []),
    do: Python.execute_module(spec, @qa, %{question: "Q?"}, [pool: context.pool] ++ options)

  test "passes names and unknown values to Python unchanged" do
    for spec <- ["dspy.Predict", ~c"dspy.Predict", nil, 7, ~D[2024-02-29], [1, 2]],
        do: assert(ModuleSpec.read(spec, %{}, nil) == {:ok, spec, %{}, []})
  end

  test "finds functions at every level" do
    reward = fn _inputs, _prediction -> 1 end
    tool = %{name: "t", description: "d", function: fn %{} -> 1 end}
    inner = [module: "dspy.ReAct", tools: [tool]]
    spec = %{"module" => "dspy.BestOfN", "options" => %{reward: reward}, of: inner}

    assert {:ok, read, options, callbacks} = ModuleSpec.read(spec, %{tools: [tool]}, nil)
    assert %{"options" => %{reward: %{callback: id}}, of: %{tools: [%{callback: of_tool}]}} = read
    assert %{tools: [%{callback: of_call}]} = options

    assert Enum.sort(Enum.map(callbacks, & &1.id)) == Enum.sort([id, of_tool, of_call])

    described = %{reward: %{function: reward, description: "one"}}
    assert {:ok, read, %{}, [_callback]} = ModuleSpec.read(described, %{}, nil)
    assert %{reward: %{callback: _id, description: "one"}} = read
    refute is_map_key(read.reward, :function)
  end

  test "a reward gets the inputs and the prediction of each attempt", context do
    test = self()

    reward = fn inputs, prediction ->
      send(test, {:asked, inputs, prediction})
      if prediction[:answer] == "Q?", do: 0.25, else: 0
    end

    assert {:ok, %Prediction{} = best} =
             execute(context, %{module: "dspy.BestOfN", N: 2, reward: reward, of: "dspy.Predict"})

    assert best[:answer] == "Q?"
    for _attempt <- 1..2, do: assert_received({:asked, %{"question" => "Q?"}, %Prediction{}})
    refute_received {:asked, _inputs, _prediction}
  end

  test "a reward that reaches the threshold ends the attempts; true counts as 1", context do
    test = self()
    reward = fn _inputs, _prediction -> match?(:asked, send(test, :asked)) end
    options = [reward: reward, of: "dspy.ChainOfThought", N: 5, threshold: 1]
    assert {:ok, %Prediction{reasoning: "Q?"}} = execute(context, "dspy.BestOfN", options)
    assert_received :asked
    refute_received :asked
  end

  @tag :capture_log
  test "a reward that fails or returns no number is the error of the call", context do
    for {reward, message} <- [
          {fn _inputs, _prediction -> raise "no idea" end, "failed: no idea"},
          {fn _inputs, _prediction -> :good end,
           "expected a number, or a map with score and feedback, from the function at spec.reward, got :good"},
          {fn _inputs, _prediction -> {:error, "closed"} end, "failed: closed"}
        ] do
      spec = %{module: "dspy.Refine", reward: reward, of: "dspy.Predict"}
      assert {:error, error} = execute(context, spec)
      assert error.kind == :tool
      assert error.message =~ message
      assert error.details["path"] == "spec.reward"
    end
  end

  test "passages are found by a function", context do
    retriever = fn query, k -> for number <- 1..k, do: "#{query} #{number}" end
    spec = %{module: "dspy.Retrieve", k: 2, retriever: retriever}
    assert {:ok, prediction} = Python.execute_module(spec, nil, "cats", pool: context.pool)
    assert prediction[:passages] == ["cats 1", "cats 2"]

    spec = %{spec | retriever: fn _query, _k -> "cats" end}
    assert {:error, error} = Python.execute_module(spec, nil, "cats", pool: context.pool)

    assert error.message ==
             ~s|expected a list of texts from the retriever at spec.retriever, got "cats"|
  end

  test "examples are found by an embedder, which embeds the trainset once for a batch",
       context do
    test = self()

    embedder = fn texts ->
      send(test, {:embedded, texts})
      for text <- texts, do: [String.length(text), 1]
    end

    trainset = [%{question: "short", answer: "a"}, %{question: "rather long", answer: "b"}]
    spec = %{module: "dspy.KNN", k: 1, trainset: trainset, embedder: embedder}
    inputs = [%{question: "x"}, %{question: "y"}]
    assert {:ok, results} = Python.execute_batch(spec, @qa, inputs, pool: context.pool)

    for {:ok, prediction} <- results,
        do: assert(prediction[:examples] == [%{"question" => "rather long", "answer" => "b"}])

    assert_received {:embedded, ["question: short", "question: rather long"]}
    assert_received {:embedded, ["question: x"]}
    assert_received {:embedded, ["question: y"]}
    refute_received {:embedded, _texts}

    spec = %{spec | embedder: fn _texts -> [[1]] end}
    assert {:error, error} = Python.execute_module(spec, @qa, "x", pool: context.pool)
    assert error.message == "expected 2 vectors from the embedder at spec.embedder, got 1"
  end

  test "errors name the path of the mistake", context do
    one = fn _inputs -> 1 end
    check = %{check: :words, field: :answer, maximum: 1}

    for {spec, path, message} <- [
          {%{module: "dspy.BestOfN", reward: one, of: "dspy.Predict"}, "spec.reward",
           "a function of 2 arguments"},
          {%{module: "dspy.BestOfN", reward: check, of: %{module: "dspy.Predcit"}},
           "spec.of.module", "dspy.Predict"},
          {%{module: "dspy.BestOfN", reward: check, of: %{module: "dspy.RLM", max_iters: 0}},
           "spec.of.max_iters", "an integer from 1 to 100"},
          {%{
             module: "dspy.BestOfN",
             reward: check,
             of: %{module: "dspy.Predict", signature: "a -> b"}
           }, "spec.of.signature", "expected one signature"}
        ] do
      assert {:error, error} = execute(context, spec)
      assert error.message =~ message
      assert error.details["path"] == path
    end
  end

  test "a stored program takes a check, and its function with each call", context do
    modules = fn reward ->
      [%{module: "dspy.BestOfN", N: 2, reward: reward, of: "dspy.Predict"}]
    end

    check = %{check: :equals, field: :answer, input: :question}
    spec = %{signature: @qa, modules: modules.(check)}
    assert {:ok, program} = Python.create_program(spec, pool: context.pool)
    assert {:ok, prediction} = Python.execute_program(program, %{question: "Q?"})
    assert prediction[:answer] == "Q?"

    reward = fn _inputs, _prediction -> 1 end
    spec = %{signature: @qa, modules: modules.(reward)}
    assert {:ok, program} = Python.create_program(spec, pool: context.pool)
    assert {:error, error} = Python.execute_program(program, %{question: "Q?"})
    assert error.path == "opts.reward"
    assert {:ok, _best} = Python.execute_program(program, %{question: "Q?"}, reward: reward)
  end
end
