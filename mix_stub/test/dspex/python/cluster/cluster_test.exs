defmodule DSPex.Python.ClusterTest do
  # This node gets a name, so no other test may run at the same time.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.{LLM, Nodes, Python}
  alias DSPex.Python.Cluster.{Loads, Placement, Remote}
  alias DSPex.Python.Functions.CallbackRegistry
  alias DSPex.Python.{Cluster, Error, ScriptedModel}

  @moduletag timeout: 120_000
  @qa "question -> answer"
  @pool {:cluster, :shared}

  # Only this node has it: the other nodes load no module of a test.
  defmodule Tools do
    @behaviour DSPex.Python.Exports
    @impl true

    def exports do
      [
        stock: [description: "Pieces in stock", parameters: %{article: :string}],
        longest: []
      ]
    end

    def stock(%{"article" => _article}), do: "forty-two on #{node()}"
    def longest(_example, prediction), do: String.length(prediction[:answer]) > 1
  end

  setup_all do
    Nodes.start_distribution!()
    store = Path.join(System.tmp_dir!(), "cluster-#{System.unique_integer([:positive])}.db")

    shared = [b, c] = Nodes.start!(["b", "c"])

    shared
    |> Enum.map(
      &Task.async(fn -> Nodes.start_pool!(&1, :shared, store: "sqlite:///#{store}") end)
    )
    |> Task.await_many(120_000)

    for from <- [nil | shared], do: Nodes.await_members!(:shared, [b.node, c.node], from)

    on_exit(fn ->
      for path <- Path.wildcard(store <> "*"), do: File.rm(path)
      Nodes.stop_distribution!()
    end)

    {:ok, b: b, c: c, store: store}
  end

  defp ask(options \\ []),
    do: Python.execute_module("dspy.Predict", @qa, "Why?", [pool: @pool] ++ options)

  defp node_of({:ok, prediction}), do: prediction.meta["node"]

  # Returns sessions that live on a node, as many as asked.
  defp opened!(node, count) do
    for session <- Nodes.sessions_of(:shared, node, count) do
      {:ok, _program} = Python.create_program(@qa, pool: @pool, session_id: session)
      session
    end
  end

  # Begins a call whose model answers when the process that asks it is told to.
  defp hold(options \\ [], call \\ &ask/1) do
    test = self()

    model = fn _request ->
      send(test, {:asked, self(), node()})
      receive do: (:go_on -> ScriptedModel.written(answer: "held"))
    end

    task = Task.async(fn -> call.([lm: {:elixir, model}, timeout: 60_000] ++ options) end)
    assert_receive {:asked, model, node}, 30_000
    assert node == node()
    {task, model}
  end

  # As `hold/2`, but with a model behind HTTP: no function of the caller is called for it.
  defp hold_model(options, call \\ &ask/1) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)
    test = self()
    spawn_link(fn -> accept(listener, test) end)
    address = "http://127.0.0.1:#{port}/v1"
    model = {:openai, [model: "held", api_base: address, api_key: "test-key-7f3a"]}
    task = Task.async(fn -> call.([lm: model, timeout: 60_000] ++ options) end)
    assert_receive {:asked, model, _node}, 30_000
    {task, model}
  end

  defp accept(listener, test) do
    {:ok, socket} = :gen_tcp.accept(listener)

    spawn(fn ->
      send(test, {:asked, self(), node()})
      receive do: (:go_on -> :gen_tcp.send(socket, answer()))
    end)

    accept(listener, test)
  end

  defp answer do
    text = String.replace(ScriptedModel.written(answer: "held"), "\n", "\\n")
    message = ~s({"role": "assistant", "content": "#{text}"})
    choice = ~s({"index": 0, "finish_reason": "stop", "message": #{message}})
    usage = ~s({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})

    body =
      ~s({"id": "1", "object": "chat.completion", "created": 1, "model": "held", "choices": [#{choice}], "usage": #{usage}})

    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n" <>
      "content-length: #{byte_size(body)}\r\n\r\n#{body}"
  end

  defp let_go({task, model}) do
    send(model, :go_on)
    Task.await(task, 60_000)
  end

  defp in_flight(node) do
    {in_flight, _queued} = Nodes.call(node, DSPex.Python.Pool.Membership, :load, [:shared])

    in_flight
  end

  defp idle?(nodes), do: Enum.all?(nodes, &(in_flight(&1) == 0))

  test "a node that does not answer is named by what is about all workers", %{c: c} do
    pid = :erpc.call(c.node, System, :pid, [])
    signal_process(pid, "STOP")
    on_exit(fn -> signal_process(pid, "CONT") end)

    results =
      [&Python.running_calls/1, &Python.cancel("r", &1), &Python.metrics/1]
      |> Enum.map(&Task.async(fn -> &1.(pool: @pool, timeout: 20_000) end))
      |> Task.await_many(60_000)

    signal_process(pid, "CONT")
    name = to_string(c.node)

    for {:error, error} <- Enum.take(results, 2) do
      assert error.kind == :timeout
      assert error.message =~ "node #{name} did not answer"
      assert [%{"node" => ^name, "worker" => nil}] = error.details["unanswered"]
    end

    assert [{:error, _running}, {:error, _cancel}, {:ok, metrics}] = results
    assert [%{"node" => ^name, "error" => %{"kind" => "timeout"}}] = metrics["unanswered"]
    assert Map.keys(metrics["nodes"]) != [] and not is_map_key(metrics["nodes"], name)
    eventually(fn -> match?({:ok, []}, Python.running_calls(pool: @pool)) end)
  end

  test "a wrong timeout of await_pools and drain_pool is told before anything happens", %{b: b} do
    for wrong <- [[timeout: 50], -1, 1.5, "50"] do
      for call <- [
            &Python.drain_pool(:shared, &1),
            &Python.await_pools([:shared], &1),
            &Python.await_pools(:all, &1)
          ],
          do: assert_raise(ArgumentError, ~r/expected the timeout itself/, fn -> call.(wrong) end)
    end

    assert_raise ArgumentError, ~r/expected a list of names of pools/, fn ->
      Python.await_pools(:shared)
    end

    assert b.node in Placement.nodes(:shared)
  end

  describe "a call" do
    test "of a session goes to one node, on which all nodes agree", %{b: b, c: c} do
      for number <- 1..20 do
        home = Cluster.home(:shared, "s#{number}")
        assert home == Nodes.call(b, Cluster, :home, [:shared, "s#{number}"])
        assert home == Nodes.call(c, Cluster, :home, [:shared, "s#{number}"])
      end

      for node <- [b.node, c.node], session <- opened!(node, 2) do
        assert node_of(ask(session_id: session)) == to_string(node)
        {:ok, program} = Python.create_program(@qa, pool: @pool, session_id: session)
        assert program.pool == @pool
        assert node_of(Python.execute_program(program, "Why?")) == to_string(node)
        # The store has it for all, so another node would answer too.
        by_id = Python.execute_program(program.id, "Why?", pool: @pool)
        assert node_of(by_id) == to_string(node)
      end
    end

    test "without a session goes to the node with the fewest calls, and stays here while there is room",
         %{b: b, c: c} do
      # What is known of earlier calls fades.
      eventually(fn -> Enum.all?([b, c], &(Loads.calls(:shared, &1.node) < 0.1)) end)
      held = for _ <- 1..4, do: hold()
      assert [2, 2] == Enum.map([b, c], &in_flight/1)

      start_pool!(name: :shared, max_in_flight: 1)
      Nodes.await_members!(:shared, [node(), b.node, c.node])
      here = hold()
      assert idle?([]) and in_flight(b) + in_flight(c) == 4
      there = hold()
      assert in_flight(b) + in_flight(c) == 5
      assert node_of(let_go(here)) == to_string(node())
      assert node_of(let_go(there)) != to_string(node())
      for call <- held, do: assert({:ok, _prediction} = let_go(call))

      # A pool that drains gets no further calls, and says what is in flight.
      {here, _model} = hold_model(retry: :safe)
      assert Python.drain_pool(:shared, 50) == {:ok, 1}
      refute node() in Placement.nodes(:shared)
      assert node_of(ask()) != to_string(node())
      assert {:ok, %{"node" => name}} = Python.ping(nil, pool: :shared)
      assert name == to_string(node())

      # What it has begun when it stops is made again elsewhere, because nobody has seen anything of it.
      stop_supervised!(:shared)
      assert_receive {:asked, again, _node}, 30_000
      assert node_of(let_go({here, again})) != to_string(node())
      assert {:error, %{kind: :pool_not_found}} = Python.drain_pool(:shared)
    end

    test "that takes long counts on its node for as long as it runs, and not when its process is killed",
         %{b: b, c: c} do
      eventually(fn -> Enum.all?([b, c], &(Loads.calls(:shared, &1.node) < 0.1)) end)
      [session] = opened!(b.node, 1)
      held = for _ <- 1..3, do: hold(session_id: session)
      assert [3, 0] == Enum.map([b, c], &in_flight/1)
      # What others had told of it has faded: an eighth was left of these calls, too.
      Process.sleep(3_000)
      further = for _ <- 1..3, do: hold()
      assert [3, 3] == Enum.map([b, c], &in_flight/1)
      assert_in_delta Loads.calls(:shared, b.node), 3, 0.1

      [{killed, _model} | held] = held ++ further
      Task.shutdown(killed, :brutal_kill)
      eventually(fn -> Loads.calls(:shared, b.node) < 2.1 end)
      for call <- held, do: assert({:ok, _prediction} = let_go(call))
      eventually(fn -> Enum.all?([b, c], &(Loads.calls(:shared, &1.node) < 0.1)) end)
    end

    test "ends on its node when the pool there is stopped, and further ones go to another node" do
      # Other tests end those of the setup.
      [c, d] = Nodes.start!(["e", "f"])
      for node <- [c, d], do: Nodes.start_pool!(node, :leaving, stop_timeout: 60_000)
      Nodes.await_members!(:leaving, [c.node, d.node])
      test = self()

      model = fn _request ->
        send(test, {:asked, self()})
        receive do: (:go_on -> ScriptedModel.written(answer: "done"))
      end

      options = [pool: {:cluster, :leaving}, lm: {:elixir, model}, timeout: 60_000]
      execute = &Python.execute_module("dspy.Predict", @qa, "Why?", &1)
      call = Task.async(fn -> execute.(options) end)
      assert_receive {:asked, asked}, 30_000
      load = &Nodes.call(&1, DSPex.Python.Pool.Membership, :load, [:leaving])
      [stopped] = Enum.filter([c, d], &(load.(&1) == {1, 0}))
      [other] = [c, d] -- [stopped]

      stop = Task.async(fn -> Nodes.call(stopped, Python, :stop_pool, [:leaving]) end)
      Nodes.await_members!(:leaving, [other.node])
      assert node_of(execute.(pool: {:cluster, :leaving})) == to_string(other.node)
      send(asked, :go_on)
      assert node_of(Task.await(call, 60_000)) == to_string(stopped.node)
      assert Task.await(stop, 60_000) == :ok
      assert Nodes.call(other, Python, :stop_pool, [:leaving]) == :ok
    end

    test "ends at its deadline, with its function", %{b: b, c: c} do
      test = self()

      endless = fn _request ->
        send(test, {:asked, self()})
        Process.sleep(:infinity)
      end

      attempt = &{ask(lm: {:elixir, endless}, timeout: &1), take_message(:asked)}
      in_time? = fn {_result, asked} -> asked != nil end
      {{result, {:asked, model}}, _timeout} = at_deadline(400, attempt, in_time?)
      assert {:error, %Error{kind: :timeout}} = result
      monitor = Process.monitor(model)
      assert_receive {:DOWN, ^monitor, :process, _pid, _reason}, 10_000
      eventually(fn -> idle?([b, c]) end)
    end

    test "ends with its process, and with its function", %{b: b, c: c} do
      test = self()

      model = fn _request ->
        send(test, {:asked, self()})
        Process.sleep(:infinity)
      end

      caller = spawn(fn -> ask(lm: {:elixir, model}, timeout: :infinity) end)
      assert_receive {:asked, function}, 30_000
      assert in_flight(b) + in_flight(c) == 1
      monitor = Process.monitor(function)
      Process.exit(caller, :kill)
      assert_receive {:DOWN, ^monitor, :process, _pid, _reason}, 10_000
      eventually(fn -> idle?([b, c]) end)
      eventually(fn -> CallbackRegistry.count() == %{registered: 0, running: 0} end)
    end

    test "is cancelled by its request_id, from any node", %{b: b} do
      {task, _model} = hold(request_id: "r1")
      assert {:ok, 1} = Nodes.call(b, Python, :cancel, ["r1", [pool: @pool]])
      assert {:error, %Error{kind: :cancelled}} = Task.await(task, 30_000)
    end

    test "that is wrong is the same error as of a pool", %{b: b} do
      wrong = &Python.execute_module("dspy.Predcit", @qa, "Why?", pool: &1)
      assert {:error, %Error{kind: :module_not_found} = error} = wrong.(@pool)
      assert error.message =~ "dspy.Predict"

      for pool <- [{:cluster, "shared"}, {:cluster, nil}, {:clutser, :shared}, {:cluster, :a, :b}] do
        assert_raise ArgumentError, ~r/or {:cluster, name}, got/, fn -> wrong.(pool) end
      end

      assert {:error, %Error{kind: :pool_not_found} = error} = wrong.({:cluster, :nowhere})
      assert error.message =~ to_string(b.node)
      assert {:error, %Error{kind: :timeout}} = Python.await_pools([{:cluster, :nowhere}], 100)
      assert Python.await_pools([@pool]) == :ok
      assert {:error, %Error{kind: :session_not_found}} = Python.session_info("none", pool: @pool)
    end

    test "is as strict as the pool of the first node, if there is none here", %{b: b} do
      for strict <- [true, false] do
        name = :"strict_#{strict}"
        Nodes.start_pool!(b, name, strict: strict)
        Nodes.await_members!(name, [b.node])
        options = [pool: {:cluster, name}, max_hops: 3]
        result = Python.execute_module("dspy.Predict", @qa, "Why?", options)
        assert match?({:error, %Error{kind: :input, path: "opts.max_hops"}}, result) == strict
        assert match?({:ok, _prediction}, result) == not strict
        :ok = Nodes.call(b, Python, :stop_pool, [name])
      end
    end

    test "as JSON has the same results" do
      assert {:ok, one} = ask(serialization_format: :json)
      assert {:ok, other} = ask()
      assert one.fields == other.fields
    end
  end

  describe "functions of the caller" do
    test "are called on its node, with its metadata: tools, rewards, metrics, models, keys" do
      test = self()
      Logger.metadata(mine: 1)

      tool = %{
        name: "stock",
        description: "Pieces",
        function: fn _arguments ->
          send(test, {:tool, node(), Logger.metadata()[:mine], hd(Process.get(:"$callers"))})
          "42"
        end
      }

      {:ok, scripted} =
        ScriptedModel.start_link([
          %{next_thought: "t", next_tool_name: "stock", next_tool_args: %{}},
          %{next_thought: "t", next_tool_name: "finish", next_tool_args: %{}},
          %{reasoning: "r", answer: "42"}
        ])

      assert {:ok, prediction} =
               Python.execute_module("dspy.ReAct", @qa, "How many?",
                 pool: @pool,
                 tools: [tool],
                 lm: ScriptedModel.lm(scripted)
               )

      assert prediction[:answer] == "42"
      here = node()
      assert_receive {:tool, ^here, 1, ^test}

      best = %{module: "dspy.BestOfN", N: 2, of: "dspy.Predict", reward: fn _, _ -> 1.0 end}
      assert {:ok, _best} = Python.execute_module(best, @qa, "Why?", pool: @pool)

      {:ok, program} = Python.create_program(@qa, pool: @pool)
      metric = fn _example, prediction -> is_binary(prediction[:answer]) and node() == here end
      examples = for number <- 1..3, do: %{question: "#{number}?", answer: "#{number}"}
      assert {:ok, %{score: 100.0}} = Python.evaluate_program(program, examples, metric)

      assert {:ok, %{version: 2, pool: @pool}} =
               Python.compile_program(program, examples,
                 optimizer: "dspy.BootstrapFewShot",
                 metric: metric
               )
    end

    test "that a module exports are found on its node alone" do
      spec = %{signature: @qa, modules: [%{module: "dspy.ReAct", tools: [{Tools, :stock}]}]}
      {:ok, program} = Python.create_program(spec, pool: @pool)

      {:ok, scripted} =
        ScriptedModel.start_link([
          %{next_thought: "t", next_tool_name: "stock", next_tool_args: %{article: "bolt"}},
          %{next_thought: "t", next_tool_name: "finish", next_tool_args: %{}},
          fn request ->
            assert inspect(request) =~ "forty-two on #{node()}"
            %{reasoning: "r", answer: "42"}
          end
        ])

      assert {:ok, prediction} =
               Python.execute_program(program, "?", lm: ScriptedModel.lm(scripted))

      assert prediction[:answer] == "42"
    end

    test "that fail are one sentence for Python" do
      failing = fn _request -> raise "no model today" end
      assert {:error, %Error{kind: :provider} = error} = ask(lm: {:elixir, failing})
      assert error.message =~ "no model today"
    end

    test "configured for all nodes, or for a session, stay here until others are", %{b: b, c: c} do
      mine = fn _request -> ScriptedModel.written(answer: "mine on #{node()}") end
      assert {:ok, _model} = Python.configure_lm(:elixir, [function: mine], pool: @pool)

      for node <- [b, c], [session] = opened!(node.node, 1) do
        assert {:ok, prediction} = ask(session_id: session)
        assert prediction[:answer] == "mine on #{node()}"
        assert prediction.meta["node"] == to_string(node.node)
      end

      assert CallbackRegistry.count().registered == 1
      assert {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: @pool)
      assert CallbackRegistry.count().registered == 0

      test = self()

      held = fn _request ->
        send(test, {:asked, self()})
        receive do: (:go_on -> ScriptedModel.written(answer: "old"))
      end

      {:ok, _model} = Python.configure_lm(:elixir, [function: held], pool: @pool)
      calls = for _ <- 1..4, do: Task.async(fn -> ask() end)
      asked = for _ <- calls, do: assert_receive({:asked, _function}, 30_000)
      assert {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: @pool)
      for {:asked, function} <- asked, do: send(function, :go_on)

      for {:ok, prediction} <- Task.await_many(calls, 30_000),
          do: assert(prediction[:answer] == "old")

      eventually(fn -> CallbackRegistry.count().registered == 0 end)

      {:ok, _model} =
        Python.configure_lm(:elixir, [function: mine], pool: @pool, session_id: "with model")

      assert {:ok, prediction} = ask(session_id: "with model")
      assert prediction[:answer] == "mine on #{node()}"
      assert {:ok, _closed} = Python.close_session("with model", pool: @pool)
      assert CallbackRegistry.count().registered == 0

      assert {:error, %Error{kind: :provider}} = Python.configure_lm(:embeded, %{}, pool: @pool)

      assert {:error, %Error{}} = Python.configure_lm(:elixir, [function: 1], pool: @pool)
    end
  end

  test "a function that is configured on a node with the pool is called there" do
    pool = start_pool!(model: nil)
    Nodes.await_members!(pool, [node()])
    mine = fn _request -> ScriptedModel.written(answer: "mine on #{node()}") end
    options = [pool: {:cluster, pool}, timeout: 20_000]
    ask = &Python.execute_module("dspy.Predict", @qa, "Why?", options ++ &1)

    for own <- [[], [session_id: "s"]] do
      {:ok, _model} = Python.configure_lm(:elixir, [function: mine], options ++ own)
      assert {:ok, prediction} = ask.(own)
      assert prediction[:answer] == "mine on #{node()}"
    end

    assert {:ok, prediction} = ask.(lm: {:elixir, mine})
    assert prediction[:answer] == "mine on #{node()}"
    {:ok, _closed} = Python.close_session("s", options)
    {:ok, _model} = Python.configure_lm(:embedded, [], options)
    assert CallbackRegistry.count().registered == 0
  end

  test "a node that joins after configure_lm has its own model, and the error names it", %{b: b} do
    Nodes.start_pool!(b, :late, model: nil)
    Nodes.await_members!(:late, [b.node])
    late = [pool: {:cluster, :late}]
    assert {:ok, _model} = Python.configure_lm(:embedded, %{}, late)
    pool = start_pool!(name: :late, model: nil)
    assert Python.await_pools([pool]) == :ok
    Nodes.await_members!(:late, [node(), b.node])

    for format <- [:native, :json] do
      assert {:error, error} =
               Python.execute_module(
                 "dspy.Predict",
                 @qa,
                 "Why?",
                 [serialization_format: format] ++ late
               )

      assert error.kind == :lm_not_configured
      assert error.message =~ "pool :late has no language model on #{node()}; write config :dspex"
      assert error.message =~ "configure_lm with pool: {:cluster, :late} again"
    end

    assert {:ok, _model} = Python.configure_lm(:embedded, %{}, late)
    assert {:ok, _prediction} = Python.execute_module("dspy.Predict", @qa, "Why?", late)
    :ok = Nodes.call(b, Python, :stop_pool, [:late])
  end

  describe "a stream" do
    test "crosses nodes piece by piece, with back-pressure" do
      test = self()

      pieces =
        Stream.map(1..200, fn number ->
          send(test, {:piece, number})
          if number == 1, do: "[[ ## answer ## ]]\n", else: "word#{number} "
        end)

      stream =
        Python.stream("dspy.Predict", @qa, "Why?",
          pool: @pool,
          lm: {:elixir, fn _request -> pieces end},
          buffer: 2
        )

      # The reader has taken one piece; the model's function has not run far ahead.
      assert [{:chunk, "answer", _text}] =
               stream |> Stream.filter(&match?({:chunk, _, _}, &1)) |> Enum.take(1)

      refute_received {:piece, 150}
      eventually(fn -> CallbackRegistry.count() == %{registered: 0, running: 0} end)

      text = for {:chunk, "answer", text} <- stream, into: "", do: text

      assert text |> String.split() |> length() == 199
      assert {:prediction, prediction} = Enum.at(stream, -1)
      assert prediction.meta["node"] != nil
    end

    test "of a batch uses the workers of all nodes", %{b: b, c: c} do
      inputs = for number <- 1..60, do: "What is #{number}?"
      assert {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, pool: @pool)
      assert length(results) == 60
      nodes = results |> Enum.map(&node_of/1) |> Enum.frequencies()
      assert Enum.sort(Map.keys(nodes)) == Enum.sort([to_string(b.node), to_string(c.node)])

      streamed = Python.stream_batch("dspy.Predict", @qa, inputs, pool: @pool)
      assert streamed |> Enum.map(&elem(&1, 0)) |> Enum.sort() == Enum.to_list(0..59)
    end
  end

  test "answers say the node, and reports are by node and summed", %{b: b, c: c} do
    nodes = Enum.sort([to_string(b.node), to_string(c.node)])
    {:ok, _counted} = Python.reset_metrics(pool: @pool)

    for node <- [b.node, c.node], [session] = opened!(node, 1) do
      assert node_of(ask(session_id: session)) == to_string(node)
      {:ok, _program} = Python.create_program(@qa, pool: @pool, session_id: session)
      assert {:ok, sessions} = Python.list_sessions(pool: @pool)
      assert Enum.find(sessions, &(&1["id"] == session))["node"] == to_string(node)
      assert Enum.count(sessions, &(&1["id"] == session)) == 1
    end

    for format <- [:native, :json] do
      assert {:ok, metrics} = Python.metrics(pool: @pool, serialization_format: format)
      assert metrics["modules"]["dspy.Predict"]["calls"] == 2
      assert Enum.sort(Map.keys(metrics["nodes"])) == nodes

      for {_node, of_node} <- metrics["nodes"],
          do: assert(of_node["modules"]["dspy.Predict"]["calls"] == 1)

      assert Enum.sort(Map.keys(metrics["pool"])) == nodes
    end

    assert {:ok, %{"node" => node}} = Python.ping(nil, pool: @pool)
    assert node in nodes
  end

  test "the running calls are those of all nodes, with their node", %{b: b, c: c} do
    held =
      for node <- [b.node, c.node], [session] = opened!(node, 1) do
        {to_string(node), hold(session_id: session, request_id: "running on #{node}")}
      end

    assert {:ok, calls} = Python.running_calls(pool: @pool)

    for {node, one} <- held do
      assert [%{"node" => ^node, "worker" => number}] =
               Enum.filter(calls, &(&1["request_id"] == "running on #{node}"))

      assert is_integer(number)
      let_go(one)
    end
  end

  test "an adapter takes the pools of all nodes" do
    adapter = %LLM.Adapters.Python{pool: @pool}
    assert LLM.Adapter.validate_config(adapter) == :ok
    assert {:ok, prediction} = LLM.Adapter.generate(adapter, "Why?", [])
    assert prediction.meta["node"]
    assert {:ok, [{:ok, _}, {:ok, _}]} = LLM.Adapter.batch(adapter, ["Why?", "How?"], [])
    assert {:ok, stream} = LLM.Adapter.stream(adapter, "Why?", [])
    assert {:prediction, _prediction} = Enum.at(stream, -1)

    wrong = LLM.Adapter.validate_config(%{adapter | pool: {:cluster, "shared"}})
    assert {:error, {:invalid_config, message}} = wrong
    assert message =~ "{:cluster, name}"
  end

  test "a request of another version is refused by name, and nothing crashes", %{b: b} do
    for message <- [
          {:dspex, 99, self(), make_ref(), :call, %{}},
          {:dspex, 1, self(), make_ref(), :dance, %{}},
          {:dspex, 1, :wrong},
          :wrong
        ] do
      {:ok, pid} = spawn_there(b.node, message)

      assert_receive {:DOWN, _monitor, :process, ^pid, {:shutdown, {:dspex_refused, [1]}}}, 10_000
    end

    assert {:answer, {:error, %Error{kind: :input}}} =
             Remote.ask(b.node, :about, %{pool: :shared, question: :colour}, :infinity)

    assert {:ok, _prediction} = ask()
  end

  defp spawn_there(node, message) do
    id = :erlang.spawn_request(node, :dspex_cluster, :serve, [message], [:monitor])
    assert_receive {:spawn_reply, ^id, :ok, pid}, 10_000
    {:ok, pid}
  end

  test "nodes with another version do not find each other, and the error names them", %{b: b} do
    member = Nodes.call(b, :erlang, :spawn, [:timer, :sleep, [:infinity]])
    :ok = Nodes.call(b, :pg, :join, [:dspex_pools, {:dspex, 2, :newer}, member])
    eventually(fn -> :pg.get_members(:dspex_pools, {:dspex, 2, :newer}) != [] end)

    assert {:error, %Error{kind: :pool_not_found} = error} =
             Python.ping(nil, pool: {:cluster, :newer})

    assert error.message =~ "#{b.node} exchanges version 2, and this node version 1"
  end

  test "a node that goes takes no session with it, and its calls are answered",
       %{b: b, c: c, store: store} do
    [d] = Nodes.start!(["d"])
    Nodes.start_pool!(d, :shared, store: "sqlite:///#{store}")
    for from <- [nil, b, c], do: Nodes.await_members!(:shared, [b.node, c.node, d.node], from)
    all = for number <- 1..60, do: {"m#{number}", Cluster.home(:shared, "m#{number}")}
    [session] = opened!(d.node, 1)
    spec = %{signature: @qa, history: true}
    {:ok, program} = Python.create_program(spec, pool: @pool, session_id: session)
    say = &Python.execute_program(program, &1, [conversation: "user"] ++ &2)
    assert node_of(say.("One?", [])) == to_string(d.node)

    {in_program, _model} = hold([retry: :safe], &say.("Lost?", &1))
    {in_session, model} = hold(session_id: session)
    {safe, _model} = hold_model(session_id: session, retry: :safe)
    assert in_flight(d) == 3
    monitor = Process.monitor(model)
    :net_kernel.monitor_nodes(true)
    Nodes.kill!(d)
    assert_receive {:nodedown, node}, 20_000
    assert node == d.node

    # Which tools a program has is not known here.
    for task <- [in_session, in_program] do
      {answer, ms} = timed(fn -> Task.await(task, 20_000) end)
      assert {:error, %Error{kind: :worker_died, retryable: true, details: details}} = answer
      assert details["node"] == to_string(d.node)
      assert ms < 4_000
    end

    # Its function is not left running.
    assert_receive {:DOWN, ^monitor, :process, _pid, _reason}, 10_000
    assert_receive {:asked, again, _node}, 20_000
    send(again, :go_on)
    assert {:ok, prediction} = Task.await(safe, 20_000)
    assert prediction.meta["node"] in [to_string(b.node), to_string(c.node)]

    {answer, ms} = timed(fn -> say.("Two?", []) end)
    assert node_of(answer) in [to_string(b.node), to_string(c.node)]
    assert ms < 4_000
    {:ok, %{"turns" => turns}} = Python.conversation(program, "user")
    assert Enum.map(turns, & &1["question"]) == ["One?", "Two?"]

    # Only its sessions have moved.
    for {session, home} <- all,
        home != d.node,
        do: assert(Cluster.home(:shared, session) == home)

    assert Enum.any?(all, fn {_session, home} -> home == d.node end)
  end

  test "two halves of a split network continue one conversation: one of them gets a conflict",
       %{b: b, c: c} do
    spec = %{signature: @qa, history: true}
    {:ok, program} = Python.create_program(spec, pool: @pool, session_id: "split")
    say = &Python.execute_program(program, &1, [conversation: "user"] ++ &2)
    assert {:ok, _one} = say.("One?", [])

    # A call that holds the conversation on one half, and one on the other half meanwhile.
    [home, other] = if Cluster.home(:shared, "split") == b.node, do: [b, c], else: [c, b]

    held = hold([], &say.("Held?", &1))
    true = Nodes.call(other, :erlang, :disconnect_node, [home.node])
    Nodes.await_members!(:shared, [other.node], other)

    there =
      Nodes.call(other, Python, :execute_program, [program, "There?", [conversation: "user"]])

    assert node_of(there) == to_string(other.node)

    assert {:error, %Error{kind: :conflict, retryable: true}} = let_go(held)
    assert {:ok, _again} = say.("Again?", [])
    {:ok, %{"turns" => turns}} = Python.conversation(program, "user")
    assert Enum.map(turns, & &1["question"]) == ["One?", "There?", "Again?"]

    true = Nodes.call(other, Node, :connect, [home.node])
    Nodes.await_members!(:shared, [b.node, c.node], other)
  end
end
