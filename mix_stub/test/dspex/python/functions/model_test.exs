defmodule DSPex.Python.Functions.ModelTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python, TestEnvironment}
  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Model

  test "returns the provider and its options" do
    assert Model.resolve(:embedded, nil) == {:ok, {:embedded, %{}}, []}
    assert Model.resolve({:openai, model: "m"}, nil) == {:ok, {:openai, %{model: "m"}}, []}

    assert Model.resolve({"openai", %{"model" => "m"}}, nil) ==
             {:ok, {"openai", %{"model" => "m"}}, []}
  end

  test "a model function of another number of arguments is named as such" do
    for function <- [fn -> 1 end, fn _request, _other -> 1 end] do
      assert {:error, message} = Model.validate({:elixir, function})
      assert message =~ "expected a function of one argument, the request, as the model :elixir"
    end
  end

  test "what is no model is told what is one" do
    for {given, expected} <- [
          {fn _request -> "x" end,
           "got a function; a model that is a function of Elixir is written {:elixir, function}"},
          {:elixir, "as in {:elixir, function}"},
          {{:elixir, 5}, "as in {:elixir, function}"},
          {:openai,
           ~S|expected the name of a model of the provider "openai" at opts.lm.model, such as "openai/MODEL" or {:openai|},
          {{:openai, []}, ~S|or {:openai, model: "MODEL"}|},
          {{:openai, "gpt-4o"},
           ~S|as a keyword list or a map, such as {:openai, model: "MODEL"}|},
          {[model: "gpt-4o"],
           ~S|expected a provider at opts.lm.provider (did you mean "openai"?)|},
          {%{model: "mine"},
           ~S|expected a provider at opts.lm.provider, such as "openai/gpt-4o-mini", {:openai, |},
          {%{modle: "gpt-4o"}, ~S|unknown option "modle" at opts.lm (did you mean "model"?)|},
          {self(),
           "got a process; a scripted model is written DSPex.Python.ScriptedModel.lm(pid)"},
          {[], ~S|expected a provider at opts.lm.provider, such as "openai/gpt-4o-mini"|},
          {{:openai}, ~S|expected a model at opts.lm, such as "openai/gpt-4o-mini", |},
          {{:openai, "gpt-4o", temperature: 1}, "expected a model at opts.lm, such as"},
          {5, "expected a model at opts.lm, such as"},
          {{:openai, url: "http://x"}, "the address is api_base"}
        ] do
      assert {:error, error} =
               Python.execute_module("dspy.Predict", "question -> answer", "x", lm: given)

      assert error.message =~ expected
      assert error.kind == :input
      assert error.path =~ "opts.lm"
    end
  end

  test "what is no model of a pool is told what is one, without the text in it" do
    # All were told the same, and not what had come.
    for {given, got} <- [
          {self(), "a process; a scripted model is written DSPex.Python.ScriptedModel.lm(pid)"},
          {fn _request -> "x" end,
           "a function; a model that is a function of Elixir is written {:elixir, function}"},
          {true, "true"},
          {5, "5"},
          {%{}, "a map"},
          {[], "a list"},
          {["sk-1"], "a list; fallback models are the option :fallbacks of the first one"},
          {[provider: :openai, model: "sk-1"],
           "a list; write the provider before its options, and not among them"},
          {%{"provider" => "openai"},
           "a map; write the provider before its options, and not among them"},
          {{:openai, "sk-1", 5}, "a tuple of 3"},
          {{5, model: "sk-1"}, "a tuple of 2"},
          {~D[2024-01-01], "%Date{}"}
        ] do
      assert {:error, message} = Model.validate(given)
      assert message =~ ~r/^expected :embedded, .*, \{:elixir, function\}, or nil, got /
      assert String.ends_with?(message, "or nil, got #{got}")

      assert_raise ArgumentError, "#{message} in the option :model of pool :p", fn ->
        Python.start_pool(:p, model: given)
      end
    end

    assert {:error, %Error{kind: :input, path: "provider", message: message}} =
             Python.configure_lm(self())

    assert message =~ "got a process; a scripted model"
  end

  test "reads keys from the environment when the model is resolved" do
    model = &{:openai, model: "m", api_key: {:system, &1}}
    assert {:error, error} = Model.resolve(model.(TestEnvironment.unset()), nil)
    assert error.kind == :lm_not_configured

    assert error.message ==
             ~s|the environment variable "#{TestEnvironment.unset()}" for api_key of the model :openai is not set|

    assert Model.resolve(model.(TestEnvironment.variable("k")), nil) ==
             {:ok, {:openai, %{model: "m", api_key: "k"}}, []}
  end

  test "names a variable that can never be set" do
    for variable <- ["", "A=B", "A\0B"] do
      assert {:error, error} = Model.resolve({:openai, api_key: {:system, variable}}, nil)
      assert error.kind == :lm_not_configured
      assert error.message =~ "environment variable #{inspect(variable)} for api_key"
    end
  end

  test "reads numbers and booleans from the environment as they are written" do
    read = fn name, text ->
      variable = TestEnvironment.variable(text)

      {:ok, {:openai, options}, []} =
        Model.resolve({:openai, %{name => {:system, variable}}}, nil)

      options[name]
    end

    assert read.(:temperature, "0.7") === 0.7
    assert read.("max_tokens", " 100\n") === 100
    assert read.(:cache, "false") === false
    assert read.(:cache, "TRUE") === true
    # Python says what is expected.
    assert read.(:cache, "no") === "no"
    assert read.(:num_retries, "2 times") === "2 times"
    # What is text stays text.
    for name <- [:api_key, :model, :stop], do: assert(read.(name, "123") === "123")
  end

  describe "a key that is a function" do
    setup do
      counter = start_supervised!({Agent, fn -> 0 end})
      rotating = fn -> "rotated-key-#{Agent.get_and_update(counter, &{&1 + 1, &1 + 1})}" end
      {:ok, url: ModelServer.start!(), rotating: rotating}
    end

    defp model(url, options),
      do: {:openai, Keyword.merge([model: "answer", api_base: url, num_retries: 0], options)}

    defp ask(options),
      do: Python.execute_module("dspy.Predict", "question -> answer", "Why?", options)

    test "is a callback of its own, which no option shows" do
      assert {:ok, {:openai, %{api_key: %{callback: id}} = options}, [callback]} =
               Model.resolve({:openai, model: "m", api_key: fn -> "sk-secret-1" end}, nil)

      assert {callback.id, callback.function.(%{})} == {id, "sk-secret-1"}
      refute inspect({options, callback}) =~ "secret"
      mfa = {String, :duplicate, ["k", 9]}
      assert {:ok, _model, [callback]} = Model.resolve({"openai", %{"api_key" => mfa}}, nil)
      assert callback.function.(%{}) == "kkkkkkkkk"

      assert {:error, %Error{kind: :input, path: "api_key"} = error} =
               Model.resolve({:openai, api_key: fn _request -> "k" end}, nil)

      assert error.message =~
               "expected a string, {:system, variable}, a function without arguments or {module, function, args}"
    end

    test "is read for each request of a call, also within an agent", %{
      url: url,
      rotating: rotating
    } do
      lm = model(url, api_key: rotating)
      assert {:ok, _prediction} = ask(lm: lm)
      assert {:ok, _prediction} = ask(lm: lm, temperature: 0.5)
      tool = %{name: "look", description: "Looks", function: fn %{} -> "nothing" end}

      assert {:ok, _prediction} =
               Python.execute_module("dspy.ReAct", "question -> answer", "Why?",
                 tools: [tool],
                 lm: lm,
                 max_iters: 3
               )

      keys = ModelServer.keys(url)
      assert length(keys) >= 4
      assert keys == for(number <- 1..length(keys), do: "rotated-key-#{number}")
    end

    test "is read for each request to the model of a pool, of configure_lm and of a session",
         context do
      %{url: url, rotating: rotating} = context
      lm = model(url, api_key: rotating)
      pool = start_pool!(model: lm)
      assert {:ok, _prediction} = ask(pool: pool)
      assert {:ok, _prediction} = ask(pool: pool)
      {provider, config} = lm
      assert {:ok, described} = Python.configure_lm(provider, config, pool: pool)
      refute inspect(described) =~ "key"
      assert {:ok, _prediction} = ask(pool: pool)
      program = Python.create_program!(%{signature: "question -> answer"}, pool: pool)

      {:ok, _described} =
        Python.configure_lm(provider, config, pool: pool, session_id: program.session_id)

      assert {:ok, _prediction} = Python.execute_program(program, "Why?")
      assert ModelServer.keys(url) == for(number <- 1..4, do: "rotated-key-#{number}")
      state = :sys.get_status(client(pool))
      refute inspect(state, limit: :infinity, structs: false) =~ "rotated-key"
    end

    test "is read by fallback models, {module, function, args} and streams too", %{url: url} do
      failing = model(url, model: "status-401", api_key: fn -> "first-key" end)
      next = model(url, api_key: {Enum, :join, [["second", "key"], "-"]})
      assert {:ok, %{meta: %{"failed_models" => [_failed]}}} = ask(lm: [failing, next])

      stream = Python.stream("dspy.Predict", "question -> answer", "Why?", lm: next)
      assert {:prediction, _prediction} = stream |> Enum.to_list() |> List.last()
      assert ModelServer.keys(url) == ["first-key", "second-key", "second-key"]
    end

    test "that fails or returns no key is an error of kind :auth, before the model is asked", %{
      url: url
    } do
      for {function, part} <- [
            {fn -> raise "the vault is closed" end, "gave no API key: the vault is closed"},
            {fn -> {:error, "sealed"} end, "gave no API key: sealed"},
            {fn -> nil end, "expected a string of printable ASCII characters"},
            {fn -> "sk-of-the-vault\n" end, "expected a string of printable ASCII characters"},
            {fn -> exit(:gone) end, "it exited: :gone"}
          ] do
        log =
          capture_log(fn ->
            assert {:error, %Error{kind: :auth} = error} = ask(lm: model(url, api_key: function))
            assert error.message =~ part
            refute inspect(error, limit: :infinity, structs: false) =~ "of-the-vault"
            # A fallback model is asked.
            next = model(url, api_key: "test-key-1")
            assert {:ok, _prediction} = ask(lm: [model(url, api_key: function), next])
          end)

        refute log =~ "of-the-vault"
      end

      assert Enum.uniq(ModelServer.keys(url)) == ["test-key-1"]
    end

    test "is in no error of its provider, and no answer is shared between two keys", %{url: url} do
      assert {:error, error} =
               ask(lm: model(url, model: "status-401", api_key: fn -> "sk-secret-1" end))

      refute inspect(error, limit: :infinity, structs: false) =~ "secret"

      for key <- ["tenant-1", "tenant-2", "tenant-1"],
          do:
            assert({:ok, _prediction} = ask(lm: model(url, api_key: fn -> key end, cache: true)))

      assert ModelServer.keys(url) == ["sk-secret-1", "tenant-1", "tenant-2"]
    end
  end

  describe "the path of an error names what was written" do
    @wrong {:openai, "x"}
    for {name, path, call} <- [
          {"model", "opts.lm", quote(do: execute(lm: @wrong))},
          {"function without arguments", "opts.lm",
           quote(do: execute(lm: {:elixir, fn -> 1 end}))},
          {"no function", "opts.lm.function", quote(do: execute(lm: {:elixir, function: 1}))},
          {"fallback model", "opts.lm[1]", quote(do: execute(lm: [:embedded, @wrong]))},
          {"fallback model of options", "opts.lm.fallbacks[0]",
           quote(do: execute(lm: {:openai, model: "m", fallbacks: [@wrong]}))},
          {"key", "opts.lm.api_key",
           quote(do: execute(lm: {:openai, model: "m", api_key: fn _ -> 1 end}))},
          {"key of a function that there is not", "opts.lm.api_key",
           quote(do: execute(lm: {:openai, model: "m", api_key: {Nope, :key, []}}))},
          {"key of arguments that are no list", "opts.lm.api_key",
           quote(do: execute(lm: {:openai, model: "m", api_key: {String, :upcase, [1 | 2]}}))},
          {"key of a fallback model", "opts.lm[1].api_key",
           quote(do: execute(lm: [:embedded, {:openai, model: "m", api_key: {String, :zzz, []}}]))},
          {"function that there is not", "opts.lm.function",
           quote(do: execute(lm: {:elixir, {Nope, :answer}}))},
          {"configured key", "config.api_key",
           quote(do: Python.configure_lm(:openai, model: "m", api_key: {Nope, :key, []}))},
          {"configured function", "config.function",
           quote(do: Python.configure_lm(:elixir, function: {__MODULE__, :zzz}))},
          {"model of an adapter", "opts.adapter.extraction_model",
           quote(do: execute(adapter: [name: "two_step", extraction_model: @wrong]))},
          {"model of a program", "spec.lm",
           quote(do: Python.create_program(%{signature: "q -> a", lm: @wrong}))},
          {"model of a stage", "spec.modules[0].lm",
           quote(
             do:
               Python.create_program(%{
                 signature: "q -> a",
                 modules: [%{module: "dspy.Predict", name: "s", lm: @wrong}]
               })
           )},
          {"configured options", "config", quote(do: Python.configure_lm(:openai, "x"))},
          {"configured provider", "provider", quote(do: Python.configure_lm(7, model: "x"))}
        ] do
      test name do
        assert {:error, %Error{kind: :input, path: unquote(path)}} = unquote(call)
      end
    end

    # It had none: paths were given to errors of kind `input` alone.
    test "variable of the environment that is not set" do
      unset = {:system, TestEnvironment.unset()}
      model = {:openai, model: "m", api_key: unset}

      for {path, call} <- [
            {"config.api_key",
             fn -> Python.configure_lm(:openai, model: "m", api_key: unset) end},
            {"config.api_key", fn -> Python.configure_lm(model) end},
            {"config.temperature", fn -> Python.configure_lm(:openai, temperature: unset) end},
            {"config.fallbacks[0].api_key",
             fn -> Python.configure_lm(:openai, model: "m", fallbacks: [model]) end},
            {"opts.lm.api_key", fn -> execute(lm: model) end},
            {"opts.lm[1].api_key", fn -> execute(lm: [:embedded, model]) end}
          ] do
        assert {:error, %Error{kind: :lm_not_configured} = error} = call.()
        assert {error.path, error.details["path"]} == {path, path}
        assert error.details["provider"] == "openai"
      end
    end

    test "key in none of its forms, and says these as start_pool/2 does" do
      forms =
        "expected a string, {:system, variable}, a function without arguments or {module, function, args} at the option api_key of the model :openai, got "

      for {key, got} <- [
            {{String, :upcase}, "a tuple of 2"},
            {{String, :upcase, :x}, "a tuple of 3"},
            {{String, :upcase, ["sk-1" | "sk-1"]}, "a tuple of 3"},
            {{"String", :upcase, []}, "a tuple of 3"},
            {{:system, 5}, "a tuple of 2"},
            {fn _request -> "sk-1" end, "a function"},
            {5, "5"},
            {%{"sk-1" => 1}, "a map"},
            {["sk-1"], "a list"},
            {"", ~S|""|},
            {true, "true"}
          ] do
        options = [model: "m", api_key: key]

        for {path, call} <- [
              {"config.api_key", fn -> Python.configure_lm(:openai, options) end},
              {"opts.lm.api_key", fn -> execute(lm: {:openai, options}) end},
              {"model.api_key",
               fn ->
                 Python.start_pool(:wrong_key, python: interpreter(), model: {:openai, options})
               end}
            ] do
          assert {:error, %Error{kind: :input} = error} = call.()
          assert {key, error.path} == {key, path}
          assert String.starts_with?(error.message, forms <> got)
          refute inspect(error) =~ "sk-1"
        end
      end
    end

    defp execute(options), do: Python.execute_module("dspy.Predict", "q -> a", %{q: "x"}, options)
  end
end
