defmodule DSPex.Python.Wire.KeywordsTest do
  # A key that comes twice in a keyword list is an error that names it, wherever a keyword list is read.
  use ExUnit.Case, async: true
  doctest DSPex.Python.Wire.Keywords

  alias DSPex.LLM.{Adapter, Adapters}
  alias DSPex.Python
  alias DSPex.Python.{Error, Pool}

  @qa "question -> answer"
  @inputs %{question: "What is ETF?"}

  defp execute(options, module \\ "dspy.Predict", inputs \\ @inputs),
    do: Python.execute_module(module, @qa, inputs, options)

  defp program do
    {:ok, program} = Python.create_program(signature: @qa)
    program
  end

  defp tool(changed) do
    [name: "stock", description: "d", function: fn _arguments -> 1 end]
    |> Keyword.merge(changed)
    |> then(&[&1])
  end

  describe "a call with a key twice returns an error that names it:" do
    for {name, path, call} <- [
          {"options", "opts.timeout",
           quote(do: execute(timeout: 1_000, temperature: 0.1, timeout: 2_000))},
          {"options with a false value", "opts.strict",
           quote(do: execute(strict: nil, strict: false))},
          {"options with equal values", "opts.max_tokens",
           quote(do: execute(max_tokens: 9, max_tokens: 9))},
          {"pool", "opts.pool", quote(do: Python.ping(nil, pool: :general, pool: :general))},
          {"look-up", "opts.timeout",
           quote(do: Python.list_modules(timeout: 1_000, timeout: 2_000))},
          {"batch", "opts.on_error",
           quote(
             do: Python.execute_batch("dspy.Predict", @qa, [@inputs], on_error: :a, on_error: :b)
           )},
          {"program", "opts.temperature",
           quote(
             do:
               Python.execute_program(program(), @inputs,
                 temperature: 0.1,
                 temperature: 0.2
               )
           )},
          {"spec of a program", "spec.signature",
           quote(do: Python.create_program(signature: @qa, signature: "text -> answer"))},
          {"module in the spec of a program", "spec.modules[0].module",
           quote(
             do:
               Python.create_program(
                 signature: @qa,
                 modules: [[module: "dspy.Predict", module: "dspy.ChainOfThought"]]
               )
           )},
          {"spec of a module", "spec.N",
           quote(do: execute([], module: "dspy.BestOfN", N: 1, N: 2, of: "dspy.Predict"))},
          {"spec of an inner module", "spec.of.module",
           quote(
             do:
               execute([],
                 module: "dspy.BestOfN",
                 N: 1,
                 of: [module: "dspy.Predict", module: "dspy.ChainOfThought"]
               )
           )},
          {"model", "opts.lm",
           quote(do: execute(lm: {:openai, model: "a", api_key: "sk-1", model: "b"}))},
          {"model with its provider", "opts.lm.model",
           quote(do: execute(lm: [provider: :openai, model: "a", model: "b"]))},
          {"fallback model", "opts.lm[1]",
           quote(do: execute(lm: [:embedded, {:openai, model: "a", model: "b"}]))},
          {"model function", "opts.lm",
           quote(do: execute(lm: {:elixir, function: fn _ -> "a" end, model: "a", model: "b"}))},
          {"adapter", "opts.adapter.name",
           quote(do: execute(adapter: [name: "json", name: "chat"]))},
          {"tool", "opts.tools[0]",
           quote(do: execute([tools: [hd(tool([])) ++ [name: "other"]]], "dspy.ReAct"))},
          {"parameters of a tool", "opts.tools[0].parameters",
           quote(do: execute([tools: tool(parameters: [a: :string, a: :integer])], "dspy.ReAct"))},
          {"options of a parameter", "opts.tools[0].parameters.a",
           quote(
             do:
               execute(
                 [tools: tool(parameters: %{a: {:integer, minimum: 1, minimum: 2}})],
                 "dspy.ReAct"
               )
           )},
          {"inputs", "inputs.question",
           quote(do: execute([], "dspy.Predict", question: "a", question: "b"))},
          {"example", "trainset[0].question",
           quote(
             do:
               Python.compile_program(program(), [[question: "a", question: "b"]],
                 optimizer: "dspy.LabeledFewShot"
               )
           )},
          {"demo", "opts.demos[0].question",
           quote(do: execute(demos: [[question: "a", question: "b"]]))},
          {"check of a metric", "opts.metric.check",
           quote(
             do:
               Python.evaluate_program(program(), [@inputs],
                 check: :equals,
                 check: :contains,
                 field: :answer,
                 value: "a"
               )
           )},
          {"configured model", "config",
           quote(do: Python.configure_lm(:openai, model: "a", model: "b"))},
          {"options of a configured model", "opts.session_id",
           quote(
             do: Python.configure_lm(:embedded, %{}, session_id: "keyword-1", session_id: "b")
           )}
        ] do
      test name do
        assert {:error, %Error{kind: :input} = error} = unquote(call)
        assert error.message =~ ~r/^expected the key .* once at .*, got it 2 times$/
        assert error.path == unquote(path)
        refute error.message =~ "sk-1"
      end
    end
  end

  test "a stream with an option twice has the error as its only element" do
    for stream <- [
          Python.stream("dspy.Predict", @qa, @inputs, buffer: 1, buffer: 2),
          Python.stream_program(program(), @inputs, timeout: 1_000, timeout: 2_000),
          Python.stream_compile(program(), [@inputs], optimizer: "a", optimizer: "b")
        ] do
      assert [{:error, %Error{kind: :input, message: message}}] = Enum.to_list(stream)
      assert message =~ "got it 2 times"
    end
  end

  test "the adapter refuses a key twice in its own form" do
    adapter = %Adapters.Python{}

    for options <- [[module: "dspy.Predict", module: "x"], [timeout: 1_000, timeout: 2_000]] do
      assert {:error, {:invalid_input, message}} = Adapter.generate(adapter, "Why?", options)

      assert message ==
               "expected the key #{inspect(hd(Keyword.keys(options)))} once at options, got it 2 times"

      assert {:error, {:invalid_input, ^message}} = Adapter.batch(adapter, ["Why?"], options)
      assert {:error, {:invalid_input, ^message}} = Adapter.stream(adapter, "Why?", options)

      assert {:error, {:invalid_input, ^message}} =
               Adapters.Python.create_program(adapter, @qa, options)

      assert {:error, {:invalid_input, ^message}} =
               Adapters.Python.execute_program(adapter, program(), "Why?", options)
    end

    adapter = %{adapter | module_config: [max_tokens: 1, max_tokens: 2]}
    assert {:error, {:invalid_config, message}} = Adapter.generate(adapter, "Why?", [])
    assert message == "expected the key :max_tokens once at module_config, got it 2 times"
  end

  test "a pool refuses a key twice, and shows no value" do
    for {options, message} <- [
          {[name: :p, python: "sk-1", python: "b"],
           "expected the key :python once at the options of pool :p, got it 2 times"},
          {[name: :p, heartbeat: [interval: 1, interval: 2]],
           ~r/for the option :heartbeat of pool :p/},
          {[name: :p, model: {:openai, model: "a", api_key: "sk-1", model: "b"}],
           ~r/^expected the key :model once at the options of the model :openai, got it 2 times in the option :model/}
        ] do
      error = assert_raise ArgumentError, message, fn -> Pool.child_spec(options) end
      refute error.message =~ "sk-1"
    end
  end

  test "models that have the same provider are no repeated key" do
    models = [embedded: [model: "a"], embedded: [model: "b"]]
    refute match?({:error, %Error{message: "expected the key" <> _}}, execute(lm: models))
  end
end
