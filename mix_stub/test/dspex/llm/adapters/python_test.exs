defmodule DSPex.LLM.Adapters.PythonTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.LLM.Adapter
  alias DSPex.LLM.Adapters
  alias DSPex.Prediction

  @context "Lisbon is the capital of Portugal. It lies on the river Tagus."

  setup do
    {:ok, adapter: %Adapters.Python{}}
  end

  describe "the examples of the documentation" do
    test "run as written" do
      adapter = %DSPex.LLM.Adapters.Python{pool: :general, timeout: 30_000}

      {:ok, result} =
        DSPex.LLM.Adapter.generate(adapter, "What is machine learning?",
          module: "dspy.Predict",
          signature: "question -> answer"
        )

      assert result[:answer] =~ "machine learning"

      {:ok, result} =
        DSPex.LLM.Adapter.generate(adapter, "Explain how photosynthesis works",
          module: "dspy.ChainOfThought",
          signature: "question -> explanation",
          max_hops: 3
        )

      assert result["explanation"] =~ "photosynthesis"
      assert is_binary(result.reasoning)
      assert [warning] = result.warnings
      assert warning =~ "max_hops"

      {:ok, program} =
        DSPex.LLM.Adapters.Python.create_program(adapter, "context, question -> answer",
          modules: ["dspy.ChainOfThought", "dspy.Predict"]
        )

      {:ok, result} =
        DSPex.LLM.Adapters.Python.execute_program(adapter, program.id, %{
          context: "Previous conversation...",
          question: "What did we discuss?"
        })

      assert result[:answer] == "Previous conversation..."
    end
  end

  describe "generate/3" do
    test "uses Predict and question -> answer by default", %{adapter: adapter} do
      assert {:ok, %Prediction{names: ["answer"]}} = Adapter.generate(adapter, "Why?")
    end

    test "fills the first input with text, and fields by name", %{adapter: adapter} do
      options = [signature: "text -> summary"]
      assert {:ok, by_text} = Adapter.generate(adapter, @context, options)
      assert {:ok, by_name} = Adapter.generate(adapter, %{text: @context}, options)
      assert {:ok, by_string} = Adapter.generate(adapter, %{"text" => @context}, Map.new(options))
      assert by_text[:summary] == by_name[:summary]
      assert by_text[:summary] == by_string[:summary]
      charlist = String.to_charlist(@context)
      assert {:ok, by_charlist} = Adapter.generate(adapter, charlist, options)
      assert by_charlist[:summary] == by_text[:summary]
    end

    test "takes a conversation", %{adapter: adapter} do
      messages = [%{role: "system", content: "Be short."}, %{role: :user, content: "Why?"}]
      assert {:ok, prediction} = Adapter.generate(adapter, messages)
      # The embedded model answers from the text of its inputs.
      assert prediction[:answer] == "system: Be short."
    end

    test "builds a signature from inputs, outputs and instructions", %{adapter: adapter} do
      options = [
        inputs: ["context", "question"],
        outputs: ["answer", "year: int"],
        instructions: "Answer shortly."
      ]

      inputs = %{
        context: @context <> " It was founded in 1147.",
        question: "What is the capital of Portugal?"
      }

      assert {:ok, prediction} = Adapter.generate(adapter, inputs, options)
      assert prediction[:answer] =~ "Lisbon"
      assert prediction[:year] == 1147
    end

    test "adds instructions to a signature of either form", %{adapter: adapter} do
      for signature <- [
            "question -> size: Literal['->', 'b']",
            %{inputs: ["question"], outputs: ["size: Literal['->', 'b']"]}
          ] do
        options = [signature: signature, instructions: "Choose."]
        assert {:ok, prediction} = Adapter.generate(adapter, "Which?", options)
        assert prediction[:size] in ["->", "b"]
      end

      assert {:error, {:invalid_input, message}} =
               Adapter.generate(adapter, "Which?", signature: "no arrow", instructions: "Choose.")

      assert message =~ "signature"
    end

    test "prefers the options of a call to those of the adapter" do
      adapter = %Adapters.Python{
        module_config: %{module: "dspy.ChainOfThought", request_id: "adapter"}
      }

      assert {:ok, prediction} = Adapter.generate(adapter, "Why?", request_id: "call")
      assert prediction.reasoning
      assert prediction.meta["request_id"] == "call"

      assert {:ok, prediction} =
               Adapter.generate(
                 %{adapter | module_config: [module: "dspy.ChainOfThought"]},
                 "Why?"
               )

      assert prediction.reasoning
    end

    test "returns the same in both formats", %{adapter: adapter} do
      assert {:ok, native} = Adapter.generate(adapter, "Why?")
      assert {:ok, json} = Adapter.generate(%{adapter | serialization_format: :json}, "Why?")
      assert json.fields == native.fields
    end

    test "returns a reason for each kind of error", %{adapter: adapter} do
      assert {:error, :module_not_found} =
               Adapter.generate(adapter, "Why?", module: "dspy.Predcit")

      assert {:error, :module_not_found} = Adapter.generate(adapter, "Why?", module: "os.system")
      assert {:error, {:invalid_input, message}} = Adapter.generate(adapter, %{question: 42})
      assert message == "expected a string at inputs.question, got 42"

      assert {:error, {:invalid_input, _message}} =
               Adapter.generate(adapter, "Why?", signature: "question ->")

      assert {:error, {:python_error, details}} =
               Adapter.generate(adapter, "Why?", session_id: "s-none")

      assert %{"kind" => "session_not_found", "type" => "SessionNotFoundError"} = details
      assert {:error, {:invalid_input, message}} = Adapter.generate(adapter, 42)
      assert message =~ "expected a prompt as text, a map of inputs or a list of messages, got 42"
    end

    test "logs what a bare reason leaves out", %{adapter: adapter} do
      log =
        ExUnit.CaptureLog.capture_log(fn ->
          {:error, :module_not_found} = Adapter.generate(adapter, "Why?", module: "dspy.Predcit")
        end)

      assert log =~
               ~s|[debug] :module_not_found: unknown module "dspy.Predcit" (did you mean "dspy.Predict"?)|
    end

    test "returns errors as those of DSPex.Python with errors: :structs", %{adapter: adapter} do
      adapter = %{adapter | errors: :structs}
      alias DSPex.Python.Error

      assert {:error, %Error{kind: :module_not_found} = error} =
               Adapter.generate(adapter, "Why?", module: "dspy.Predcit")

      assert error.message =~ ~s|did you mean "dspy.Predict"|

      for {result, kind, part} <- [
            {Adapter.generate(adapter, %{question: 42}), :input,
             "expected a string at inputs.question"},
            {Adapter.generate(adapter, 42), :input, "expected a prompt as text"},
            {Adapter.generate(adapter, "Why?", modul: 1), :input, "unknown option :modul"},
            # The last one was asked.
            {Adapter.generate(adapter, question: "Why?", question: "How?"), :input,
             "expected the key \"question\" once at inputs, got it 2 times"},
            {Adapter.generate(adapter, "Why?", session_id: "s-none"), :session_not_found,
             "s-none"},
            {Adapter.batch(adapter, "Why?"), :input, "expected a list of prompts"},
            {Adapter.stream(adapter, 42), :input, "expected a prompt as text"},
            {Adapter.format_messages(adapter, []), :input, "at least one message"},
            {Adapter.validate_config(%{adapter | pool: :nonesuch}), :input,
             "there is no pool :nonesuch"},
            {Adapters.Python.create_program(adapter, "question ->"), :signature,
             "without outputs"},
            {Adapters.Python.execute_program(adapter, "none", "Why?"), :program_not_found,
             "none"},
            {Adapters.Python.configure(adapter, {:openai, "m"}), :input, "as a keyword list"}
          ] do
        assert {:error, %Error{kind: ^kind} = error} = result
        assert error.message =~ part
      end

      assert {:ok, [{:ok, _prediction}, {:error, %Error{kind: :input}}]} =
               Adapter.batch(adapter, ["Why?", %{qestion: "Why?"}])

      {:ok, elements} = Adapter.stream(adapter, "Why?", module: "dspy.Predcit")
      assert [{:error, %Error{kind: :module_not_found}}] = Enum.to_list(elements)
      assert {:ok, %DSPex.Prediction{}} = Adapter.generate(adapter, "Why?")
    end

    test "reports a value that JSON cannot carry", %{adapter: adapter} do
      adapter = %{adapter | serialization_format: :json}
      assert {:error, {:invalid_input, message}} = Adapter.generate(adapter, %{question: <<255>>})
      assert message =~ "JSON cannot carry a binary that is not UTF-8, at argument [2].question"
    end

    test "reports a missing pool", %{adapter: adapter} do
      assert {:error, {:python_error, %{"kind" => "pool_not_found", "message" => message}}} =
               Adapter.generate(%{adapter | pool: :nonesuch}, "Why?")

      assert message =~ "there is no pool :nonesuch; write config :dspex"
    end

    test "reports a pool without a model, with the remedy" do
      pool = start_pool!(model: nil)

      assert {:error, {:python_error, %{"kind" => "lm_not_configured", "message" => message}}} =
               Adapter.generate(%Adapters.Python{pool: pool}, "Why?")

      assert message =~ "has no language model; write config"
    end

    test "respects the timeout of the adapter and of the call" do
      pool = start_pool!(heartbeat: false)
      {:ok, _pong} = DSPex.Python.ping(nil, pool: pool)
      signal(pool, "STOP")

      assert {:error, :python_timeout} =
               Adapter.generate(%Adapters.Python{pool: pool, timeout: 50}, "Why?")

      assert {:error, :python_timeout} =
               Adapter.generate(%Adapters.Python{pool: pool}, "Why?", timeout: 50)

      signal(pool, "CONT")
      assert {:ok, _prediction} = Adapter.generate(%Adapters.Python{pool: pool}, "Why?")
    end
  end

  describe "options" do
    test "that are misspelt are an error, wherever they are read", %{adapter: adapter} do
      for {wrong, right} <- [
            modul: ":module",
            signatur: ":signature",
            input: ":inputs",
            output: ":outputs",
            instruction: ":instructions",
            model: ~s|"lm"|,
            timout: ~s|"timeout"|,
            pol: ~s|"pool"|
          ] do
        for adapter <- [adapter, %{adapter | module_config: %{wrong => 1}}] do
          options = if adapter.module_config == %{}, do: [{wrong, 1}], else: []

          assert {^wrong, {:error, {:invalid_input, message}}} =
                   {wrong, Adapter.generate(adapter, "x", options)}

          assert message =~ "did you mean #{right}?"

          assert {:ok, [{:error, {:invalid_input, _message}}]} =
                   Adapter.batch(adapter, ["x"], options) |> listed()

          assert {:ok, [{:error, {:invalid_input, _message}}]} =
                   Adapter.stream(adapter, "x", options) |> listed()
        end
      end
    end

    test "that mean nothing are an error of a strict adapter", %{adapter: adapter} do
      assert {:ok, %{warnings: [_warning]}} = Adapter.generate(adapter, "x", max_hops: 1)
      adapter = %{adapter | strict: true}
      assert {:error, {:invalid_input, message}} = Adapter.generate(adapter, "x", max_hops: 1)
      assert message =~ "the call is strict"

      assert {:ok, %{warnings: [_warning]}} =
               Adapter.generate(adapter, "x", max_hops: 1, strict: false)

      assert {:ok, program} = Adapters.Python.create_program(adapter, "question -> answer")

      assert {:error, {:invalid_input, _message}} =
               Adapters.Python.execute_program(adapter, program, "x", max_hops: 1)
    end

    # An error at once, or the only element of a stream.
    defp listed({:ok, results}), do: {:ok, Enum.to_list(results)}
    defp listed({:error, _reason} = error), do: {:ok, [error]}
  end

  describe "stream/3" do
    test "emits the text of each field and then the prediction", %{adapter: adapter} do
      assert {:ok, stream} = Adapter.stream(adapter, "Why?", module: "dspy.ChainOfThought")
      events = Enum.to_list(stream)
      assert {:prediction, prediction} = List.last(events)

      assert Enum.sort(for {:chunk, name, text} <- events, do: {name, text}) ==
               Enum.sort(prediction.fields)

      assert {:status, %{"stage" => "module", "name" => "dspy.ChainOfThought"}} = hd(events)
    end

    test "makes no call before it is enumerated, and emits an error", %{adapter: adapter} do
      assert {:ok, stream} = Adapter.stream(%{adapter | pool: :nonesuch}, "Why?")
      assert [{:error, {:python_error, %{"kind" => "pool_not_found"}}}] = Enum.to_list(stream)
      assert {:error, {:invalid_input, _message}} = Adapter.stream(adapter, 42)
    end
  end

  describe "batch/3" do
    test "answers in order, each prompt with its own result", %{adapter: adapter} do
      prompts = ["one", %{question: "two"}, %{wrong: 3}, [%{role: "user", content: "four"}]]

      assert {:ok, [{:ok, one}, {:ok, two}, {:error, {:invalid_input, _message}}, {:ok, four}]} =
               Adapter.batch(adapter, prompts)

      assert one[:answer] =~ "one"
      assert two[:answer] =~ "two"
      assert four[:answer] =~ "four"
      assert {:ok, []} = Adapter.batch(adapter, [])
      assert {:error, {:invalid_input, _message}} = Adapter.batch(adapter, ["one", 2])
      assert {:error, {:invalid_input, message}} = Adapter.batch(adapter, "one")
      assert message == ~s|expected a list of prompts, got "one"|
      assert {:error, :module_not_found} = Adapter.batch(adapter, ["one"], module: "dspy.No")
    end
  end

  describe "validate_config/1" do
    test "accepts a working adapter", %{adapter: adapter} do
      assert Adapter.validate_config(adapter) == :ok

      assert Adapter.validate_config(%{adapter | timeout: :infinity, serialization_format: :json}) ==
               :ok
    end

    test "names the wrong field", %{adapter: adapter} do
      for {change, part} <- [
            {%{pool: :nonesuch}, "there is no pool :nonesuch"},
            {%{pool: "general"}, ~s|expected the name of a pool at pool, got "general"|},
            {%{timeout: 0}, "at timeout, got 0"},
            {%{timeout: 1.5}, "at timeout, got 1.5"},
            {%{serialization_format: :xml},
             "expected :native or :json at serialization_format, got :xml"},
            {%{strict: 1}, "expected a boolean at strict, got 1"},
            {%{errors: :all}, "expected :reasons or :structs at errors, got :all"},
            {%{module_config: 1}, "at module_config, got 1"}
          ] do
        assert {:error, {:invalid_config, message}} =
                 Adapter.validate_config(struct!(adapter, change))

        assert message =~ part
      end
    end

    test "reports a pool without a model, and a model that cannot be configured" do
      without = start_pool!(model: nil)

      assert {:error, {:invalid_config, message}} =
               Adapter.validate_config(%Adapters.Python{pool: without})

      assert message =~ "has no language model"

      wrong = start_pool!(model: {:openai, api_key: {:system, "DSPEX_NOT_SET"}})
      {:ok, _pong} = DSPex.Python.ping(nil, pool: wrong)

      assert {:error, {:invalid_config, message}} =
               Adapter.validate_config(%Adapters.Python{pool: wrong})

      assert message =~ "DSPEX_NOT_SET"
    end

    test "is also checked by every call", %{adapter: adapter} do
      adapter = %{adapter | timeout: -1}
      assert {:error, {:invalid_config, _message}} = Adapter.generate(adapter, "Why?")
      assert {:error, {:invalid_config, _message}} = Adapter.stream(adapter, "Why?")
      assert {:error, {:invalid_config, _message}} = Adapter.batch(adapter, ["Why?"])

      assert {:error, {:invalid_config, _message}} =
               Adapters.Python.create_program(adapter, "question -> answer")

      assert {:error, {:invalid_config, _message}} =
               Adapters.Python.execute_program(adapter, "p-1", %{})

      assert {:error, {:invalid_config, _message}} = Adapters.Python.configure(adapter, :embedded)
    end
  end

  describe "configure/2" do
    test "sets the model of the pool" do
      adapter = %Adapters.Python{pool: start_pool!(model: nil)}
      assert {:error, {:invalid_config, _message}} = Adapters.Python.configure(adapter, 1)

      assert {:error, {:python_error, %{"kind" => "provider"}}} =
               Adapters.Python.configure(adapter, {:no_such, model: "m"})

      assert :ok = Adapters.Python.configure(adapter, :embedded)
      assert Adapter.validate_config(adapter) == :ok
      assert {:ok, _prediction} = Adapter.generate(adapter, "Why?")
    end
  end

  describe "programs" do
    test "may be structs, whose pool is used", %{adapter: adapter} do
      assert {:ok, program} = Adapters.Python.create_program(adapter, "question -> answer")
      assert program.pool == :general

      assert {:ok, _prediction} =
               Adapters.Python.execute_program(%{adapter | pool: :nonesuch}, program, %{
                 question: "Why?"
               })

      # An option is not overruled without a word.
      assert {:error, {:invalid_input, "expected pool :general at opts.pool" <> _rest}} =
               Adapters.Python.execute_program(adapter, program, "Why?", pool: :nonesuch)
    end

    test "that do not exist are an error", %{adapter: adapter} do
      assert {:error, {:python_error, %{"kind" => "program_not_found"}}} =
               Adapters.Python.execute_program(adapter, "p-none", %{question: "Why?"})

      assert {:error, :module_not_found} =
               Adapters.Python.create_program(adapter, "question -> answer", modules: ["dspy.No"])
    end
  end

  describe "messages" do
    test "make a prompt", %{adapter: adapter} do
      assert Adapter.format_messages(adapter, [%{role: :user, content: "Why?"}]) == {:ok, "Why?"}

      assert Adapter.format_messages(adapter, [
               %{"role" => "user", "content" => "Why?"},
               %{role: "assistant", content: "Because."},
               %{role: :user, content: "And?"}
             ]) == {:ok, "user: Why?\nassistant: Because.\nuser: And?"}
    end

    test "that are wrong are named in the error", %{adapter: adapter} do
      assert {:error, {:invalid_input, message}} =
               Adapter.format_messages(adapter, [%{role: :user, content: "a"}, %{role: :user}])

      assert message ==
               "expected a message with role and content at messages[1], got %{role: :user}"

      assert {:error, {:invalid_input, "expected at least one message"}} =
               Adapter.format_messages(adapter, [])
    end

    test "extract_content/2 finds the main output of a prediction", %{adapter: adapter} do
      prediction = Prediction.from_term(%{"reasoning" => "r", "summary" => "s"})
      assert Adapter.extract_content(adapter, prediction) == {:ok, "s"}

      assert {:error, {:invalid_input, _message}} =
               Adapter.extract_content(adapter, Prediction.from_term(%{}))
    end
  end

  test "takes modules that run modules, with the default signature if they have none", %{
    adapter: adapter
  } do
    best = %{
      module: "dspy.BestOfN",
      N: 2,
      reward: fn _inputs, _prediction -> 1 end,
      of: "dspy.Predict"
    }

    assert {:ok, prediction} = Adapter.generate(adapter, "What is 2 * 3?", module: best)
    assert prediction[:answer] == "6"

    own = [module: "dspy.Predict", signature: "question -> result: int"]

    assert {:ok, prediction} =
             Adapter.generate(adapter, "What is 2 * 3?",
               module: %{best | of: own} |> Map.put(:reward, fn _inputs, _prediction -> true end)
             )

    assert prediction[:result] == 6
  end

  test "lists its capabilities", %{adapter: adapter} do
    assert %{streaming: true, batch: true, modules: modules} = Adapter.capabilities(adapter)
    assert {:ok, offered} = DSPex.Python.list_modules()
    assert Enum.sort(modules) == Enum.sort(offered)
    assert modules == Adapters.Python.supported_modules()
  end
end
