defmodule DSPex.Python.Functions.CallerContextTest do
  # Each kind of function that Python calls, in each way of making a call: it runs on behalf of the process that made the call.
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.Functions.CallerContext

  @qa "question -> answer"
  @answer "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
  @inputs %{question: ~s|How many pieces of the article "bolt" are in stock?|}

  # How Mox and Ecto's sandbox find a test: by `$callers`, among the processes that are known.
  setup do
    table = :ets.new(:sandbox, [:public])
    :ets.insert(table, {self(), :allowed})
    {:ok, table: table}
  end

  # Returns a function that tells the test in whose name it runs, and then returns `result`.
  defp telling(table, result) do
    test = self()

    fn ->
      callers = Process.get(:"$callers")
      found = Enum.find(callers, &(:ets.lookup(table, &1) != []))
      context = {callers, Process.get(:"$ancestors"), Logger.metadata()}
      send(test, {:ran, self(), found, context})
      result
    end
  end

  @doc false
  # The modules and the options of a call that calls a function of this kind.
  def kind(:tool, tell) do
    tool = %{
      name: "stock",
      description: "How many pieces of an article are in stock",
      parameters: %{article: {:string, "its name"}},
      function: fn _arguments -> tell.() end
    }

    {"dspy.ReAct", [tools: [tool]]}
  end

  def kind(:model, tell),
    do: {"dspy.Predict", [lm: {:elixir, fn _request -> tell.() && @answer end}]}

  def kind(:streaming_model, tell) do
    pieces = fn _request -> Stream.map([@answer], &(tell.() && &1)) end
    {"dspy.Predict", [lm: {:elixir, pieces}]}
  end

  def kind(:fallback_model, tell) do
    failing = {:elixir, function: fn _request -> {:error, :server} end}
    {"dspy.Predict", [lm: [failing, {:elixir, function: fn _request -> tell.() && @answer end}]]}
  end

  def kind(:extraction_model, tell) do
    model = {:elixir, fn _request -> tell.() && ~s({"answer": "yes"}) end}
    lm = {:elixir, fn _request -> "the answer is yes" end}
    {"dspy.Predict", [lm: lm, adapter: [name: "two_step", extraction_model: model]]}
  end

  def kind(:reward, tell) do
    reward = fn _inputs, _prediction -> tell.() && 1.0 end
    {%{module: "dspy.BestOfN", N: 1, of: "dspy.Predict"}, [reward: reward]}
  end

  def kind(:retriever, tell),
    do: {%{module: "dspy.Retrieve", k: 1}, [retriever: fn _query, _k -> tell.() && ["x"] end]}

  def kind(:embedder, tell) do
    embedder = fn texts -> tell.() && Enum.map(texts, fn _text -> [1.0] end) end
    {%{module: "dspy.Retrieve", k: 1, passages: ["x"]}, [embedder: embedder]}
  end

  # A way returns the `$callers` and the `$ancestors` that the function must have, of the process that made the call.
  @doc false
  def way(:itself, module, options) do
    {:ok, _prediction} = Python.execute_module(module, signature(module), inputs(module), options)
    mine()
  end

  def way(:task, module, options),
    do: Task.async(fn -> way(:itself, module, options) end) |> Task.await(60_000)

  def way(:async_stream, module, options) do
    [:itself]
    |> Task.async_stream(&way(&1, module, options), timeout: 60_000)
    |> Enum.to_list()
    |> Keyword.fetch!(:ok)
  end

  def way(:batch, module, options) do
    {:ok, [{:ok, _prediction}]} =
      Python.execute_batch(module, signature(module), [inputs(module)], options)

    mine()
  end

  def way(:stream, module, options) do
    stream = Python.stream(module, signature(module), inputs(module), options)
    {:prediction, _prediction} = Enum.at(stream, -1)
    mine()
  end

  def way(:stream_read_in_task, module, options) do
    stream = Python.stream(module, signature(module), inputs(module), options)
    read = fn -> {Enum.at(stream, -1), mine()} end
    {{:prediction, _prediction}, of_reader} = read |> Task.async() |> Task.await(60_000)
    of_reader
  end

  def way(:stream_batch, module, options) do
    [{0, {:ok, _prediction}}] =
      module
      |> Python.stream_batch(signature(module), [inputs(module)], options)
      |> Enum.to_list()

    mine()
  end

  def way(:program, module, options) do
    {:ok, _prediction} = module |> program() |> Python.execute_program(@inputs, options)
    mine()
  end

  def way(:stream_program, module, options) do
    {:prediction, _prediction} =
      module |> program() |> Python.stream_program(@inputs, options) |> Enum.at(-1)

    mine()
  end

  def way(:evaluation, module, options) do
    metric = Keyword.get(options, :metric, fn _example, _prediction -> 1.0 end)

    {:ok, %{failed: 0}} =
      Python.evaluate_program(
        program(module),
        [@inputs],
        metric,
        Keyword.delete(options, :metric)
      )

    mine()
  end

  def way(:evaluation_with_progress, module, options) do
    test = self()
    progress = fn _element -> send(test, {:progress, self()}) end
    mine = way(:evaluation, module, [progress: progress] ++ options)
    assert_received {:progress, ^test}
    mine
  end

  def way(:compilation, module, options) do
    options =
      Keyword.put_new(options, :metric, fn _example, _prediction -> 1.0 end) ++
        [optimizer: "dspy.BootstrapFewShot"]

    {:ok, _program} = Python.compile_program(program(module), [@inputs], options)
    mine()
  end

  defp mine do
    {[self() | Process.get(:"$callers", [])], [self() | Process.get(:"$ancestors", [])]}
  end

  defp signature(%{module: "dspy.Retrieve"}), do: nil
  defp signature(_module), do: @qa

  defp inputs(%{module: "dspy.Retrieve"}), do: %{query: "bolt"}
  defp inputs(_module), do: @inputs

  # The functions of a program come with each call.
  defp program(module) do
    module =
      case module do
        %{of: _of} -> Map.put(module, :reward, "call")
        %{passages: _passages} -> Map.put(module, :embedder, "call")
        %{module: "dspy.Retrieve"} -> Map.put(module, :retriever, "call")
        module -> module
      end

    stages =
      if match?(%{module: "dspy.Retrieve"}, module),
        do: [
          Map.merge(module, %{name: "search", inputs: %{query: "question"}}),
          %{module: "dspy.Predict", signature: "passages: list[str], question -> answer"}
        ],
        else: [module]

    {:ok, program} = Python.create_program(%{signature: @qa, modules: stages})
    program
  end

  @calls [:itself, :task, :async_stream, :batch, :stream, :stream_read_in_task, :stream_batch] ++
           [:program, :stream_program]
  @scored [:evaluation, :evaluation_with_progress, :compilation]
  @kinds [:tool, :model, :streaming_model, :fallback_model, :extraction_model, :reward] ++
           [:retriever, :embedder]

  for kind <- @kinds, way <- @calls ++ @scored do
    test "#{kind}, called by #{way}", %{table: table} do
      {module, options} = kind(unquote(kind), telling(table, true))
      assert_context(unquote(way), module, options)
    end
  end

  for arity <- 2..5, way <- @scored do
    test "metric of #{arity} arguments, called by #{way}", %{table: table} do
      tell = telling(table, 1.0)

      metric =
        case unquote(arity) do
          2 -> fn _example, _prediction -> tell.() end
          3 -> fn _example, _prediction, _trace -> tell.() end
          4 -> fn _example, _prediction, _trace, _name -> tell.() end
          5 -> fn _example, _prediction, _trace, _name, _name_trace -> tell.() end
        end

      assert_context(unquote(way), "dspy.Predict", metric: metric)
    end
  end

  test "the function of an API key, called in all ways", %{table: table} do
    url = ModelServer.start!()
    tell = telling(table, "key-of-the-function")
    lm = {:openai, model: "slow-1", api_base: url, api_key: tell, num_retries: 0}
    for way <- @calls ++ @scored, do: assert_context(way, "dspy.Predict", lm: lm)
  end

  defp assert_context(way, module, options) do
    Logger.metadata(request_id: "web-1", tenant: "acme")
    {callers, ancestors} = way(way, module, options)
    assert_receive {:ran, runner, found, {^callers, ^ancestors, metadata}}
    assert runner not in callers
    assert found == self()
    # A task has no metadata of Logger from its caller.
    if hd(callers) == self(),
      do: assert(Enum.sort(metadata) == [request_id: "web-1", tenant: "acme"]),
      else: assert(metadata == [])
  end

  test "is what a task has from its caller" do
    Logger.metadata(tenant: "acme")
    context = CallerContext.current()
    task = Task.async(fn -> {Process.get(:"$callers"), Process.get(:"$ancestors")} end)
    assert Task.await(task, 60_000) == {context.callers, context.ancestors}
    assert context.metadata == %{tenant: "acme"}
  end

  # Tasks of Elixir 1.18 name it by its pid.
  test "names an ancestor by its registered name, as OTP does" do
    Process.register(self(), __MODULE__)
    test = self()
    :proc_lib.spawn_link(fn -> send(test, {:ancestors, Process.get(:"$ancestors")}) end)
    assert_receive {:ancestors, [__MODULE__ | _others]}
    assert hd(CallerContext.current().ancestors) == __MODULE__
  end

  test "survives the way to Python, without what is too large, and nothing else is read" do
    Logger.metadata(tenant: "acme", at: ~D[2026-01-02], secret: 1)
    context = CallerContext.current()
    text = CallerContext.to_text(context, [:tenant, :at, :none])

    assert CallerContext.from_text(text) ==
             {context.callers, %{tenant: "acme", at: ~D[2026-01-02]}}

    large = %{context | metadata: %{tenant: String.duplicate("x", 5_000)}}

    assert large |> CallerContext.to_text([:tenant]) |> CallerContext.from_text() ==
             {context.callers, %{}}

    for wrong <- [
          nil,
          "",
          "no base64",
          Base.encode64("no term"),
          text_of(:wrong),
          text_of({1, 2}),
          7
        ],
        do: assert(CallerContext.from_text(wrong) == {[], %{}})
  end

  defp text_of(term), do: term |> :erlang.term_to_binary() |> Base.encode64()

  describe "a model that is configured" do
    defp ask(pool, options \\ []) do
      Task.async(fn ->
        Python.execute_module("dspy.Predict", @qa, @inputs, [pool: pool] ++ options)
      end)
      |> Task.await(60_000)
    end

    test "runs on behalf of the process that configured it, also in the next Python", %{
      table: table
    } do
      pool = start_pool!(model: nil)
      test = self()
      function = telling_model(table, test)

      configurer =
        Task.async(fn ->
          Logger.metadata(tenant: "acme")
          {:ok, _model} = Python.configure_lm(:elixir, [function: function], pool: pool)
          self()
        end)
        |> Task.await(60_000)

      assert {:ok, _prediction} = ask(pool)
      assert_receive {:ran, _runner, ^test, {[^configurer, ^test | _], _, [tenant: "acme"]}}

      owner = client(pool)

      capture_log(fn ->
        signal(pool, "KILL")
        eventually(fn -> client(pool) != owner end)
      end)

      assert {:ok, _prediction} = ask(pool)
      assert_receive {:ran, _runner, ^test, {[^configurer, ^test | _], _, [tenant: "acme"]}}
    end

    test "runs on behalf of the process that configured it for a session", %{table: table} do
      test = self()
      function = telling_model(table, test)
      pool = start_pool!()
      {:ok, program} = Python.create_program([signature: @qa], pool: pool)
      session = [session_id: program.session_id, pool: pool]
      {:ok, _model} = Python.configure_lm(:elixir, [function: function], session)
      call = Task.async(fn -> Python.execute_program(program, @inputs) end)
      assert {:ok, _prediction} = Task.await(call, 60_000)
      assert_receive {:ran, _runner, ^test, {[^test | _], _ancestors, _metadata}}
    end

    test "runs on behalf of the process that wrote the options of the pool", %{table: table} do
      test = self()
      pool = start_pool!(model: {:elixir, telling_model(table, test)})

      assert {:ok, _prediction} = ask(pool)
      assert_receive {:ran, _runner, ^test, {[^test | _], _ancestors, _metadata}}
    end

    test "also runs on behalf of the process that makes the call", %{table: table} do
      test = self()
      :ets.delete_all_objects(table)

      pool = start_pool!(model: nil, log_metadata: [:tenant])
      function = telling_model(table, test)

      # A process that has nothing to do with the test.
      {_pid, monitor} =
        spawn_monitor(fn ->
          {:ok, _model} = Python.configure_lm(:elixir, [function: function], pool: pool)
        end)

      assert_receive {:DOWN, ^monitor, :process, _pid, :normal}, 60_000

      caller =
        Task.async(fn ->
          Logger.metadata(tenant: "blue", other: 1)
          :ets.insert(table, {self(), :allowed})
          {:ok, _prediction} = Python.execute_module("dspy.Predict", @qa, @inputs, pool: pool)
          self()
        end)
        |> Task.await(60_000)

      assert_receive {:ran, _runner, ^caller, {callers, _ancestors, [tenant: "blue"]}}
      assert caller in callers
    end

    defp telling_model(table, test) do
      fn _request ->
        callers = Process.get(:"$callers")
        found = Enum.find(callers, &(:ets.lookup(table, &1) != []))

        send(
          test,
          {:ran, self(), found, {callers, Process.get(:"$ancestors"), Logger.metadata()}}
        )

        @answer
      end
    end
  end
end
