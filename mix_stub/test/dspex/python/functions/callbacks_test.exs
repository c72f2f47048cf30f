defmodule DSPex.Python.Functions.CallbacksTest do
  # Counts the registered functions of the whole node.
  use ExUnit.Case, async: false

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.LLM.Adapter
  alias DSPex.LLM.Adapters
  alias DSPex.Python
  alias DSPex.Python.{Callbacks, Error, ScriptedModel}
  alias DSPex.Python.Functions.{Callback, CallbackRegistry}

  # No test leaves a function registered.
  setup do
    on_exit(fn -> eventually(fn -> Callbacks.count() == %{registered: 0, running: 0} end) end)
  end

  defp question(article \\ "bolt"),
    do: %{question: ~s|How many pieces of the article "#{article}" are in stock?|}

  defp stock(function, options \\ []) do
    Map.merge(
      %{
        name: "stock",
        description: "How many pieces of an article are in stock",
        parameters: %{article: {:string, "its name"}},
        function: function
      },
      Map.new(options)
    )
  end

  defp ask(tools, options \\ []) do
    Python.execute_module(
      "dspy.ReAct",
      "question -> answer",
      question(),
      Keyword.put(options, :tools, tools)
    )
  end

  # Returns what the model read after it called the tool.
  defp observed(function, options \\ []) do
    assert {:ok, prediction} = ask([stock(function, options)])
    prediction[:trajectory]["observation_0"]
  end

  # Returns a function that sends its arguments to the test, and waits for the result from the test.
  defp asking(test) do
    fn arguments ->
      send(test, {:asked, self(), arguments})

      receive do
        {:give, result} -> result
      end
    end
  end

  defp receive_asked do
    assert_receive {:asked, pid, arguments}, 10_000
    {pid, arguments}
  end

  test "calls a function with the arguments that the model wrote" do
    test = self()

    for format <- [:native, :json] do
      function = fn arguments ->
        send(test, {:arguments, arguments})
        "17 pieces"
      end

      assert {:ok, prediction} =
               ask(["calculator", stock(function)], serialization_format: format)

      assert prediction[:answer] == "17 pieces"

      assert_received {:arguments, %{"article" => "bolt"} = arguments}
                      when map_size(arguments) == 1

      assert Callbacks.count() == %{registered: 0, running: 0}
    end
  end

  test "takes functions in all calls that take tools" do
    adapter = %Adapters.Python{
      module_config: [module: "dspy.ReAct", tools: [stock(fn _arguments -> "17 pieces" end)]]
    }

    assert {:ok, prediction} = Adapter.generate(adapter, question().question, [])
    assert prediction[:answer] == "17 pieces"

    assert {:ok, [{:ok, first}, {:ok, _second}]} =
             Adapter.batch(adapter, [question(), question("nut")], [])

    assert first[:answer] == "17 pieces"

    assert {:error, {:invalid_input, message}} =
             Adapter.generate(adapter, "Why?", tools: [stock(nil)])

    assert message =~ "opts.tools[0].function"
  end

  test "refuses a wrong description before a model is asked" do
    for {changed, path} <- [
          {[name: "a b"], "opts.tools[1].name"},
          {[description: nil], "opts.tools[1].description"},
          {[parameters: %{"type" => "object", "properties" => %{"n" => %{"type" => "int"}}}],
           "opts.tools[1].parameters.properties.n.type"}
        ] do
      tool = stock(fn _arguments -> 1 end, changed)
      assert {:error, %Error{kind: :input, path: ^path}} = ask(["calculator", tool])

      assert {:error, %Error{path: ^path}} =
               Python.validate_module("dspy.ReAct", "question -> answer", tools: ["today", tool])
    end
  end

  test "keeps the name of a function in a stored program" do
    modules = [%{module: "dspy.ReAct", tools: [stock(fn _arguments -> 1 end)]}]
    spec = %{signature: "question -> answer", modules: modules}

    assert {:ok, program} = Python.create_program(spec)

    assert {:ok, %{"needs" => %{"tools" => ["stock"]}}} = Python.describe_program(program)
    assert {:error, %Error{path: "opts.tools"}} = Python.execute_program(program, "How many?")
  end

  test "returns the value of an ok tuple, and a sentence for an error tuple" do
    assert observed(fn _arguments -> {:ok, %{pieces: 17}} end) == %{"pieces" => 17}

    assert observed(fn _arguments -> {:error, "the shop is closed"} end) ==
             "Error in stock: the shop is closed"

    assert observed(fn _arguments -> {:error, :closed} end) == "Error in stock: :closed"

    assert observed(fn _arguments -> {:error, %ArgumentError{message: "no"}} end) ==
             "Error in stock: no"
  end

  test "turns every end of a function into one sentence for the model and a log entry" do
    python = os_pid(:general)

    for {function, sentence} <- [
          {fn _arguments -> raise "no\nwarehouse" end, "no warehouse"},
          {fn _arguments -> throw(:ball) end, "it threw :ball"},
          {fn _arguments -> exit({:no, :way}) end, "it exited: {:no, :way}"},
          {fn _arguments -> Process.exit(self(), :kill) end, "it was killed"},
          {fn _arguments ->
             spawn_link(fn -> exit(:child) end)
             Process.sleep(:infinity)
           end, "it exited: :child"},
          {fn _arguments -> raise String.duplicate("long ", 1_000) end, nil},
          {fn arguments -> arguments.article end,
           ~S|there is no key :article, but "article": maps from Python have strings as keys|}
        ] do
      capture_log(fn ->
        observation = observed(function)
        assert "Error in stock: " <> told = observation
        assert String.length(told) <= 300
        if sentence, do: assert(told == sentence), else: assert(told =~ ~r/ long long…$/)
      end)
    end

    log = capture_log(fn -> observed(fn %{"no" => _such} -> 1 end) end)
    assert log =~ ~s|the function "stock", called by python, failed: ** (FunctionClauseError)|
    assert log =~ "callbacks_test.exs"
    assert os_pid(:general) == python
  end

  test "turns a result that Python or the model cannot read into an error of the tool" do
    for {result, reason} <- [
          {%{1 => :a, 1.0 => :b}, "the result cannot be read: a map with the keys"},
          {[self()], "at [0], which is nothing to read"},
          {%{f: &is_atom/1}, ~s|at ["f"], which is nothing to read|},
          {<<255>>, "the result has a binary that is not UTF-8"},
          {Enum.reduce(1..600, 1, fn _level, term -> [term] end), "nests deeper"}
        ] do
      assert "Error in stock: " <> told = observed(fn _arguments -> result end)
      assert told =~ reason
    end
  end

  test "ends a function at its own timeout" do
    test = self()

    function = fn _arguments ->
      Process.flag(:trap_exit, true)
      send(test, {:running, self()})
      Process.sleep(:infinity)
    end

    attempt = fn timeout -> {observed(function, timeout: timeout), take_message(:running)} end
    in_time? = fn {_observation, running} -> running != nil end
    {{observation, {:running, pid}}, timeout} = at_deadline(50, attempt, in_time?)
    assert observation == "Error in stock: no answer within #{timeout} ms"
    refute Process.alive?(pid)
  end

  test "ends a function at the deadline of its call, and the port stays usable" do
    tool = stock(asking(self()))
    attempt = fn timeout -> {ask([tool], timeout: timeout), take_message(:asked)} end
    in_time? = fn {result, asked} -> asked != nil and python_answered?(result) end
    {{result, {:asked, pid, _arguments}}, _timeout} = at_deadline(200, attempt, in_time?)
    assert {:error, %Error{kind: :timeout, stage: "tool"}} = result
    monitor = Process.monitor(pid)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 20_000
    assert eventually(fn -> Callbacks.count() == %{registered: 0, running: 0} end)
    assert observed(fn _arguments -> "served" end) == "served"
  end

  test "ends functions with the process that made the call" do
    tool = stock(asking(self()))
    caller = spawn(fn -> ask([tool]) end)
    {pid, _arguments} = receive_asked()
    assert Callbacks.count() == %{registered: 1, running: 1}
    monitor = Process.monitor(pid)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 20_000
    assert eventually(fn -> Callbacks.count() == %{registered: 0, running: 0} end)
  end

  test "ends functions with their Python; the next Python cannot call them" do
    pool = start_pool!()
    tool = stock(asking(self()))
    call = Task.async(fn -> ask([tool], pool: pool) end)
    {pid, _arguments} = receive_asked()
    monitor = Process.monitor(pid)

    capture_log(fn ->
      signal(pool, "KILL")
      assert {:error, %Error{kind: :worker_died}} = Task.await(call, 30_000)
    end)

    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 20_000
    again = Task.async(fn -> ask([tool], pool: pool, timeout: 60_000) end)
    {pid, _arguments} = receive_asked()
    send(pid, {:give, "again"})
    assert {:ok, prediction} = Task.await(again, 60_000)
    assert prediction[:answer] == "again"
  end

  test "returns an error of the tool when the registry ends; the call continues" do
    pool_before = client(:general)
    tool = stock(asking(self()))
    call = Task.async(fn -> ask([tool]) end)
    receive_asked()
    Process.exit(Process.whereis(CallbackRegistry), :kill)
    assert {:ok, prediction} = Task.await(call, 30_000)
    assert prediction[:answer] =~ "Error in stock: the registry of functions has ended"
    assert client(:general) == pool_before
    assert observed(fn _arguments -> "served" end) == "served"
  end

  test "registers the functions of a pool's model again after a restart of the registry" do
    function = fn _request -> ScriptedModel.written(answer: "from the pool's model") end
    pool = start_pool!(model: {:elixir, function})
    ask = fn -> Python.execute_module("dspy.Predict", "question -> answer", "?", pool: pool) end
    assert {:ok, _prediction} = ask.()
    registry = Process.whereis(CallbackRegistry)
    Process.exit(registry, :kill)
    eventually(fn -> Process.whereis(CallbackRegistry) not in [nil, registry] end)
    assert {:ok, prediction} = eventually(fn -> match?({:ok, _}, result = ask.()) && result end)
    assert prediction[:answer] == "from the pool's model"
  end

  test "runs twenty functions at once, each with its own answer" do
    inputs = for number <- 1..20, do: question("a#{number}")
    options = [tools: [stock(asking(self()))], max_concurrency: 20]

    batch =
      Task.async(fn ->
        Python.execute_batch("dspy.ReAct", "question -> answer", inputs, options)
      end)

    asked = for _ <- 1..20, do: receive_asked()
    assert Callbacks.count() == %{registered: 1, running: 20}

    for {pid, %{"article" => article}} <- Enum.reverse(asked),
        do: send(pid, {:give, "of #{article}"})

    assert {:ok, results} = Task.await(batch, 30_000)
    answers = for {:ok, prediction} <- results, do: prediction[:answer]
    assert answers == for(number <- 1..20, do: "of a#{number}")
  end

  test "lets functions call the pool that calls them" do
    inner = stock(fn %{"article" => article} -> "inner #{article}" end)
    test = self()

    outer =
      stock(fn arguments ->
        # Makes its call when the functions of all calls are running.
        "go" = asking(test).(arguments)
        {:ok, prediction} = ask([inner])
        prediction[:answer]
      end)

    calls = for _ <- 1..100, do: Task.async(fn -> ask([outer], timeout: 60_000) end)
    asked = for _ <- 1..100, do: receive_asked()
    for {pid, _arguments} <- asked, do: send(pid, {:give, "go"})

    for {:ok, prediction} <- Task.await_many(calls, 60_000),
        do: assert(prediction[:answer] == "inner bolt")
  end

  test "runs a function on behalf of the process that made the call" do
    test = self()
    assert observed(fn _arguments -> Process.get(:"$callers") == [test] end) == true
  end

  describe "a call from Python" do
    @tag :tmp_dir
    test "reaches registered functions only, and makes no atom here", %{tmp_dir: folder} do
      unknown = "never_seen_#{System.unique_integer([:positive])}"

      File.write!(Path.join(folder, "reaching_tools.py"), """
      from erlport_bridge.port import elixir
      from erlport_bridge.programs.tools import offer
      from erlport_bridge.term import Atom

      CALLS = {
          "stop": ("Elixir.System", "stop", []),
          "unknown": ("#{unknown}", "#{unknown}", []),
          "argument": ("Elixir.DSPex.Python.Callbacks", "call", ["id", Atom("#{unknown}")]),
          "id": ("Elixir.DSPex.Python.Callbacks", "call", ["guessed", {}]),
          "register": ("Elixir.DSPex.Python.Callbacks", "register", [[]]),
      }

      @offer
      async def reach(article: str) -> str:
          "Reach out for an article in stock."
          return await elixir.call(*CALLS[article])
      """)

      pool = start_pool!(python_path: [folder], preload: ["reaching_tools"])

      for name <- ~w(stop unknown argument register id) do
        assert {:ok, prediction} =
                 Python.execute_module("dspy.ReAct", "question -> answer", question(name),
                   tools: ["reach"],
                   pool: pool
                 )

        refusal =
          if name == "id",
            do:
              "there is no such function any more: the call has ended, or the Python for which it was configured; " <>
                "configure it again",
            else: "python may call registered functions only, by DSPex.Python.Callbacks.call/2"

        assert prediction[:trajectory]["observation_0"] == "Error in reach: " <> refusal
      end

      assert_raise ArgumentError, fn -> String.to_existing_atom(unknown) end
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end
  end

  describe "call/2, which the real ErlPort calls" do
    test "returns the result of a registered function, or raises" do
      callback = Callback.new("double", fn %{"n" => n} -> 2 * n end, 1_000)
      registration = Callbacks.register([callback])
      assert Callbacks.call(callback.id, %{"n" => 4}) == 8

      capture_log(fn ->
        assert_raise RuntimeError, ~r/bad argument/, fn ->
          Callbacks.call(callback.id, %{"n" => :x})
        end
      end)

      Callbacks.unregister(registration)

      assert_raise RuntimeError, ~r/no such function/, fn ->
        Callbacks.call(callback.id, %{"n" => 4})
      end

      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "ends a function whose registration ends" do
      callback = Callback.new("wait", asking(self()), :infinity)
      registration = Callbacks.register([callback])

      waiting =
        Task.async(fn -> catch_error(Callbacks.call(callback.id, %{})) |> Exception.message() end)

      receive_asked()
      Callbacks.unregister(registration)
      assert Task.await(waiting, 30_000) == "the call that it was made for has ended"
    end
  end

  test "a thousand calls leave no process, callback or atom behind" do
    tool = stock(fn %{"article" => article} -> article end)
    # The first call makes what is made only once.
    {:ok, _prediction} = ask([tool])
    before = {length(Process.list()), :erlang.system_info(:atom_count)}

    1..1_000
    |> Task.async_stream(fn _number -> {:ok, _prediction} = ask([tool]) end,
      max_concurrency: 32,
      timeout: 60_000
    )
    |> Enum.each(fn {:ok, _answer} -> :ok end)

    assert eventually(fn ->
             {length(Process.list()), :erlang.system_info(:atom_count)} <= before
           end)
  end

  test "functions are not shown in reports of crashes" do
    key = "sk-secret"
    registration = Callbacks.register([Callback.new("f", fn _arguments -> key end, 1_000)])
    refute inspect(:sys.get_status(CallbackRegistry), limit: :infinity) =~ key
    Callbacks.unregister(registration)
  end
end
