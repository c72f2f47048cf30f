defmodule DSPex.Python.Call.ProgramCalls.ProgramNeedsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.Error

  # Calls `stock` once, then finishes.
  defp agent do
    {:ok, steps} = Agent.start_link(fn -> 0 end)

    fn _request ->
      case Agent.get_and_update(steps, &{&1, &1 + 1}) do
        0 -> step("stock", ~s({"article": "bolt"}))
        1 -> step("finish", "{}")
        _last -> "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n17\n\n[[ ## completed ## ]]"
      end
    end
  end

  defp step(tool, arguments) do
    "[[ ## next_thought ## ]]\nt\n\n[[ ## next_tool_name ## ]]\n#{tool}\n\n" <>
      "[[ ## next_tool_args ## ]]\n#{arguments}\n\n[[ ## completed ## ]]"
  end

  defp stock(test) do
    %{
      name: "stock",
      description: "How many pieces are in stock",
      parameters: %{article: :string},
      function: fn %{"article" => article} ->
        send(test, {:asked, article})
        17
      end
    }
  end

  test "an agent that is stored has the tools of its call" do
    test = self()

    for module <- ["dspy.ReAct", %{module: "dspy.ReAct", tools: [stock(test)]}] do
      assert {:ok, program} =
               Python.create_program(%{signature: "question -> answer", modules: [module]})

      options = [tools: [stock(test)], lm: {:elixir, function: agent()}]
      assert {:ok, prediction} = Python.execute_program(program, "How many?", options)
      assert_receive {:asked, "bolt"}
      assert prediction[:answer] == "17"
      assert prediction.warnings == []
    end
  end

  test "a program that needs a tool is no agent without it, also when it was stored as text" do
    modules = [%{module: "dspy.ReAct", tools: ["calculator", stock(self())]}]
    {:ok, program} = Python.create_program(%{signature: "question -> answer", modules: modules})
    {:ok, json} = Python.dump_program(program)
    {:ok, loaded} = Python.load_program(json)

    for program <- [program, loaded] do
      assert {:error, %Error{kind: :input, path: "opts.tools"} = error} =
               Python.execute_program(program, "How many?")

      assert error.message =~ ~s("stock")
    end
  end

  test "a reward is brought by each call" do
    reward = fn _inputs, prediction -> if prediction[:answer], do: 1.0, else: 0.0 end
    modules = [%{module: "dspy.BestOfN", N: 1, of: "dspy.Predict", reward: reward}]
    {:ok, program} = Python.create_program(%{signature: "question -> answer", modules: modules})
    assert {:ok, _best} = Python.execute_program(program, "Why?", reward: reward)

    assert {:error, %Error{kind: :input, path: "opts.reward"}} =
             Python.execute_program(program, "Why?")
  end

  test "a stage has its own model, which is given anew to a loaded program" do
    model = &[provider: :openai, model: &1, api_key: {:system, "PATH"}]

    spec = [
      signature: "question -> answer",
      modules: [
        [
          module: "dspy.Predict",
          name: "reply",
          lm: {:openai, Keyword.delete(model.("a"), :provider)}
        ]
      ]
    ]

    assert {:ok, program} = Python.create_program(spec)
    assert {:ok, json} = Python.dump_program(program)
    refute json =~ System.fetch_env!("PATH")

    assert {:error, %Error{kind: :input, path: "opts.lms.reply"}} = Python.load_program(json)
    assert {:ok, loaded} = Python.load_program(json, lms: %{reply: model.("b")})
    assert {:ok, %{"stages" => [%{"lm" => "openai/b"}]}} = Python.describe_program(loaded)
  end

  test "predictors of a stage have their own models, which are given anew to a loaded program" do
    model = &[provider: :openai, model: &1, api_key: {:system, "PATH"}]

    lms = [
      "extract.predict": model.("a"),
      react: {:openai, model: "b", api_key: "sk-of-a-predictor"}
    ]

    stage = %{module: "dspy.ReAct", name: "search", lms: lms}

    assert {:ok, program} =
             Python.create_program(signature: "question -> answer", modules: [stage])

    assert {:ok, json} = Python.dump_program(program)
    refute json =~ System.fetch_env!("PATH")
    refute json =~ "sk-of-a-predictor"
    given = %{"search.react" => model.("c"), "search.extract.predict" => model.("d")}
    assert {:ok, loaded} = Python.load_program(json, lms: given)
    models = %{"react" => "openai/c", "extract.predict" => "openai/d"}
    assert {:ok, %{"stages" => [%{"lms" => ^models}]}} = Python.describe_program(loaded)

    misspelt = [%{stage | lms: %{"reactt" => model.("a")}}]

    assert {:error, %Error{kind: :input, path: "spec.modules[0].lms.reactt"}} =
             Python.create_program(signature: "question -> answer", modules: misspelt)
  end

  test "a function alone is no tool of a stage, whose error says what is" do
    for function <- [fn _ -> 1 end, &String.length/1, self()] do
      stage = %{module: "dspy.ReAct", tools: [function]}
      path = "spec.modules[0].tools[0]"

      assert {:error, %Error{kind: :input, path: ^path, message: message}} =
               Python.create_program(signature: "question -> answer", modules: [stage])

      assert message =~
               ~S|expected the name of a tool of Python, {module, function} of exports/0, or %{name: "…"} of a function|
    end

    # As the error says.
    for tool <- [:calculator, "calculator", %{name: "stock"}] do
      stage = %{module: "dspy.ReAct", tools: [tool]}
      assert {:ok, _program} = Python.create_program(signature: "q -> answer", modules: [stage])
    end
  end

  test "a function of Elixir is no model of a stage, as it would have to outlive the call" do
    for {more, path} <- [
          {%{lm: {:elixir, function: agent()}}, "lm"},
          {%{lms: %{react: {:elixir, function: agent()}}}, "lms.react"}
        ] do
      stage = Map.merge(%{module: "dspy.ReAct", name: "reply"}, more)
      path = "spec.modules[0].#{path}"

      assert {:error, %Error{kind: :input, path: ^path}} =
               Python.create_program(signature: "question -> answer", modules: [stage])
    end
  end
end
