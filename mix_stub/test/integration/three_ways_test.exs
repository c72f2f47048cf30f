defmodule DSPex.Integration.ThreeWaysTest do
  # What happens in a call is told in three ways, which have the same spans: events of telemetry, export by OTLP, and the page of
  # its trace. Other tests must not see the module :telemetry, which this test loads and removes.
  use ExUnit.Case, async: false

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, OtlpCollector, Prediction, Python, Telemetry, TestTelemetry, Trace}
  alias DSPex.Python.{Error, JSON}

  @moduletag :capture_log
  @moduletag :tmp_dir
  # That of the model server.
  @key "test-key-7f3a"
  # US dollars a token.
  @input 0.15e-6
  @output 0.6e-6

  setup_all do
    TestTelemetry.load!()
    {:ok, url: ModelServer.start!(), collector: OtlpCollector.start!()}
  end

  def redacted(%{"messages" => messages, "reply" => reply}) do
    %{
      "messages" => Enum.map(messages, &%{&1 | "content" => "[hidden]"}),
      "reply" => reply && Enum.map(reply, fn _text -> "[hidden]" end)
    }
  end

  # An agent that looks up, fails to, and answers; then a summary. The first attempt of its first request fails.
  defp script(url, word) do
    ModelServer.script!(url, "gpt-4o-mini", [
      %{when: "slow #{word}", delay_ms: 60_000},
      %{when: "bad #{word}", status: 401},
      %{when: "good #{word}", status: 503, retry_after: "0.01"},
      %{
        when: "good #{word}",
        fields: %{
          next_thought: "look",
          next_tool_name: "stock",
          next_tool_args: ~s({"article": "#{word}"})
        }
      },
      %{
        when: "good #{word}",
        fields: %{next_thought: "done", next_tool_name: "finish", next_tool_args: "{}"}
      },
      %{when: "good #{word}", fields: %{reasoning: "seen", answer: "none of #{word}"}},
      %{when: "none of #{word}", fields: %{summary: "no #{word}"}}
    ])
  end

  # A batch whose second item asks what the first has asked, and whose last one fails while another waits.
  defp batch(pool, url, word) do
    script(url, word)
    {:openai, options} = ModelServer.model(url, "gpt-4o-mini")

    lm = [
      ModelServer.model(url, "status-503"),
      {:openai, Keyword.merge(options, num_retries: 1, cache: true)}
    ]

    tool = %{
      name: "stock",
      description: "pieces",
      parameters: %{article: :string},
      function: fn %{"article" => article} -> {:error, "closed for #{article}"} end
    }

    spec = %{
      modules: [
        %{
          name: "agent",
          module: "dspy.ReAct",
          signature: "question -> answer",
          tools: [%{name: "stock"}]
        },
        %{name: "report", module: "dspy.Predict", signature: "answer -> summary"}
      ]
    }

    {:ok, program} = Python.create_program(spec, pool: pool)
    inputs = for kind <- ["slow", "good", "good", "bad"], do: "#{kind} #{word}"

    {:ok, results} =
      Python.execute_program_batch(program, inputs,
        pool: pool,
        lm: lm,
        tools: [tool],
        max_concurrency: 2,
        on_error: "fail_fast",
        trace: true,
        metadata: %{tenant: "acme"},
        timeout: 60_000
      )

    results
  end

  defp start!(collector, url, options \\ []) do
    otlp = [endpoint: collector, content: :full]

    pool =
      start_pool!([model: ModelServer.model(url, "good"), otlp: otlp, history: :full] ++ options)

    :ok = Python.await_pools([pool])
    pool
  end

  defp traces(results) do
    for {_status, result} <- results, do: result.trace
  end

  defp exported(collector, trace, count) do
    eventually(fn ->
      spans = Enum.filter(OtlpCollector.spans(collector), &(&1["trace_id"] == trace.id))
      if length(spans) >= count, do: spans
    end)
  end

  # The spans of events, by which each end has had a start.
  defp of_events(trace_id) do
    events = received([])
    ours = for {_event, _measurements, %{trace_id: ^trace_id}} = one <- events, do: one

    started =
      for {[:dspex, kind, :start], _measurements, metadata} <- ours, into: %{} do
        {metadata.span_id, {metadata.parent_id, Atom.to_string(kind)}}
      end

    ends =
      for {[:dspex, _kind, phase], measurements, metadata} <- ours,
          phase in [:stop, :exception],
          into: %{},
          do: {metadata.span_id, {metadata.result, measurements}}

    assert Enum.sort(Map.keys(started)) == Enum.sort(Map.keys(ends))
    {started, ends, events}
  end

  defp received(events) do
    receive do
      {[:dspex | _rest] = event, measurements, metadata, _pid} ->
        received([{event, measurements, metadata} | events])
    after
      500 -> events
    end
  end

  defp of_page(path) do
    [_all, text] =
      Regex.run(~r{<script type="application/json" id="trace">(.*?)</script>}s, File.read!(path))

    {:ok, %{"spans" => spans}} = JSON.decode(text)
    spans
  end

  defp tree(spans, kind), do: Map.new(spans, &{&1["id"], {&1["parent"], kind.(&1)}})
  defp kind(span), do: span["kind"]
  defp exported_kind(span), do: span["attributes"]["dspex.kind"]

  test "an agent in a pipeline in a batch is the same tree in events, export and page", context do
    %{url: url, collector: collector, tmp_dir: folder} = context
    pool = start!(collector, url)
    TestTelemetry.attach!(Telemetry.events())
    results = batch(pool, url, "nut")

    assert [
             {:error, %Error{kind: :cancelled}},
             {:ok, first},
             {:ok, second},
             {:error, %Error{kind: :auth}}
           ] = results

    assert first[:summary] == "no nut" and second[:summary] == "no nut"
    trace = Trace.join(traces(results))
    spans = tree(trace.spans, &kind/1)
    kinds = spans |> Map.values() |> Enum.frequencies_by(&elem(&1, 1))
    assert %{"call" => 1, "queue" => 1, "python" => 1, "item" => 4, "tool" => 2} = kinds

    # The page, and the file that `mix dspex.trace` reads.
    for {write, read} <- [
          {&Trace.write_html/2, &of_page/1},
          {&Trace.write_json/2,
           &(&1 |> File.read!() |> JSON.decode() |> elem(1) |> Map.fetch!("spans"))}
        ] do
      path = Path.join(folder, "trace")
      :ok = write.(traces(results), path)
      assert tree(read.(path), &kind/1) == spans
    end

    # The export, with times and errors.
    exported = exported(collector, trace, map_size(spans))
    assert length(exported) == map_size(spans)
    assert tree(exported, &exported_kind/1) == spans
    by_id = Map.new(exported, &{&1["id"], &1})

    for span <- trace.spans do
      other = by_id[span["id"]]
      assert_in_delta span["start_us"], other["start_us"], 1
      assert_in_delta span["duration_us"], other["duration_us"], 1
      status = if span["status"] == "ok", do: "UNSET", else: "ERROR"
      assert {span["name"], other["status"]} == {span["name"], status}
    end

    # The events, of those kinds that have some.
    {events, ends, _all} = of_events(trace.id)

    assert events ==
             Map.filter(spans, fn {_id, {_parent, kind}} -> kind not in ~w(queue python item) end)

    failed = for span <- trace.spans, span["status"] != "ok", into: MapSet.new(), do: span["id"]

    for {id, {result, _measurements}} <- ends, by_id[id]["attributes"]["dspex.kind"] != "call" do
      assert {id, result == :ok} == {id, id not in failed}
    end

    # Everything has happened that the tree is to show.
    attributes =
      for %{"kind" => "model", "attributes" => attributes} <- trace.spans, do: attributes

    assert Enum.any?(attributes, &(&1["fallback_for"] == "openai/status-503"))
    assert Enum.any?(attributes, &match?([%{"kind" => "server"}], &1["retries"]))
    assert Enum.count(attributes, &(&1["cache_hit"] == true)) == 4
    assert Enum.count(trace.spans, &(&1["kind"] == "tool" and &1["error"]["kind"] == "tool")) == 2
    assert Enum.count(trace.spans, &(&1["kind"] == "item" and &1["status"] == "cancelled")) == 1
    retries = for %{"events" => [%{"name" => "dspex.retry"} = event]} <- exported, do: event
    assert [%{"attributes" => %{"error.type" => "server"}}] = retries

    # What the server has answered costs what it says.
    usage = Trace.usage(trace)
    expected = usage.input_tokens * @input + usage.output_tokens * @output
    assert usage.input_tokens > 0
    assert_in_delta usage.cost, expected, 1.0e-9

    sum = fn key -> Enum.sum(for(span <- exported, do: span["attributes"][key] || 0)) end
    assert sum.("gen_ai.usage.input_tokens") == usage.input_tokens
    assert_in_delta sum.("gen_ai.usage.cost"), expected, 1.0e-9
    meta = for {:ok, prediction} <- results, do: prediction.meta["cost"]
    assert_in_delta Enum.sum(meta), expected, 1.0e-9
    assert second.meta["cost"] == 0.0
    assert Prediction.total_tokens(first) == usage.total_tokens

    [{_result, measured}] =
      for {id, ended} <- ends, by_id[id]["attributes"]["dspex.kind"] == "call", do: ended

    assert_in_delta measured.cost, expected, 1.0e-9

    models =
      for {_id, {_result, %{attempts: _attempts} = measured}} <- ends, do: measured[:cost] || 0.0

    assert_in_delta Enum.sum(models), expected, 1.0e-9
  end

  test "a batch that is spread over workers, and one that is streamed, are the same tree too",
       context do
    %{url: url, collector: collector} = context
    pool = start!(collector, url, size: 2)
    inputs = for number <- 1..12, do: "Why #{number}?"
    options = [pool: pool, trace: :metadata, timeout: 60_000]
    {:ok, results} = Python.execute_batch("dspy.Predict", "question -> answer", inputs, options)

    streamed =
      for {_index, result} <-
            Enum.to_list(
              Python.stream_batch("dspy.Predict", "question -> answer", inputs, options)
            ),
          do: result

    for results <- [results, streamed] do
      trace = Trace.join(traces(results))
      spans = tree(trace.spans, &kind/1)
      assert spans |> Map.values() |> Enum.count(&(elem(&1, 1) == "item")) == 12
      assert tree(exported(collector, trace, map_size(spans)), &exported_kind/1) == spans
    end
  end

  test "with a sampler a trace is exported as a whole, or not at all", %{
    url: url,
    collector: collector
  } do
    env = [OTEL_TRACES_SAMPLER: "parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.5"]
    pool = start!(collector, url, env: env, size: 2)
    questions = for number <- 1..4, do: "question #{number}"

    traces =
      for _call <- 1..8 do
        options = [pool: pool, trace: :metadata, timeout: 60_000]

        Python.trace(
          Python.execute_batch("dspy.Predict", "question -> answer", questions, options)
        )
      end

    # Of a trace id the sampler reads the lower 64 bits.
    {kept, dropped} = Enum.split_with(traces, &(String.at(&1.id, 16) in ~w(0 1 2 3 4 5 6 7)))
    for trace <- kept, do: exported(collector, trace, length(trace.spans))
    :ok = stop_supervised(pool)
    found = for span <- OtlpCollector.spans(collector), uniq: true, do: span["trace_id"]
    assert Enum.filter(dropped, &(&1.id in found)) == []
  end

  test "no key is anywhere, and with redaction no prompt", context do
    %{url: url, collector: collector, tmp_dir: folder} = context
    word = "xyzzy"

    log =
      capture_log(fn ->
        pool = start!(collector, url, redact: {__MODULE__, :redacted})
        TestTelemetry.attach!(Telemetry.events())
        results = batch(pool, url, word)
        trace = Trace.join(traces(results))
        exported(collector, trace, length(trace.spans))
        :ok = Trace.write_html(traces(results), Path.join(folder, "trace.html"))
        :ok = Trace.write_json(traces(results), Path.join(folder, "trace.json"))
        {:ok, history} = Python.history(pool: pool, n: 100)
        {_events, _ends, events} = of_events(trace.id)

        send(
          self(),
          {:written, inspect([history, events], limit: :infinity, printable_limit: :infinity)}
        )
      end)

    assert_received {:written, text}
    files = for path <- Path.wildcard(folder <> "/*"), do: File.read!(path)
    written = [log, text, OtlpCollector.bytes(collector) | files]
    assert length(files) == 2

    for text <- written do
      refute text =~ word
      refute text =~ @key
    end

    # The texts are there, as the application wants to see them.
    assert Enum.all?(files, &(&1 =~ "[hidden]"))
    assert OtlpCollector.bytes(collector) =~ "[hidden]"
  end
end
