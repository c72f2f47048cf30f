defmodule DSPex.PythonTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.{Prediction, Program, Python}
  alias DSPex.Python.Error

  doctest Python

  @context "Lisbon is the capital of Portugal. It lies on the river Tagus."

  test "ping returns versions and state" do
    assert {:ok, %{"dspy" => "3." <> _rest, "payload" => nil}} = Python.ping()
  end

  test "describes and checks modules without asking a model" do
    assert {:ok, %{"takes_tools" => true, "tools" => %{"calculator" => _description}}} =
             Python.describe_module("dspy.ReAct")

    assert {:ok, %{"signature" => signature, "warnings" => [warning]}} =
             Python.validate_module("dspy.Predict", "question -> score: float", max_hops: 3)

    assert signature == "question: str -> score: float"
    assert warning =~ "max_hops"

    assert {:error, %Error{kind: :signature}} =
             Python.validate_module("dspy.Predict", "question ->")
  end

  test "takes inputs as a map, as a keyword list and as text" do
    results =
      for inputs <- [%{question: "Why?"}, %{"question" => "Why?"}, [question: "Why?"], "Why?"] do
        assert {:ok, %Prediction{} = prediction} =
                 Python.execute_module("dspy.Predict", "question -> answer", inputs)

        prediction[:answer]
      end

    assert [_same] = Enum.uniq(results)
  end

  test "returns the same with options as a map and as a keyword list" do
    for options <- [[max_hops: 3, request_id: "r-1"], %{max_hops: 3, request_id: "r-1"}] do
      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", options)

      assert [warning] = prediction.warnings
      assert warning =~ "max_hops"
      assert prediction.meta["request_id"] == "r-1"
    end
  end

  test "returns the same result by JSON" do
    call = fn format ->
      {:ok, prediction} =
        Python.execute_module(
          "dspy.ChainOfThought",
          "context, question -> answer, places: list[str], year: int, sure: bool",
          %{context: @context, question: "What is the capital of Portugal?"},
          serialization_format: format
        )

      {prediction.fields, prediction.completions, prediction.usage, prediction.warnings,
       prediction.model}
    end

    assert call.(:json) == call.(:native)
  end

  test "names a value that JSON cannot carry before anything is sent" do
    assert {:error, %Error{kind: :input, type: "ValueError"} = error} =
             Python.execute_module("dspy.Predict", "question -> answer", %{question: {1}},
               serialization_format: :json
             )

    assert error.message ==
             "JSON cannot carry {1}, at argument [2].question; use serialization_format: :native"
  end

  test "returns the same errors by JSON" do
    call = fn format ->
      Python.execute_module("dspy.Predict", "question -> answer", %{},
        serialization_format: format
      )
    end

    assert {:error, %Error{kind: :input}} = call.(:native)
    assert call.(:json) == call.(:native)
  end

  test "executes a batch in order, each item with its own result" do
    inputs = [%{question: "one"}, %{wrong: "two"}, "three", %{question: 4}]

    for format <- [:native, :json] do
      assert {:ok, [first, second, third, fourth]} =
               Python.execute_batch("dspy.Predict", "question -> answer", inputs,
                 serialization_format: format
               )

      assert {:ok, %Prediction{}} = first
      assert {:error, %Error{kind: :input}} = second
      assert {:ok, prediction} = third
      assert prediction[:answer] =~ "three"
      assert {:error, %Error{kind: :input, path: "inputs.question"}} = fourth
    end
  end

  test "keeps programs in a session until it is closed" do
    assert {:ok, %Program{pool: :general, version: 1} = program} =
             Python.create_program(
               signature: "context, question -> answer",
               modules: ["dspy.Predict"]
             )

    inputs = %{context: @context, question: "What is the capital of Portugal?"}
    assert {:ok, by_struct} = Python.execute_program(program, inputs)
    assert {:ok, by_id} = Python.execute_program(program.id, inputs)

    assert {:ok, by_both} =
             Python.execute_program(program.id, inputs, session_id: program.session_id)

    assert by_struct[:answer] =~ "Lisbon"
    assert by_id[:answer] == by_struct[:answer]
    assert by_both[:answer] == by_struct[:answer]

    id = program.id
    assert {:ok, [%{"id" => ^id, "calls" => 3}]} = Python.list_programs(program.session_id)

    assert {:ok, second} =
             Python.create_program(%{signature: "question -> answer"},
               session_id: program.session_id
             )

    assert second.session_id == program.session_id
    assert {:ok, %{"id" => _deleted}} = Python.delete_program(second)
    assert {:error, %Error{kind: :program_not_found}} = Python.execute_program(second, "Why?")

    assert {:ok, %{"calls" => 3} = described} = Python.describe_program(program)
    assert {:ok, ^described} = Python.describe_program(program.id)
    {%{}, described} = Map.pop!(described, "learned")
    {nil, described} = Map.pop!(described, "neighbours")
    {true, described} = Map.pop!(described, "portable")

    for format <- [:native, :json] do
      assert {:ok, %{"programs" => [^id], "program_descriptions" => [^described]}} =
               Python.session_info(program.session_id, serialization_format: format)
    end

    assert {:error, %Error{kind: :program_not_found}} = Python.describe_program(second)
    assert {:error, %Error{kind: :session_not_found}} = Python.session_info("no-such-session")

    assert {:ok, sessions} = Python.list_sessions()
    assert program.session_id in Enum.map(sessions, & &1["id"])
    assert {:ok, %{"id" => _closed}} = Python.close_session(program.session_id)
    assert {:error, %Error{kind: :session_not_found}} = Python.execute_program(program, inputs)
    assert {:error, %Error{kind: :session_not_found}} = Python.close_session(program.session_id)
  end

  test "counts its calls" do
    pool = start_pool!()

    {:ok, _prediction} =
      Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

    assert {:ok, metrics} = Python.metrics(pool: pool)
    assert get_in(metrics, ["operations", "execute_module", "calls"]) == 1
    assert get_in(metrics, ["modules", "dspy.Predict", "total_tokens"]) > 0

    assert %{"calls" => 1, "errors" => %{}, "unpriced" => 1, "queue_ms" => nil} =
             metrics["models"]["embedded/extractive"]

    assert {:ok, %{"operations" => %{"execute_module" => %{"calls" => 1}}}} =
             Python.reset_metrics(pool: pool)

    assert {:ok, %{"operations" => operations}} = Python.metrics(pool: pool)
    refute Map.has_key?(operations, "execute_module")
  end

  test "takes the model of one call in the form of a pool's model" do
    for format <- [:native, :json],
        lm <- [:embedded, {:embedded, []}, [provider: :embedded], %{"provider" => "embedded"}] do
      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?",
                 lm: lm,
                 serialization_format: format
               )

      assert prediction.model =~ "embedded"
    end

    key = {:system, "DSPEX_NOT_SET"}

    for lm <- [{:openai, model: "m", api_key: key}, %{provider: :openai, api_key: key}] do
      assert {:error, %Error{kind: :lm_not_configured, message: message}} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", lm: lm)

      assert message ==
               ~s|the environment variable "DSPEX_NOT_SET" for api_key of the model :openai is not set|

      assert {:error, %Error{kind: :lm_not_configured}} =
               Python.create_program(signature: "question -> answer", lm: lm)
    end
  end

  test "configures a model in the form of a pool's model" do
    pool = start_pool!(model: nil)
    assert {:ok, _model} = Python.configure_lm({:embedded, []}, [], pool: pool)

    for {provider, config, message} <- [
          {nil, [], "expected a provider such as :openai"},
          {{:openai, model: "m"}, [temperature: 1], "expected :embedded, {provider, options}"},
          {:openai, "gpt-4o-mini", "expected the options of the model :openai as a keyword list"}
        ] do
      assert {:error, %Error{kind: :input} = error} =
               Python.configure_lm(provider, config, pool: pool)

      assert error.message =~ message
    end
  end

  test "names the expected form of wrong arguments" do
    assert {:error, %Error{kind: :input, path: "inputs"}} =
             Python.execute_batch("dspy.Predict", "question -> answer", "Why?")

    assert {:error, %Error{kind: :input, path: "spec"}} = Python.create_program(42)
  end

  test "raises for misuse" do
    for {options, message} <- [
          {[timeout: -1], "expected :timeout in ms, from 1 to 4294967295, or :infinity, got -1"},
          {[serialization_format: :xml],
           "expected :serialization_format to be :native or :json, got :xml"},
          {[strict: "yes"], ~S|expected :strict to be true or false, got "yes"|},
          {[retry: true], "expected :retry to be :safe or false, got true"},
          {[metadata: 5], ~r/^expected :metadata to be a map, .* got a number$/},
          {[pool: "general"],
           ~r/^expected :pool to be a pool's name, an atom, or \{:cluster, name\}, got "general" \(did you mean :general\?\); the pools are: /}
        ] do
      # Some ignored a wrong format or `strict: "yes"`, such as a stream and a look-up.
      for call <- [
            &Python.ping(nil, &1),
            &Python.metrics/1,
            &Python.list_budgets/1,
            &Python.create_program("a -> b", &1),
            &Python.execute_module("dspy.Predict", "a -> b", "x", &1),
            &Python.stream("dspy.Predict", "a -> b", "x", &1),
            &Python.stream_batch("dspy.Predict", "a -> b", ["x"], &1),
            &Python.evaluate_program("p", [], "f1", &1)
          ],
          do: assert_raise(ArgumentError, message, fn -> call.(options) end)
    end
  end

  test "raises for misuse in the calling process, in a pool of several workers too" do
    # A task raised, and its exit signal ended the caller.
    pool = start_pool!(size: 2, standby: 0)
    assert Python.await_pools([pool]) == :ok

    assert_raise ArgumentError, fn -> Python.metrics(pool: pool, serialization_format: :xml) end
  end

  test "what is no operation, no list of arguments or no trace is told so" do
    # Each was a FunctionClauseError.
    for {operation, args, message} <- [
          {:ping, nil, "expected a list of arguments, [] for none, at arguments, got nil"},
          {:ping, %{}, "expected a list of arguments, [] for none, at arguments, got %{}"},
          {"ping", [nil], ~s|at operation, got "ping"|},
          {nil, [nil], "expected the name of an operation, such as :ping, at operation, got nil"},
          {5, [], "at operation, got 5"}
        ] do
      assert {:error, %Error{kind: :input} = error} = Python.call(operation, args)
      assert error.message =~ message
    end

    for other <- [[1 | 2], [1], nil, %{}], do: assert(Python.trace(other) == nil)
  end

  describe "options" do
    test "that are misspelt are an error of every function, also of functions that send none to Python" do
      program = Python.create_program!(signature: "question -> answer")
      text = Python.dump_program!(program)

      calls = [
        ping: [nil],
        list_modules: [],
        describe_module: ["dspy.Predict"],
        validate_module: ["dspy.Predict", "a -> b"],
        execute_module: ["dspy.Predict", "a -> b", "x"],
        execute_batch: ["dspy.Predict", "a -> b", ["x"]],
        execute_program: [program, "x"],
        execute_program_batch: [program, ["x"]],
        evaluate_program: [program, [%{question: "x", answer: "x"}], "equals"],
        list_optimizers: [],
        describe_optimizer: ["dspy.GEPA"],
        dump_program: [program],
        load_program: [text],
        list_programs: [nil],
        describe_program: [program],
        list_sessions: [],
        session_info: [program.session_id],
        cancel: ["none"],
        metrics: [],
        running_calls: [],
        call: [:ping, [nil]],
        delete_program: [program],
        close_session: [program.session_id]
      ]

      for {name, args} <- calls,
          {wrong, right} <- [timout: "timeout", pol: "pool", stric: "strict"] do
        assert {^name, {:error, error}} = {name, apply(Python, name, args ++ [[{wrong, 1}]])}
        assert {name, error.kind, error.path} == {name, :input, "opts.#{wrong}"}
        assert error.message =~ ~r/did you mean [:"]#{right}"?\?/
      end

      # They have done nothing.
      for {name, args} <- calls,
          do: assert({^name, {:ok, _result}} = {name, apply(Python, name, args)})
    end

    test "of functions that refuse every unknown option are refused too" do
      assert {:error, %{kind: :input, path: "opts.sesion_id"}} =
               Python.create_program(%{signature: "a -> b"}, sesion_id: "s")

      assert {:error, %{kind: :input, path: "opts.sesion_id"}} =
               Python.configure_lm(:embedded, %{}, sesion_id: "s")

      assert {:ok, _program} = Python.create_program(%{signature: "a -> b"}, strict: true)

      assert [{:error, %{path: "opts.bufer"}}] =
               Enum.to_list(Python.stream("dspy.Predict", "a -> b", "x", bufer: 1))
    end

    test "that mean nothing are an error of strict calls, and of calls of a strict pool" do
      predict = &Python.execute_module("dspy.Predict", "a -> b", "x", &1)
      assert {:ok, %{warnings: [_warning]}} = predict.(max_hops: 1)

      assert {:error, %{kind: :input, path: "opts.max_hops"}} =
               predict.(max_hops: 1, strict: true)

      pool = start_pool!(strict: true)
      assert {:error, %{path: "opts.max_hops"}} = predict.(max_hops: 1, pool: pool)
      assert {:ok, %{warnings: [_warning]}} = predict.(max_hops: 1, pool: pool, strict: false)
      assert {:ok, %{warnings: []}} = predict.(pool: pool)
      program = Python.create_program!(%{signature: "a -> b"}, pool: pool)

      assert {:error, %{path: "opts.max_hops"}} =
               Python.execute_program(program, "x", max_hops: 1)

      assert {:error, %{path: "opts.lm"}} = Python.list_modules(pool: pool, lm: :embedded)
    end
  end

  test "every function is documented with an example, and a function with ! names the function without" do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(Python)

    functions =
      for {{:function, name, _arity}, _, _, doc, _} <- docs, do: {Atom.to_string(name), doc}

    assert length(functions) > 50

    for {name, doc} <- functions do
      assert {name, %{"en" => text}} = {name, doc}

      example =
        if String.ends_with?(name, "!"),
          do: "`#{String.trim_trailing(name, "!")}/",
          else: "#{name}("

      assert {name, text =~ example} == {name, true}
    end
  end

  describe "functions with !" do
    test "are there for every function that returns a result, with the same arities and a spec" do
      {:ok, specs} = Code.Typespec.fetch_specs(Python)
      {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(Python)

      with_result =
        for {{name, arity}, [spec]} <- specs,
            not String.ends_with?(Atom.to_string(name), "!"),
            inspect(Code.Typespec.spec_to_quoted(name, spec)) =~ "{:result, " do
          bang = :"#{name}!"
          assert {bang, [_spec]} = {bang, :proplists.get_value({bang, arity}, specs)}

          assert {bang, arities(name)} ==
                   {bang, name |> arities() |> Enum.filter(&function_exported?(Python, bang, &1))}

          assert Enum.any?(docs, fn {id, _, _, doc, _} ->
                   id == {:function, bang, arity} and doc["en"] =~ "`#{name}/#{arity}`"
                 end)

          name
        end

      assert length(with_result) == 38

      for name <- [:stream, :start_pool, :stop_pool],
          do: refute(:"#{name}!" in Keyword.keys(Python.__info__(:functions)))
    end

    test "return the result, or raise the error" do
      assert Python.ping!(:x)["payload"] == :x
      program = Python.create_program!(signature: "question -> answer")
      assert %DSPex.Prediction{} = Python.execute_program!(program, "Why?")

      assert [{:ok, %DSPex.Prediction{}}] =
               Python.execute_batch!("dspy.Predict", "question -> answer", ["Why?"])

      error =
        assert_raise Error, fn ->
          Python.execute_module!("dspy.Predcit", "question -> answer", "Why?")
        end

      assert {error.kind, error.message =~ "dspy.Predict"} == {:module_not_found, true}
    end
  end

  defp arities(name), do: for({^name, arity} <- Python.__info__(:functions), do: arity)

  test "ping raises for options in the place of its payload" do
    for options <- [[pool: :b2], [timeout: 500, strict: true]] do
      given = options |> inspect() |> String.slice(1..-2//1)

      for ping <- [&Python.ping/1, &Python.ping!/1] do
        error = assert_raise ArgumentError, fn -> ping.(options) end

        assert error.message ==
                 "expected a payload before the options of ping/2, got options alone; write ping(nil, #{given})"
      end
    end

    for payload <- [[], [pool: :b2, any: 1], ["pool"], [{"pool", 1}]] do
      assert {:ok, %{"payload" => ^payload}} = Python.ping(payload)
    end

    assert {:ok, %{"payload" => [timeout: 1]}} = Python.ping([timeout: 1], pool: :general)
  end

  test "an unknown operation is an error of the caller's input, with the known ones" do
    assert {:error, %DSPex.Python.Error{kind: :input, path: "operation"} = error} =
             DSPex.Python.call(:nope, [])

    assert error.message =~ ~s(no operation "nope"; it has )
    assert error.message =~ "execute_module"

    assert {:error, %{kind: :input} = error} = Python.call(:execute_modul, [])

    assert error.message =~
             ~s|no operation "execute_modul" (did you mean "execute_module"?); it has|

    assert {:error, error} = Python.call(:handle_json, ["execute_modul", "{}"])
    assert {error.kind, error.path} == {:input, "command"}
    assert error.message =~ ~s|(did you mean "execute_module"?)|
    assert {:error, error} = Python.call(:execute_module, ["dspy.Predict"])
    assert error.message =~ ~r/got 1 argument$/

    assert {:error, error} =
             Python.execute_module("dspy.Predict", "question -> answer", "Why?", trace: :full)

    assert error.message == "expected true, false or :metadata at opts.trace, got :full"
  end
end
