defmodule DSPex.Python.ExportsTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Callbacks, Error, Exports, ScriptedModel, Tool}
  alias DSPex.Python.Functions.Exported

  defmodule Warehouse do
    @behaviour DSPex.Python.Exports

    @impl true
    def exports do
      [
        :near,
        :short,
        :right,
        :embed,
        :absent,
        stock: [description: "How many pieces are in stock", parameters: %{article: :string}],
        slow: [description: "never ends", timeout: 50],
        bad: [description: "its parameters are wrong", parameters: %{article: :strin}],
        waits: [description: "waits", parameters: %{to: :string}]
      ]
    end

    def stock(%{"article" => article}) do
      for pid <- [List.last(Process.get(:"$callers"))], do: send(pid, {:asked, article})
      17
    end

    def slow(_none), do: Process.sleep(:infinity)
    def bad(_none), do: nil

    def waits(%{"to" => name}) do
      send(String.to_existing_atom(name), {:waits, self()})
      Process.sleep(:infinity)
    end

    def near(query, k), do: List.duplicate("near #{query}", k)
    def short(_inputs, prediction), do: 1.0 / String.length(prediction[:answer])
    def right(inputs, prediction, _trace), do: inputs["answer"] == prediction[:answer]
    def embed(texts), do: Enum.map(texts, &[String.length(&1), 1.0])
    def unlisted(_any), do: raise("this function is not exported")
  end

  # Exports nothing, as it has no behaviour.
  defmodule Plain do
    def exports, do: [:stock]
    def stock(_any), do: raise("this module exports nothing")
  end

  defmodule Broken do
    @behaviour DSPex.Python.Exports
    @impl true
    def exports, do: raise("no list today")
  end

  @warehouse "DSPex.Python.ExportsTest.Warehouse"
  @qa "question -> answer"
  @examples for(n <- 1..4, do: %{question: "question #{n}", answer: "17"})

  defp react(tools), do: %{signature: @qa, modules: [%{module: "dspy.ReAct", tools: tools}]}
  defp storing, do: react([{Warehouse, :stock}, "calculator"])

  # Calls a tool in each first step, then finishes.
  defp agent(tool \\ "stock", arguments \\ ~s({"article": "bolt"})) do
    {:elixir,
     fn request ->
       # The demos before also have steps.
       text =
         request |> ScriptedModel.text() |> String.split("[[ ## question ## ]]") |> List.last()

       cond do
         not (text =~ "next_tool_name") -> fields(reasoning: "r", answer: "17")
         text =~ "observation_0" -> step("finish", "{}")
         true -> step(tool, arguments)
       end
     end}
  end

  defp step(tool, arguments),
    do: fields(next_thought: "t", next_tool_name: tool, next_tool_args: arguments)

  defp fields(fields) do
    for({name, value} <- fields, do: "[[ ## #{name} ## ]]\n#{value}\n\n")
    |> Enum.join()
    |> Kernel.<>("[[ ## completed ## ]]")
  end

  defp answers(text \\ "17"), do: {:elixir, fn _request -> fields(answer: text) end}

  defp in_another_process(work), do: work |> Task.async() |> Task.await(60_000)

  describe "a name in text" do
    for {text, reason} <- [
          {":os.cmd", "exports no functions"},
          {"System.cmd", "exports no functions"},
          {"Elixir.System.cmd", "no module"},
          {"File.rm_rf!", "exports no functions"},
          {"Kernel.apply", "exports no functions"},
          {":erlang.halt", "exports no functions"},
          {"DSPex.Python.Exports.exports", "exports no functions"},
          {"DSPex.Python.ExportsTest.Plain.stock", "exports no functions"},
          {"DSPex.Python.ExportsTest.Broken.stock", "exports/0 failed: no list today"},
          {"#{@warehouse}.unlisted", "does not export \"unlisted\""},
          {"#{@warehouse}.exports", "does not export \"exports\""},
          {"#{@warehouse}.stok", "did you mean \"stock\"?"},
          {"#{@warehouse}.absent", "no public function #{@warehouse}.absent/1"},
          {"#{@warehouse}.embed.more", "no module"},
          {"No.Such.Module.name", "no module"},
          {"nil.x", "no module"},
          {"stock", "expected text such as"},
          {"", "expected text such as"},
          {".", "module"},
          {":.x", "module"},
          {String.duplicate("A", 300) <> ".x", "no module"}
        ] do
      test "reaches no function that a module does not export: #{String.slice(text, 0, 50)}" do
        assert {:error, sentence} = Exported.find(unquote(text), :tool)
        assert sentence =~ unquote(reason)
      end
    end

    test "makes no atom" do
      unique = System.unique_integer([:positive])
      names = ["Made.Up#{unique}", "Up#{unique}", "name#{unique}", "made_up#{unique}"]
      assert {:error, _sentence} = Exported.find("Made.Up#{unique}.name#{unique}", :tool)
      assert {:error, _sentence} = Exported.find("#{@warehouse}.made_up#{unique}", :tool)

      # Not by their count: other tests run at the same time.
      for name <- names, prefix <- ["", "Elixir."] do
        assert_raise ArgumentError, fn -> String.to_existing_atom(prefix <> name) end
      end
    end

    test "stands for an exported function in each role" do
      for {name, role, arity} <- [
            {"stock", :tool, 1},
            {"near", :retriever, 2},
            {"short", :reward, 2},
            {"right", :metric, 3},
            {"embed", :embedder, 1}
          ] do
        assert {:ok, function, _options} = Exported.find("#{@warehouse}.#{name}", role)
        assert is_function(function, arity)
      end

      assert {:error, sentence} = Exported.find("#{@warehouse}.near", :tool)
      assert sentence =~ "near/1, as a tool must be"
    end
  end

  describe "{module, name} in one call" do
    test "is a tool with the description that its module exports" do
      assert {:ok, [%{name: "stock", description: "How many" <> _rest, elixir: text}], [_one]} =
               Tool.read([{Warehouse, :stock}])

      assert text == Exports.text(Warehouse, :stock)
      options = [tools: [{Warehouse, :stock}], lm: agent()]
      assert {:ok, prediction} = Python.execute_module("dspy.ReAct", @qa, "How many?", options)
      assert prediction[:trajectory]["observation_0"] == 17
      assert_received {:asked, "bolt"}
    end

    for {tool, path, reason} <- [
          {{Warehouse, :unlisted}, "opts.tools[0]", "does not export"},
          {{Warehouse, :near}, "opts.tools[0]", "a description of"},
          {{Warehouse, :bad}, "opts.tools[0]", "expected a type"},
          {{Plain, :stock}, "opts.tools[0]", "exports no functions"},
          {{:os, :cmd}, "opts.tools[0]", "exports no functions"},
          {{Nowhere, :stock}, "opts.tools[0]", "no module"}
        ] do
      test "is refused before a model is asked: #{inspect(tool)}" do
        assert {:error, %Error{kind: :input} = error} =
                 Python.execute_module("dspy.ReAct", @qa, "x",
                   tools: [unquote(Macro.escape(tool))]
                 )

        assert error.message =~ unquote(reason)
        if unquote(reason) != "expected a type", do: assert(error.path == unquote(path))
      end
    end

    test "is a reward, a retriever, an embedder and a metric" do
      best = %{module: "dspy.BestOfN", N: 1, of: "dspy.Predict", reward: {Warehouse, :short}}
      assert {:ok, _best} = Python.execute_module(best, @qa, "x", lm: answers())

      retrieve = %{module: "dspy.Retrieve", k: 2, retriever: {Warehouse, :near}}
      assert {:ok, found} = Python.execute_module(retrieve, nil, %{query: "q"})
      assert found[:passages] == ["near q", "near q"]

      search = %{
        module: "dspy.Retrieve",
        k: 1,
        passages: ["a", "bbbb"],
        embedder: %{function: {Warehouse, :embed}}
      }

      assert {:error, %Error{kind: :input}} =
               Python.execute_module(%{search | embedder: {Warehouse, :near}}, nil, %{query: "q"})

      assert {:ok, found} =
               Python.execute_module(%{search | embedder: {Warehouse, :embed}}, nil, %{query: "q"})

      assert found[:passages] == ["bbbb"]

      {:ok, program} = Python.create_program(@qa)

      assert {:ok, %{score: 100.0}} =
               Python.evaluate_program(program, @examples, {Warehouse, :right}, lm: answers())
    end
  end

  describe "a stored program" do
    test "has its tools in every process, also after it was dumped, and Python restarted" do
      pool = start_pool!()
      {:ok, program} = Python.create_program(storing(), pool: pool)
      {:ok, json} = Python.dump_program(program)
      assert json =~ ~s({"elixir": "#{@warehouse}.stock"})
      {:ok, loaded} = Python.load_program(json, pool: pool)
      assert {:ok, ^json} = Python.dump_program(loaded)
      :ok = Python.restart_pool(pool)
      {:ok, restarted} = Python.load_program(json, pool: pool)
      assert {:ok, description} = Python.describe_program(restarted)

      assert description["needs"] == %{
               "tools" => [],
               "functions" => [],
               "exported" => ["#{@warehouse}.stock"]
             }

      test = self()

      in_another_process(fn ->
        assert {:ok, prediction} = Python.execute_program(restarted, "How many?", lm: agent())
        assert {prediction[:answer], prediction.warnings} == {"17", []}
        assert prediction[:trajectory]["observation_0"] == 17
        assert hd(Process.get(:"$callers")) == test
      end)

      # The function ran on behalf of the process that made the call.
      assert_receive {:asked, "bolt"}
    end

    test "has its tools in batches, streams, evaluations and as JSON" do
      {:ok, program} = Python.create_program(storing())

      assert {:ok, [{:ok, one}, {:ok, _two}]} =
               Python.execute_program_batch(program, ["x", "y"], lm: agent())

      assert one[:trajectory]["observation_0"] == 17

      assert {:ok, %{score: 100.0}} =
               Python.evaluate_program(program, @examples, :exact_match, lm: agent())

      events = program |> Python.stream_program("x", lm: agent()) |> Enum.to_list()
      assert {:prediction, streamed} = List.last(events)
      assert streamed[:trajectory]["observation_0"] == 17

      options = [lm: agent(), serialization_format: :json]
      spec = [serialization_format: :json]
      {:ok, program} = Python.create_program(storing(), spec)
      lm = Keyword.take(options, [:lm])
      assert {:ok, _prediction} = Python.execute_program(program, "x", lm)
    end

    test "has no reward, retriever and embedder to be given again" do
      best = %{
        module: "dspy.BestOfN",
        N: 1,
        of: "dspy.Predict",
        reward: %{function: {Warehouse, :short}, description: "short"}
      }

      for {module, inputs} <- [
            {best, %{question: "x"}},
            {%{best | reward: {Warehouse, :short}}, %{question: "x"}},
            {%{module: "dspy.Retrieve", k: 1, retriever: {Warehouse, :near}}, %{query: "q"}},
            {%{
               module: "dspy.Retrieve",
               k: 1,
               passages: ["a", "bbbb"],
               embedder: {Warehouse, :embed}
             }, %{query: "q"}}
          ] do
        spec = %{modules: [module]}
        spec = if inputs[:question], do: Map.put(spec, :signature, @qa), else: spec
        {:ok, program} = Python.create_program(spec)
        {:ok, json} = Python.dump_program(program)
        {:ok, loaded} = Python.load_program(json)
        assert {:ok, ^json} = Python.dump_program(loaded)

        in_another_process(fn ->
          assert {:ok, found} = Python.execute_program(loaded, inputs, lm: answers())
          assert found.warnings == []
        end)
      end
    end

    test "runs what a call brings in place of what it names" do
      {:ok, program} = Python.create_program(storing())

      mine = %{
        name: "stock",
        description: "d",
        parameters: %{article: :string},
        function: fn _any -> 42 end
      }

      assert {:ok, prediction} = Python.execute_program(program, "x", tools: [mine], lm: agent())

      assert prediction[:trajectory]["observation_0"] == 42

      retrieve = %{module: "dspy.Retrieve", k: 1, retriever: {Warehouse, :near}}
      {:ok, program} = Python.create_program(%{modules: [retrieve]})

      mine = fn _query, _k -> ["mine"] end
      assert {:ok, found} = Python.execute_program(program, %{query: "q"}, retriever: mine)

      assert {found[:passages], found.warnings} == {["mine"], []}
    end

    test "that names nothing is an error of its creation, with the path" do
      for {spec, path} <- [
            {react([{Warehouse, :unlisted}]), "spec.modules[0].tools[0]"},
            {react(["calculator", {:os, :cmd}]), "spec.modules[0].tools[1]"},
            {%{modules: [%{module: "dspy.Retrieve", k: 1, retriever: {Plain, :stock}}]},
             "spec.modules[0].retriever"},
            {%{
               signature: @qa,
               modules: [
                 [
                   module: "dspy.BestOfN",
                   N: 1,
                   reward: {Warehouse, :stock},
                   of: "dspy.Predict"
                 ]
               ]
             }, "spec.modules[0].reward"}
          ] do
        assert {:error, %Error{kind: :input, path: ^path}} = Python.create_program(spec)
      end
    end

    test "whose text names another function is an error before a model is asked" do
      {:ok, program} = Python.create_program(storing())
      {:ok, json} = Python.dump_program(program)
      test = self()

      model =
        {:elixir,
         fn _request ->
           send(test, :asked_a_model)
           "x"
         end}

      for name <- [":os.cmd", "System.cmd", "#{@warehouse}.unlisted", "#{@warehouse}.stok"] do
        {:ok, loaded} =
          json |> String.replace("#{@warehouse}.stock", name) |> Python.load_program()

        assert {:error, %Error{kind: :input, path: ^name} = error} =
                 Python.execute_program(loaded, "x", lm: model)

        assert error.message =~ name
        optimizer = [optimizer: "dspy.LabeledFewShot", lm: model]

        assert {:error, %Error{kind: :input, path: ^name}} =
                 Python.compile_program(loaded, @examples, optimizer)
      end

      for name <- ["", "os", "a b.c", "A.B.", "A.b(1)", "A.b\\nB.c"] do
        assert {:error, %Error{kind: kind}} =
                 json |> String.replace("#{@warehouse}.stock", name) |> Python.load_program()

        assert kind in [:input, :store]
      end

      refute_received :asked_a_model
    end

    test "is compiled, and its versions need no tools either" do
      for spec <- [storing(), %{signature: @qa, modules: ["dspy.ReAct"]}] do
        {:ok, program} = Python.create_program(spec)
        brought = if spec == storing(), do: [], else: [tools: [{Warehouse, :stock}]]
        options = [optimizer: "dspy.BootstrapFewShot", metric: {Warehouse, :right}, lm: agent()]

        assert {:ok, compiled} = Python.compile_program(program, @examples, options ++ brought)

        assert compiled.compiled.demos != %{}
        {:ok, json} = Python.dump_program(compiled)
        {:ok, loaded} = Python.load_program(json)

        in_another_process(fn ->
          for program <- [compiled, loaded] do
            assert {:ok, prediction} = Python.execute_program(program, "x", lm: agent())
            assert prediction[:trajectory]["observation_0"] == 17
          end
        end)
      end
    end

    test "that learns at each call keeps its metric and its embedder" do
      {:ok, program} = Python.create_program(@qa)

      options = [
        optimizer: "dspy.KNNFewShot",
        k: 2,
        embedder: {Warehouse, :embed},
        metric: {Warehouse, :right},
        lm: answers()
      ]

      assert {:ok, compiled} = Python.compile_program(program, @examples, options)
      {:ok, json} = Python.dump_program(compiled)
      {:ok, loaded} = Python.load_program(json)
      assert {:ok, ^json} = Python.dump_program(loaded)

      in_another_process(fn ->
        assert {:ok, prediction} = Python.execute_program(loaded, "question 1", lm: answers())
        assert {prediction[:answer], prediction.warnings} == {"17", []}
      end)
    end

    test "has two functions of one name in two stages" do
      defmodule Other do
        @behaviour DSPex.Python.Exports
        @impl true
        def exports, do: [stock: [description: "another", parameters: %{article: :string}]]
        def stock(_any), do: 99
      end

      stage = fn name, module, input ->
        %{
          name: name,
          module: "dspy.ReAct",
          signature: "#{input} -> #{name}",
          tools: [{module, :stock}]
        }
      end

      model =
        {:elixir,
         fn request ->
           text = ScriptedModel.text(request)

           cond do
             text =~ "next_tool_name" and text =~ "observation_0" ->
               step("finish", "{}")

             text =~ "next_tool_name" ->
               step("stock", ~s({"article": "a"}))

             true ->
               [_all, number] = Regex.run(~r/observation_0.*?(\d+)/s, text)

               asked =
                 if List.last(String.split(text, "Respond with")) =~ "second",
                   do: :second,
                   else: :first

               fields([{:reasoning, "r"}, {asked, number}])
           end
         end}

      stages = [stage.("first", Warehouse, "question"), stage.("second", Other, "first")]
      {:ok, program} = Python.create_program(%{modules: stages})
      assert {:ok, prediction} = Python.execute_program(program, "x", lm: model)
      assert {prediction[:first], prediction[:second]} == {"17", "99"}
    end
  end

  describe "an exported function" do
    test "has the time limit that its module exports" do
      {:ok, program} = Python.create_program(react([{Warehouse, :slow}]))
      assert {:ok, prediction} = Python.execute_program(program, "x", lm: agent("slow", "{}"))
      assert prediction[:trajectory]["observation_0"] =~ "no answer within 50 ms"
    end

    test "is killed when its call ends" do
      Process.register(self(), :exports_test_waits)
      {:ok, program} = Python.create_program(react([{Warehouse, :waits}]))
      model = agent("waits", ~s({"to": "exports_test_waits"}))

      attempt = fn timeout ->
        {Python.execute_program(program, "x", lm: model, timeout: timeout), take_message(:waits)}
      end

      in_time? = fn {_result, waits} -> waits != nil end
      {{result, {:waits, pid}}, _timeout} = at_deadline(250, attempt, in_time?)
      assert {:error, %Error{kind: :timeout}} = result
      monitor = Process.monitor(pid)
      assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
    end

    test "is reached by a resolver alone, and only in a role" do
      other = DSPex.Python.Functions.Callback.new("other", fn _any -> 1 end, :infinity)
      resolver = Callbacks.resolver()

      Callbacks.during([other, resolver], fn ->
        call = &Callbacks.call("#{&1.id}/#{&2}:#{@warehouse}.embed", %{"texts" => ["a"]})
        assert call.(resolver, "embedder") == [[1, 1.0]]
        assert_raise RuntimeError, ~r/no such function/, fn -> call.(other, "embedder") end
        assert_raise RuntimeError, ~r/no such function/, fn -> call.(resolver, "any") end
      end)

      assert_raise RuntimeError, ~r/the call has ended/, fn ->
        Callbacks.call("#{resolver.id}/embedder:#{@warehouse}.embed", %{"texts" => ["a"]})
      end
    end
  end
end
