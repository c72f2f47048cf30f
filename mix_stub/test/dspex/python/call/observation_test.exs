defmodule DSPex.Python.Call.ObservationTest do
  # Other tests must not see the module :telemetry, which these tests load and remove.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.{ModelServer, Python, TestTelemetry}
  alias DSPex.Python.Call.{CallOptions, Observation, OpenCalls}
  alias DSPex.Python.Error

  @moduletag :capture_log
  @qa "question -> answer"
  # An answer of more than a hundred pieces.
  @long Enum.map_join(1..100, " ", &"word#{&1}")

  setup_all do
    TestTelemetry.load!()
    url = ModelServer.start!()
    pool = start_pool!(model: ModelServer.model(url, "slow-20"))
    {:ok, url: url, pool: pool, silent: silent_pool(url)}
  end

  setup context do
    for pool <- [context.pool, context.silent],
        do: {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)

    TestTelemetry.attach!(for phase <- [:start, :stop, :exception], do: [:dspex, :call, phase])
    :ok
  end

  defp ask(pool, options \\ []),
    do: Python.execute_module("dspy.Predict", @qa, @long, [pool: pool] ++ options)

  defp stream(pool, options \\ []),
    do: Python.stream("dspy.Predict", @qa, @long, [pool: pool] ++ options)

  defp silent_pool(url), do: start_pool!(model: ModelServer.model(url, "delay-60000"))

  defp receive_start do
    assert_receive {[:dspex, :call, :start], measurements, metadata, _pid}, 20_000
    assert is_integer(measurements.system_time) and is_integer(measurements.monotonic_time)
    metadata
  end

  # The only end of a call that has started.
  defp assert_end(started, event, expected, options \\ []) do
    span = started.telemetry_span_context

    assert_receive {[:dspex, :call, ^event], measurements,
                    %{telemetry_span_context: ^span} = metadata, pid},
                   20_000

    assert measurements.duration > 0
    assert Map.take(metadata, Map.keys(started)) == started
    assert Map.take(metadata, Map.keys(expected)) == expected
    assert Process.alive?(pid) or options[:ended]
    eventually(fn -> open() == 0 end)
    refute_received {[:dspex, :call, _event], _measurements, _metadata, _pid}
  end

  defp assert_one_end(event \\ :stop, expected), do: assert_end(receive_start(), event, expected)

  defp open do
    {table, _looking} = :persistent_term.get(OpenCalls)
    :ets.info(table, :size)
  end

  describe "a call has one start and one end" do
    test "with its answer, in the calling process", %{pool: pool} do
      {:ok, _pong} = Python.ping(nil, pool: pool)
      test = self()
      assert_receive {[:dspex, :call, :start], _measurements, started, ^test}
      assert %{pool: ^pool, operation: :ping, module: nil, metadata: %{}} = started
      assert_receive {[:dspex, :call, :stop], _measurements, ended, ^test}
      assert %{result: :ok} = ended
      assert Map.take(ended, Map.keys(started)) == started
    end

    test "with an error of Python, of Elixir's reading, and of its names", %{pool: pool} do
      {:error, _error} = Python.describe_module("dspy.No", pool: pool)
      assert_one_end(%{result: :module_not_found, operation: :describe_module})

      {:error, _error} = ask(pool, tools: [%{name: "stock", function: nil}])
      assert_one_end(%{result: :input, operation: :execute_module})

      {:error, _error} = Python.ping(nil, pool: pool, timout: 1)
      assert_one_end(%{result: :input, operation: :ping})

      {:error, _error} = Python.ping(nil, pool: :nonesuch)
      assert_one_end(%{result: :pool_not_found})
    end

    test "with an exception", %{pool: pool} do
      assert_raise ArgumentError, fn ->
        Python.execute_batch("dspy.Predict", @qa, ["Why?"], pool: pool, buffer: 0)
      end

      assert_one_end(:exception, %{kind: :error, operation: :execute_batch})
    end

    test "at the caller's deadline", %{silent: pool} do
      {:error, %Error{kind: :timeout}} =
        Python.call(:execute_module, ["dspy.Predict", @qa, %{question: @long}, %{}],
          pool: pool,
          timeout: 300
        )

      assert_one_end(%{result: :timeout})
    end

    test "when it is cancelled by its id", %{silent: pool} do
      task = Task.async(fn -> ask(pool, request_id: "r-1", timeout: :infinity) end)
      started = receive_start()

      eventually(fn ->
        cancelled = Python.cancel("r-1", pool: pool)
        assert_cancel_events()
        cancelled == {:ok, 1}
      end)

      assert {:error, %Error{kind: :cancelled}} = Task.await(task, 60_000)
      assert_end(started, :stop, %{result: :cancelled}, ended: true)
    end

    defp assert_cancel_events do
      assert_receive {[:dspex, :call, :start], _measurements, %{operation: :cancel}, _pid}
      assert_receive {[:dspex, :call, :stop], _measurements, %{operation: :cancel}, _pid}
    end

    for reason <- [:kill, :shutdown, :crash] do
      test "when its caller ends by #{reason}", %{silent: pool} do
        caller = spawn(fn -> ask(pool, timeout: :infinity) end)
        started = receive_start()
        Process.exit(caller, unquote(reason))
        assert_end(started, :stop, %{result: :cancelled, operation: :execute_module})
      end
    end

    test "when its task is shut down, and when the process that it is linked to ends", %{
      silent: pool
    } do
      task = Task.async(fn -> ask(pool, timeout: :infinity) end)
      started = receive_start()
      Task.shutdown(task, :brutal_kill)
      assert_end(started, :stop, %{result: :cancelled})

      parent =
        spawn(fn ->
          spawn_link(fn -> ask(pool, timeout: :infinity) end)
          exit_when_told()
        end)

      started = receive_start()
      send(parent, :end)
      assert_end(started, :stop, %{result: :cancelled})
    end

    defp exit_when_told do
      receive do
        :end -> exit(:told)
      end
    end

    test "when its caller ends while Python is started again", %{url: url} do
      pool = silent_pool(url)
      # No owner, no port: the caller waits for a restart.
      [{workers, _needed}] = Registry.lookup(DSPex.Python.Registry, {:workers, pool})
      :ok = Supervisor.terminate_child(workers, {DSPex.Python.Port.Owner, 1})
      caller = spawn(fn -> ask(pool, timeout: :infinity) end)
      started = receive_start()
      Process.exit(caller, :kill)
      assert_end(started, :stop, %{result: :cancelled})
    end

    test "when Python is killed, and when the pool is stopped", %{url: url} do
      pool = silent_pool(url)
      {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
      assert_one_end(%{result: :ok})

      for {stop, kind} <- [
            {fn -> signal(pool, "KILL") end, :worker_died},
            {fn -> stop_supervised!(pool) end, :port_closed}
          ] do
        task = Task.async(fn -> ask(pool, timeout: :infinity) end)
        started = receive_start()
        eventually(fn -> waiting(pool) == 1 end)
        stop.()
        assert {:error, %Error{kind: ^kind}} = Task.await(task, 60_000)
        assert_end(started, :stop, %{result: kind}, ended: true)
      end
    end

    test "for hundreds of callers that are killed at any moment", %{pool: pool} do
      callers =
        for _ <- 1..20, do: spawn(fn -> for _ <- 1..200, do: Python.ping(1, pool: pool) end)

      # All have begun, but for what a busy machine makes of it.
      eventually(fn -> elem(Process.info(self(), :message_queue_len), 1) > 40 end)

      for caller <- callers do
        Process.sleep(1)
        Process.exit(caller, :kill)
      end

      eventually(fn -> not Enum.any?(callers, &Process.alive?/1) and open() == 0 end)
      {starts, ends} = counted({[], []})
      assert length(starts) > 20
      assert Enum.sort(starts) == Enum.sort(ends)
    end

    defp counted({starts, ends}) do
      receive do
        {[:dspex, :call, :start], _, %{telemetry_span_context: span}, _} ->
          counted({[span | starts], ends})

        {[:dspex, :call, :stop], _, %{telemetry_span_context: span}, _} ->
          counted({starts, [span | ends]})
      after
        500 -> {starts, ends}
      end
    end
  end

  describe "a stream has one start and one end for each time that it is read" do
    test "to its last element", %{pool: pool} do
      stream = stream(pool)
      refute_received {[:dspex, :call, :start], _measurements, _metadata, _pid}

      for _ <- 1..2 do
        assert {:prediction, _prediction} = Enum.at(stream, -1)
        assert_one_end(%{result: :ok, operation: :stream_module})
      end
    end

    test "that is halted, at its first element or later", %{pool: pool} do
      for count <- [1, 2, 10] do
        assert [_element | _more] = Enum.take(stream(pool), count)
        # In the process that has halted it, before it goes on.
        test = self()
        started = receive_start()

        assert_received {[:dspex, :call, :stop], _measurements, %{result: :cancelled} = ended,
                         ^test}

        assert ended.telemetry_span_context == started.telemetry_span_context
      end

      refute_received {[:dspex, :call, _event], _measurements, _metadata, _pid}
    end

    test "whose reader raises, throws or exits in its loop", %{pool: pool} do
      for leave <- [fn -> raise "enough" end, fn -> throw(:enough) end, fn -> exit(:enough) end] do
        try do
          Enum.each(stream(pool), fn _element -> leave.() end)
        rescue
          RuntimeError -> :ok
        catch
          _kind, :enough -> :ok
        end

        assert_one_end(%{result: :cancelled})
      end
    end

    test "whose reader ends", %{pool: pool} do
      for reason <- [:kill, :shutdown] do
        reader = begin_reading(pool)
        started = receive_start()
        assert_receive :reading, 20_000
        Process.exit(reader, reason)
        assert_end(started, :stop, %{result: :cancelled, operation: :stream_module})
      end
    end

    defp begin_reading(pool) do
      test = self()
      spawn(fn -> Enum.each(stream(pool), fn _element -> send(test, :reading) end) end)
    end

    test "that ends with an error", %{pool: pool, url: url} do
      assert {:error, %Error{kind: :timeout}} = Enum.at(stream(pool, timeout: 300), -1)
      assert_one_end(%{result: :timeout})

      unauthorized = ModelServer.model(url, "status-401")
      assert {:error, %Error{kind: :auth}} = Enum.at(stream(pool, lm: unauthorized), -1)
      assert_one_end(%{result: :auth})

      assert {:error, %Error{kind: :input}} = Enum.at(stream(pool, tools: [%{name: 1}]), -1)
      assert_one_end(%{result: :input})
    end

    test "whose Python is killed", %{url: url} do
      pool = start_pool!(model: ModelServer.model(url, "slow-50"))

      elements = kill_at_first_chunk(pool, stream(pool))
      assert {:error, %Error{kind: :worker_died}} = List.last(elements)
      assert_one_end(%{result: :worker_died})
    end

    test "whose relay crashes", %{pool: pool} do
      reader = Task.async(fn -> Enum.at(stream(pool), -1) end)
      started = receive_start()
      relay = eventually(fn -> relay_of(reader.pid) end)
      Process.exit(relay, :kill)
      assert {:error, %Error{kind: :internal}} = Task.await(reader, 60_000)
      assert_end(started, :stop, %{result: :internal}, ended: true)
    end

    defp relay_of(reader) do
      {:monitors, monitors} = Process.info(reader, :monitors)
      Keyword.get(monitors, :process)
    end

    test "of a batch, one for each chunk", %{pool: pool} do
      inputs = for _ <- 1..3, do: %{question: "Why?"}

      assert [_one, _two, _three] =
               Enum.to_list(Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool))

      assert_one_end(%{result: :ok, operation: :stream_batch})
    end
  end

  test "a batch that fails as a whole has one end", %{pool: pool} do
    TestTelemetry.attach!([[:dspex, :model, :stop]])
    assert {:error, error} = Python.execute_batch("dspy.Predict", "wrong", ["Why?"], pool: pool)
    assert {error.kind, error.trace} == {:signature, nil}
    assert_one_end(%{result: :signature, operation: :execute_batch})
    batch = Python.stream_batch("dspy.Predict", "wrong", ["Why?"], pool: pool)
    assert [{:error, %Error{kind: :signature}}] = Enum.to_list(batch)
    assert_one_end(%{result: :signature, operation: :stream_batch})
    {:error, _error} = Python.execute_batch("dspy.Predict", @qa, ["Why?"], pool: :nonesuch)
    assert_one_end(%{result: :pool_not_found, worker: nil, usage_known?: false})
  end

  test "calls have their ends also while the process that ends them is started again", %{
    pool: pool
  } do
    task = Task.async(fn -> ask(pool) end)
    started = receive_start()
    ended = Process.whereis(OpenCalls)
    Process.exit(ended, :kill)
    assert {:ok, _prediction} = Task.await(task, 60_000)
    assert_receive {[:dspex, :call, :stop], _measurements, %{result: :ok} = metadata, _pid}
    assert metadata.telemetry_span_context == started.telemetry_span_context
    eventually(fn -> Process.whereis(OpenCalls) not in [nil, ended] end)
  end

  defp detach_all do
    for {_event, id, _function, _config} <- :ets.tab2list(:test_telemetry),
        do: apply(:telemetry, :detach, [id])
  end

  test "a handler of pieces of text observes streams, and no other call", %{pool: pool} do
    detach_all()
    TestTelemetry.attach!([[:dspex, :stream, :chunk]])
    options = CallOptions.new!(pool: pool)

    for operation <- [:stream_module, :stream_program] do
      assert {%Observation{chunks: :none}, _options} = Observation.start(operation, options, %{})
    end

    assert {nil, ^options} = Observation.start(:execute_module, options, %{})
    assert {:prediction, _prediction} = Enum.at(stream(pool), -1)
    assert_received {[:dspex, :stream, :chunk], %{bytes: _bytes}, %{first?: true}, _pid}
  end

  test "a call without a handler is not added, and emits nothing", %{silent: pool} do
    detach_all()

    task = Task.async(fn -> ask(pool) end)
    eventually(fn -> waiting(pool) == 1 end)
    assert open() == 0
    Task.shutdown(task, :brutal_kill)
    eventually(fn -> waiting(pool) == 0 end)
    refute_received {_event, _measurements, _metadata, _pid}
  end
end
