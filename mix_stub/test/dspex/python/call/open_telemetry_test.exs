defmodule DSPex.Python.Call.OpenTelemetryTest do
  # Other tests must not see the modules of OpenTelemetry, which these tests load and remove.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.{ModelServer, Python, TestOpenTelemetry}
  alias DSPex.Python.Error

  @moduletag :capture_log
  @qa "question -> answer"

  setup_all do
    url = ModelServer.start!()
    pool = start_pool!(model: ModelServer.model(url, "good"))
    :ok = Python.await_pools([pool])
    {:ok, url: url, pool: pool}
  end

  defp ask(pool, options \\ []),
    do: Python.execute_module("dspy.Predict", @qa, "Why?", [pool: pool] ++ options)

  defp parents(spans, root) do
    ids = Map.new(spans, &{&1.id, &1.name})
    Enum.map(spans, &{&1.name, Map.get(ids, &1.parent, &1.parent == root && :outer)})
  end

  test "a call has a span in the application's tracer, with those of Python below it", %{
    pool: pool
  } do
    TestOpenTelemetry.load!()
    {{:ok, prediction}, outer} = TestOpenTelemetry.within("outer", fn -> ask(pool) end)
    # Python's span has the name of the operation too.
    all = TestOpenTelemetry.spans("execute_module") ++ TestOpenTelemetry.spans("execute_module")
    assert prediction.trace == nil
    root = outer.otel_span_id
    call = Enum.find(all, &(&1.attributes["dspex.kind"] == "call"))
    python = Enum.find(all, &(&1.attributes["dspex.kind"] == "python"))
    assert {call.kind, call.status, call.tracer} == {:internal, :unset, {:tracer, :dspex}}
    assert {call.parent, python.parent} == {root, call.id}
    refute call.remote?

    assert Enum.sort(parents(all, root)) ==
             Enum.sort([
               {"execute_module", :outer},
               {"execute_module", "execute_module"},
               {"queue", "execute_module"},
               {"dspy.Predict", "execute_module"},
               {"chat good", "dspy.Predict"}
             ])

    assert Enum.all?(all, &(&1.trace_id == outer.otel_trace_id))
    chat = Enum.find(all, &(&1.name == "chat good"))
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert call.started <= python.started and python.started <= chat.started
    assert chat.ended <= python.ended and python.ended <= call.ended
    refute inspect(all, limit: :infinity, printable_limit: :infinity) =~ "Why?"
  end

  test "the trace of a call has the ids of the application's span", %{pool: pool} do
    TestOpenTelemetry.load!()

    {{:ok, prediction}, outer} =
      TestOpenTelemetry.within("outer", fn -> ask(pool, trace: :metadata) end)

    [call | _rest] = prediction.trace.spans
    assert prediction.trace.id == outer.otel_trace_id
    assert call["parent"] == outer.otel_span_id
    assert call["id"] in for(span <- TestOpenTelemetry.spans("outer"), do: span.id)
  end

  test "an error has its kind, and not its message", %{pool: pool, url: url} do
    TestOpenTelemetry.load!()
    {:error, %Error{kind: :server}} = ask(pool, lm: ModelServer.model(url, "status-503"))
    spans = TestOpenTelemetry.spans("execute_module") ++ TestOpenTelemetry.spans("execute_module")
    chat = Enum.find(spans, &(&1.name == "chat status-503"))
    assert {chat.status, chat.attributes["error.type"]} == {:error, "server"}
    call = List.last(spans)
    assert {call.status, call.attributes["error.type"], call.parent} == {:error, "server", nil}
  end

  test "items of a batch and of a stream are in the one tree", %{pool: pool} do
    TestOpenTelemetry.load!()
    {:ok, _results} = Python.execute_batch("dspy.Predict", @qa, ["a", "b"], pool: pool)
    first = TestOpenTelemetry.spans("stream_batch") ++ TestOpenTelemetry.spans("execute_batch")
    Enum.to_list(Python.stream_batch("dspy.Predict", @qa, ["a", "b"], pool: pool))
    second = TestOpenTelemetry.spans("stream_batch") ++ TestOpenTelemetry.spans("stream_batch")

    for spans <- [first, second] do
      call = List.last(spans)
      python = Enum.find(spans, &(&1.attributes["dspex.kind"] == "python"))
      assert python.parent == call.id
      items = Enum.filter(spans, &(&1.attributes["dspex.kind"] == "item"))
      assert Enum.map(items, & &1.parent) == [python.id, python.id]
      assert Enum.count(spans, &(&1.name == "chat good")) == 2
    end
  end

  test "a call whose process is killed ends as cancelled", %{url: url} do
    TestOpenTelemetry.load!()
    silent = start_pool!(model: ModelServer.model(url, "delay-60000"))
    caller = spawn(fn -> ask(silent, timeout: :infinity) end)
    eventually(fn -> :ets.info(:test_open_telemetry, :size) > 0 end)
    Process.exit(caller, :kill)
    [call] = TestOpenTelemetry.spans("execute_module")
    assert {call.status, call.attributes["error.type"]} == {:error, "cancelled"}
  end

  test "spans of functions that Python calls hang below the call", %{pool: pool} do
    TestOpenTelemetry.load!()

    model = fn _request ->
      {text, _span} = TestOpenTelemetry.within("asks", fn -> "[[ ## answer ## ]]\nwell" end)
      text
    end

    {{:ok, _prediction}, outer} =
      TestOpenTelemetry.within("outer", fn -> ask(pool, lm: {:elixir, model}) end)

    spans = TestOpenTelemetry.spans("outer")
    call = Enum.find(spans, &(&1.attributes["dspex.kind"] == "call"))
    asks = Enum.find(spans, &(&1.name == "asks"))
    assert {asks.parent, asks.trace_id} == {call.id, outer.otel_trace_id}
  end

  test "a call leaves the context and the metadata of its process as they were", %{pool: pool} do
    TestOpenTelemetry.load!()
    Logger.metadata(request_id: "r-1")
    {:ok, _prediction} = ask(pool)
    assert apply(:otel_ctx, :get_current, []) == %{}
    assert Logger.metadata() == [request_id: "r-1"]
  end

  test "the option :traceparent counts more than the current span", %{pool: pool} do
    TestOpenTelemetry.load!()
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    {{:ok, _prediction}, _outer} =
      TestOpenTelemetry.within("outer", fn -> ask(pool, traceparent: header) end)

    call = Enum.find(TestOpenTelemetry.spans("outer"), &(&1.attributes["dspex.kind"] == "call"))

    assert {call.trace_id, call.parent, call.remote?} ==
             {"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", true}
  end

  test "a trace that the sampler drops has no spans, and Python is told", %{pool: pool} do
    TestOpenTelemetry.load!(:dropping)
    {:ok, prediction} = ask(pool, trace: :metadata)
    refute_receive {:otel_span, _span}, 200
    assert [%{"parent" => nil} | _rest] = prediction.trace.spans
  end

  test "the API alone has no spans, and its current span is the parent", %{pool: pool} do
    TestOpenTelemetry.load!(:none)
    {:ok, prediction} = ask(pool, trace: :metadata)
    assert hd(prediction.trace.spans)["parent"] == nil
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    remote =
      apply(:otel_tracer, :from_remote_span, [
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
        1
      ])

    apply(:otel_ctx, :attach, [apply(:otel_tracer, :set_current_span, [%{}, remote])])
    {:ok, prediction} = ask(pool, trace: :metadata)
    assert prediction.trace.id == binary_part(header, 3, 32)
    assert hd(prediction.trace.spans)["parent"] == binary_part(header, 36, 16)
    refute_receive {:otel_span, _span}, 200
  end
end
