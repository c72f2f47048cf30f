defmodule DSPex.TelemetryTest do
  # Other tests must not see the module :telemetry, which these tests load and remove.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Prediction, Python, Telemetry, TestTelemetry}
  alias DSPex.Python.{Error, ScriptedModel}

  @moduletag :capture_log
  @qa "question -> answer"
  # That of the model server.
  @key "test-key-7f3a"
  @usage ~w(input_tokens output_tokens cached_tokens reasoning_tokens total_tokens cost)a
  # Measurements that the table says may be missing.
  @optional %{
    call: [:queue_time, :python_time, :failed_items, :model_requests | @usage],
    model: [:queue_time, :time_to_first_token | @usage]
  }

  doctest Telemetry

  setup_all do
    TestTelemetry.load!()
    url = ModelServer.start!()
    {:ok, url: url}
  end

  setup do
    TestTelemetry.attach!(Telemetry.events())
    :ok
  end

  # The rows of the tables: event => {measurements, metadata}, with the groups that the text describes.
  defp documented do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Telemetry)

    for line <- String.split(doc, "\n"), String.starts_with?(line, "| `["), into: %{} do
      [event, measurements, metadata] = line |> String.trim("|") |> String.split(" | ")
      {event, _binding} = event |> String.trim() |> String.trim("`") |> Code.eval_string()
      {event, {names(measurements, event), names(metadata, event)}}
    end
  end

  defp names(cell, event) do
    known = for [_all, name] <- Regex.scan(~r/`(\w+\??)`/, cell), do: String.to_atom(name)
    known = if cell =~ "the usage", do: known ++ @usage, else: known

    known =
      if cell =~ "the usage" and event == [:dspex, :call, :stop],
        do: [:model_requests | known],
        else: known

    known = if cell =~ "those of a call", do: known ++ described("Those of a call"), else: known

    if cell =~ "those of a span",
      do: known ++ [:worker, :name, :stage | described("Those of a call") -- [:module]],
      else: known
  end

  defp described(group) do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Telemetry)
    [_before, text] = String.split(doc, "* #{group}:", parts: 2)
    [text | _rest] = String.split(text, "\n    * ", parts: 2)

    text =
      text
      |> String.split(~r/What\s+a\s+call\s+does\s+not\s+have/)
      |> hd()
      |> String.replace("`:metadata`", "")

    for [_all, name] <- Regex.scan(~r/`(\w+)`/, text), uniq: true, do: String.to_atom(name)
  end

  defp received(events \\ []) do
    receive do
      {[:dspex | _rest] = event, measurements, metadata, _pid} ->
        received([{event, measurements, metadata} | events])
    after
      500 -> Enum.reverse(events)
    end
  end

  # What makes every event that there is.
  defp everything(url) do
    pool =
      start_pool!(
        model: ModelServer.model(url, "good"),
        size: 1,
        max_in_flight: 1,
        max_queue: 1,
        store: :run
      )

    options = [pool: pool, metadata: %{tenant: "acme"}, request_id: "r-1", timeout: 60_000]
    {:ok, _prediction} = Python.execute_module("dspy.ChainOfThought", @qa, "Why?", options)

    {:error, _error} =
      Python.execute_module(
        "dspy.Predict",
        @qa,
        "Why?",
        [lm: ModelServer.model(url, "status-503")] ++ options
      )

    assert_raise ArgumentError, fn ->
      Python.execute_batch("dspy.Predict", @qa, ["Why?"], [buffer: 0] ++ options)
    end

    assert {:prediction, _prediction} =
             Enum.at(Python.stream("dspy.Predict", @qa, "Why?", options), -1)

    {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)

    {:ok, _compiled} =
      Python.compile_program(program, [%{question: "a", answer: "answer to a"}],
        optimizer: "dspy.BootstrapFewShot",
        metric: :exact_match
      )

    {:ok, _prediction} = Python.execute_program(program, "Why?", options)

    tasks =
      for _ <- 1..4,
          do:
            Task.async(fn ->
              Python.execute_module(
                "dspy.Predict",
                @qa,
                "Why?",
                [lm: ModelServer.model(url, "delay-500")] ++ options
              )
            end)

    results = Task.await_many(tasks, 60_000)
    assert Enum.any?(results, &match?({:error, %Error{kind: :overloaded}}, &1))
    killed = start_pool!()
    {:ok, _pong} = Python.ping(nil, pool: killed, timeout: 60_000)
    signal(killed, "KILL")
    await(:worker_died, killed)
    recycled = start_pool!(max_calls: 1)

    for _ <- 1..3,
        do:
          {:ok, _prediction} =
            Python.execute_module("dspy.Predict", @qa, "Why?", pool: recycled, timeout: 60_000)

    await(:worker_recycled, recycled)
  end

  defp await(event, pool) do
    assert_receive {[:dspex, :pool, ^event], _measurements, %{pool: ^pool}, _pid} = message,
                   60_000

    send(self(), message)
  end

  test "the tables of the documentation have every event, with what is sent", %{url: url} do
    documented = documented()
    assert Enum.sort(Map.keys(documented)) == Enum.sort(Telemetry.events())
    everything(url)
    sent = received()

    Enum.each(sent, &assert_documented(&1, documented))
    names = sent |> Enum.map(&elem(&1, 0)) |> MapSet.new()
    seen = Enum.filter(Telemetry.events(), &(&1 in names))
    # Tools, sandboxes and failures have their own tests.
    unseen = for [:dspex, kind, phase] <- Telemetry.events() -- seen, do: {kind, phase}
    phases = [:start, :stop, :exception]
    others = for kind <- [:tool, :sandbox], phase <- phases, do: {kind, phase}
    failures = for kind <- [:optimizer, :store], do: {kind, :exception}
    assert Enum.sort(unseen) == Enum.sort(failures ++ others)
    refute inspect(sent, limit: :infinity, printable_limit: :infinity) =~ @key
    refute inspect(sent, limit: :infinity, printable_limit: :infinity) =~ "Why?"
  end

  defp assert_documented({event, measurements, metadata}, documented) do
    {named, of_metadata} = Map.fetch!(documented, event)
    optional = Map.get(@optional, Enum.at(event, 1), [])
    assert {event, Map.keys(measurements) -- named} == {event, []}
    assert {event, (named -- optional) -- Map.keys(measurements)} == {event, []}

    assert {event, Enum.sort(Map.keys(metadata))} ==
             {event, of_metadata |> Enum.uniq() |> Enum.sort()}
  end

  @tag :tmp_dir
  test "sandboxes, optimizers and stores that fail are told as the tables say", context do
    %{url: url, tmp_dir: folder} = context
    documented = documented()

    code = %{reasoning: "divide", generated_code: "1 / 0"}
    model = start_supervised!({ScriptedModel, List.duplicate(code, 3)})

    pool =
      start_pool!(
        model: ModelServer.model(url, "good"),
        store: "sqlite:///" <> Path.join(folder, "dspex.db")
      )

    options = [pool: pool, timeout: 120_000]

    {:error, _error} =
      Python.execute_module(%{module: "dspy.ProgramOfThought", max_iters: 1}, @qa, "Why?", [
        {:lm, ScriptedModel.lm(model)} | options
      ])

    {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)

    test = self()

    metric = fn _example, _prediction ->
      send(test, {:asked, self()})
      Process.sleep(:infinity)
    end

    compile = fn timeout ->
      options = [optimizer: "dspy.BootstrapFewShot", metric: metric, timeout: timeout]
      result = Python.compile_program(program, [%{question: "a", answer: "b"}], options)
      {result, take_message(:asked)}
    end

    # Only Python tells of the optimizer.
    in_time? = fn {result, asked} -> asked != nil and python_answered?(result) end
    {{result, _asked}, _timeout} = at_deadline(1_000, compile, in_time?)
    assert {:error, %Error{kind: :timeout}} = result

    for file <- File.ls!(folder),
        do: File.write!(Path.join(folder, file), String.duplicate("no database", 1_000))

    {:error, %Error{kind: :store}} = Python.execute_program(program, "Why?", options)
    sent = received()
    Enum.each(sent, &assert_documented(&1, documented))

    failed =
      for {[:dspex, kind, :exception], _measurements, metadata} <- sent, do: {kind, metadata}

    assert %{name: "python", kind: :error, reason: reason} = failed[:sandbox]
    assert reason =~ "ZeroDivisionError"
    assert %{name: "dspy.BootstrapFewShot", result: :timeout} = failed[:optimizer]
    assert %{name: "read", result: :store} = failed[:store]

    assert Enum.any?(
             sent,
             &match?({[:dspex, :store, :stop], _measurements, %{name: "read"}}, &1)
           )
  end

  test "what happens in a call is told in the order of time, with the caller's own map", %{
    url: url
  } do
    pool = start_pool!(model: ModelServer.model(url, "good"))
    tenant = %{tenant: "acme", from: self()}

    tool = %{
      name: "stock",
      description: "pieces",
      parameters: %{article: :string},
      function: fn _ -> {:error, "closed"} end
    }

    model =
      start_supervised!(
        {ScriptedModel,
         [
           %{next_thought: "look", next_tool_name: "stock", next_tool_args: %{article: "nut"}},
           %{next_thought: "done", next_tool_name: "finish", next_tool_args: %{}},
           %{reasoning: "seen", answer: "none"}
         ]}
      )

    options = [
      pool: pool,
      lm: ScriptedModel.lm(model),
      tools: [tool],
      metadata: tenant,
      timeout: 60_000
    ]

    {:ok, _prediction} = Python.execute_module("dspy.ReAct", @qa, "How many?", options)

    sent =
      for {[:dspex, kind, phase], measurements, metadata} <- received(),
          kind != :pool,
          do: {kind, phase, measurements, metadata}

    names = for {kind, phase, _measurements, _metadata} <- sent, do: {kind, phase}
    assert hd(names) == {:call, :start} and List.last(names) == {:call, :stop}
    assert Enum.count(names, &(&1 == {:model, :stop})) == 3
    assert {:tool, :exception} in names

    assert Enum.all?(sent, fn {_kind, _phase, _measurements, metadata} ->
             metadata.metadata == tenant
           end)

    [tool_end] = for {:tool, :exception, _measurements, metadata} <- sent, do: metadata
    assert {tool_end.name, tool_end.result, tool_end.reason} == {"stock", :tool, "closed"}

    inner =
      for {kind, _phase, measurements, _metadata} <- sent,
          kind != :call,
          do: measurements.monotonic_time

    assert inner == Enum.sort(inner)

    # Each span has the call, or another span, as its parent, and a start and an end.
    spans = for {_kind, :start, _measurements, metadata} <- sent, do: metadata.span_id

    ends =
      for {_kind, phase, _measurements, metadata} <- sent, phase != :start, do: metadata.span_id

    assert Enum.sort(spans) == Enum.sort(ends)
    [{:call, :start, _measurements, call} | _rest] = sent

    assert Enum.all?(sent, fn {_kind, _phase, _measurements, metadata} ->
             metadata.trace_id == call.trace_id
           end)

    {:call, :stop, measurements, _metadata} = List.last(sent)
    assert measurements.model_requests == 3
    assert measurements.python_time < measurements.duration
  end

  test "without a handler Python is asked for no spans", %{url: url} do
    pool = start_pool!(model: ModelServer.model(url, "good"))
    :ok = Python.await_pools([pool])
    received()

    for {_event, id, _function, _config} <- :ets.tab2list(:test_telemetry),
        do: apply(:telemetry, :detach, [id])

    {:ok, prediction} =
      Python.execute_module("dspy.Predict", @qa, "Why?", pool: pool, timeout: 60_000)

    assert prediction.trace == nil
    # Other pools may be started at the same time.
    assert Enum.filter(received(), &(elem(&1, 2).pool == pool)) == []
    # With the handler of one kind alone, only its events come.
    TestTelemetry.attach!([[:dspex, :model, :stop]])
    {:ok, prediction} = Python.execute_module("dspy.Predict", @qa, "Why?", pool: pool)
    assert prediction.trace == nil

    assert [
             {[:dspex, :model, :stop], %{total_tokens: tokens},
              %{model: "openai/good", provider: "openai"}}
           ] = received()

    assert tokens == Prediction.total_tokens(prediction)
  end

  test "the default logger writes a line for each call, and more for what fails", %{url: url} do
    assert Telemetry.attach_default_logger() == :ok
    assert Telemetry.attach_default_logger() == {:error, :already_exists}
    pool = start_pool!(model: ModelServer.model(url, "good"))
    options = [pool: pool, timeout: 60_000]

    log =
      capture_log([level: :info], fn ->
        {:ok, _prediction} = Python.execute_module("dspy.Predict", @qa, "Why?", options)

        {:error, _error} =
          Python.execute_module(
            "dspy.Predict",
            @qa,
            "Why?",
            [lm: ModelServer.model(url, "status-503"), request_id: "r-17"] ++ options
          )

        {:ok, [{:ok, _}, {:error, _}, {:error, _}]} =
          Python.execute_batch("dspy.Predict", @qa, ["Why?", %{}, %{}], options)

        [_one, _two] =
          Enum.to_list(Python.stream_batch("dspy.Predict", @qa, ["Why?", %{}], options))

        {:error, _error} = Python.execute_module("dspy.Predict", @qa, %{}, options)

        {:ok, program} = Python.create_program(@qa, pool: pool)

        # Neither the inputs that the program needs nor a value to compare with: the call fails, and the metric.
        examples = [%{question: "Why?", answer: "42"}, %{answer: "42"}, %{question: "Why?"}]
        {:ok, %{failed: 2}} = Python.evaluate_program(program, examples, "exact_match", options)

        assert {:ok, %{failed: 2}} =
                 program
                 |> Python.stream_evaluate(examples, "exact_match", options)
                 |> Enum.at(-1)
      end)

    assert log =~
             ~r/\[info\].*execute_module dspy.Predict in pool :#{pool} ok in \d+ ms, model openai\/good, \d+ tokens/

    assert log =~
             ~r/\[warn(ing)?\].*execute_module dspy.Predict in pool :#{pool} failed \(server\) in \d+ ms, .*request "r-17"$/m

    # It was `in pool :p input in 2 ms`, and `ok` for a batch of which nothing had succeeded.
    assert log =~ ~r/execute_module dspy.Predict in pool :#{pool} failed \(input\) in \d+ ms$/m

    assert log =~
             ~r/execute_batch dspy.Predict in pool :#{pool} ok with 2 failed items in/

    assert log =~
             ~r/stream_batch dspy.Predict in pool :#{pool} ok with 1 failed item in/

    for operation <- ["evaluate_program", "stream_evaluate"],
        do: assert(log =~ ~r/#{operation}.* in pool :#{pool} ok with 2 failed items in/)

    assert Telemetry.detach_default_logger() == :ok
    assert Telemetry.detach_default_logger() == {:error, :not_found}
    assert_raise ArgumentError, fn -> Telemetry.attach_default_logger(levle: :debug) end

    for {wrong, message} <- [
          {[level: :loud], ~r/expected :level to be one of .*:info, :debug, got :loud/},
          {[slow_ms: -1], ~r/expected :slow_ms to be a number of ms, 0 or more, got -1/},
          {[slow_ms: "5"], ~r/got "5"/},
          {%{}, ~r/expected options as a keyword list, got %{}/}
        ] do
      assert_raise ArgumentError, message, fn -> Telemetry.attach_default_logger(wrong) end
    end
  end

  test "a batch that is spread over workers is one call, with what its items have used", %{
    url: url
  } do
    pool = start_pool!(model: ModelServer.model(url, "good"), size: 2)
    :ok = Python.await_pools([pool])
    inputs = for number <- 1..10, do: "Why #{number}?"
    {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, pool: pool)
    sent = received()

    assert [measurements] =
             for(
               {[:dspex, :call, :stop], measurements, %{operation: :execute_batch}} <- sent,
               do: measurements
             )

    tokens = for {:ok, prediction} <- results, do: Prediction.total_tokens(prediction)
    assert measurements.total_tokens == Enum.sum(tokens)
    assert measurements.model_requests == 10

    assert Enum.count(sent, &match?({[:dspex, :model, :stop], _measurements, _metadata}, &1)) ==
             10

    elements = Enum.to_list(Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool))
    assert Enum.all?(elements, &match?({_index, {:ok, %Prediction{trace: nil}}}, &1))
    sent = received()

    assert [:ok] =
             for({[:dspex, :call, :stop], _measurements, metadata} <- sent, do: metadata.result)

    assert Enum.count(sent, &match?({[:dspex, :model, :stop], _measurements, _metadata}, &1)) ==
             10

    assert [_element] = Enum.take(Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool), 1)

    assert [:cancelled] =
             for(
               {[:dspex, :call, :stop], _measurements, metadata} <- received(),
               do: metadata.result
             )
  end

  for {pool, options} <- [
        "one part": [],
        "several parts": [size: 2],
        "one call": [store: false]
      ] do
    @options options
    test "tokens of batches and evaluations are counted once, of #{pool}", %{url: url} do
      pool = start_pool!([model: ModelServer.model(url, "good")] ++ @options)
      {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)
      examples = for number <- 1..10, do: %{question: "Q#{number}", answer: "?"}
      inputs = Enum.map(examples, &Map.take(&1, [:question]))

      {:ok, evaluation} = Python.evaluate_program(program, examples, :exact_match)
      assert evaluation.total_tokens > 0
      assert tokens_of(:evaluate_program) == evaluation.total_tokens

      {:ok, streamed} =
        program |> Python.stream_evaluate(examples, :exact_match) |> Enum.to_list() |> List.last()

      assert tokens_of(:stream_evaluate) == streamed.total_tokens
      {:ok, results} = Python.execute_program_batch(program, inputs)
      spent = for {:ok, prediction} <- results, do: Prediction.total_tokens(prediction)
      assert tokens_of(:execute_program_batch) == Enum.sum(spent)
    end

    # What Python had answered and nobody had read was in no event, although it was paid.
    test "a stream that is halted counts what was answered and not read, of #{pool}", %{url: url} do
      pool = start_pool!([model: ModelServer.model(url, "good")] ++ @options)
      {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)
      examples = for number <- 1..12, do: %{question: "Q#{number}", answer: "?"}
      inputs = Enum.map(examples, &Map.take(&1, [:question]))

      for {operation, stream} <- [
            {:stream_program_batch, Python.stream_program_batch(program, inputs)},
            {:stream_evaluate, Python.stream_evaluate(program, examples, :exact_match)}
          ] do
        {:ok, _counted} = Python.reset_metrics(pool: pool)

        tokens =
          Enum.reduce_while(stream, nil, fn {_index, {:ok, result}}, nil ->
            # The others are answered meanwhile, but for those for which a reader must make room.
            eventually(fn -> answered(pool) > 8 end)
            # What Python has counted it sends soon.
            Process.sleep(1_000)
            {:halt, Prediction.total_tokens(Map.get(result, :prediction, result))}
          end)

        assert tokens > 0
        assert tokens_of(operation) > 8 * tokens
      end

      assert Process.info(self(), :messages) == {:messages, []}
    end
  end

  defp answered(pool) do
    {:ok, %{"modules" => %{"dspy.Predict" => counted}}} = Python.metrics(pool: pool)
    counted["calls"] - counted["in_flight"]
  end

  defp tokens_of(operation) do
    assert_receive {[:dspex, :call, :stop], measurements, %{operation: ^operation} = call, _pid}
    # The events of the models add up to it, each once.
    spans =
      for {[:dspex, :model, :stop], counts, %{trace_id: id, span_id: span}} <- received(),
          id == call.trace_id,
          do: {span, counts.total_tokens}

    assert spans == Enum.uniq(spans)
    assert spans |> Enum.map(&elem(&1, 1)) |> Enum.sum() == measurements.total_tokens
    measurements.total_tokens
  end
end
