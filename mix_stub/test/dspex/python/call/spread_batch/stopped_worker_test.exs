defmodule DSPex.Python.Call.SpreadBatch.StoppedWorkerTest do
  # What runs in all workers of a pool goes on when one of them is stopped (SIGSTOP): it neither answers nor dies by itself.
  # Of 100 items in two workers, 50 were errors of kind `timeout`.
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.{Error, ScriptedModel}

  @moduletag skip: if(not File.dir?("/proc"), do: "the system has no /proc")

  @qa "question -> answer"
  # The pings would find the worker after 30 s.
  @timeout 25_000
  # How many items of a part run at the same time, and how many it has, with four at the same time for each worker.
  @at_once 2
  @part 8

  setup context do
    pool = start_pool!([size: context[:size] || 2] ++ Map.get(context, :options, []))
    assert Python.await_pools([pool], 120_000) == :ok
    {:ok, pool: pool}
  end

  defp inputs(count), do: for(number <- 1..count, do: "Q#{number}")
  defp examples(count), do: for(number <- 1..count, do: %{question: "Q#{number}", answer: "A"})

  defp program!(pool) do
    {:ok, program} = Python.create_program(@qa, pool: pool)
    program
  end

  # Runs `work` with a model of a provider, and stops a worker when the model has been asked some times.
  defp while_stopped(pool, work) do
    url = ModelServer.start!()
    {:ok, %{"pid" => pid}} = Python.ping(nil, pool: pool)
    options = [lm: ModelServer.model(url, "delay-50"), timeout: @timeout]
    running = Task.async(fn -> work.(options) end)
    eventually(fn -> length(ModelServer.keys(url)) >= 20 end)
    signal_process(pid, "STOP")
    Task.await(running, 60_000)
  end

  for size <- [2, 4] do
    @tag size: size
    test "of #{size}: a batch has all results, in order", %{pool: pool, size: size} do
      capture_log(fn ->
        inputs = inputs(100 * size)
        options = &([pool: pool] ++ &1)

        assert {:ok, results} =
                 while_stopped(
                   pool,
                   &Python.execute_batch("dspy.Predict", @qa, inputs, options.(&1))
                 )

        assert length(results) == 100 * size
        for result <- results, do: assert({:ok, _prediction} = result)
      end)
    end

    @tag size: size
    test "of #{size}: a stream has each result once", %{pool: pool, size: size} do
      capture_log(fn ->
        results =
          while_stopped(pool, fn options ->
            "dspy.Predict"
            |> Python.stream_batch(@qa, inputs(100 * size), [pool: pool] ++ options)
            |> Enum.sort()
          end)

        assert Enum.map(results, &elem(&1, 0)) == Enum.to_list(0..(100 * size - 1))
        for {_index, result} <- results, do: assert({:ok, _prediction} = result)
      end)
    end

    @tag size: size
    test "of #{size}: a batch and an evaluation of a program have all results",
         %{pool: pool, size: size} do
      program = program!(pool)

      capture_log(fn ->
        assert {:ok, results} =
                 while_stopped(
                   pool,
                   &Python.execute_program_batch(program, inputs(100 * size), &1)
                 )

        for result <- results, do: assert({:ok, _prediction} = result)
        eventually(fn -> Python.await_pools([pool]) == :ok end)

        assert {:ok, evaluation} =
                 while_stopped(
                   pool,
                   &Python.evaluate_program(program, examples(100 * size), "exact_match", &1)
                 )

        assert %{count: count, failed: 0} = evaluation
        assert count == 100 * size
      end)
    end

    # A function must not run twice for an item.
    for {signal, most} <- [{"STOP", @at_once}, {"KILL", 2 * @at_once}] do
      @tag size: size
      test "of #{size}: with a function, what was in flight at #{signal} fails, and nothing else",
           %{pool: pool, size: size} do
        test = self()
        called = :counters.new(100 * size, [])

        model = fn request ->
          [_all, number] = Regex.run(~r/Q(\d+)\n/, List.last(request.messages).content)
          :counters.add(called, String.to_integer(number), 1)
          send(test, :called)
          Process.sleep(50)
          ScriptedModel.written(answer: "A")
        end

        {:ok, %{"pid" => pid}} = Python.ping(nil, pool: pool)
        options = [pool: pool, lm: {:elixir, model}, max_concurrency: 4 * size, timeout: @timeout]

        capture_log(fn ->
          batch =
            Task.async(fn ->
              Python.execute_batch("dspy.Predict", @qa, inputs(100 * size), options)
            end)

          for _ <- 1..(8 * size), do: assert_receive(:called, 30_000)
          signal_process(pid, unquote(signal))
          assert {:ok, results} = Task.await(batch, 60_000)
          {done, failed} = Enum.split_with(results, &match?({:ok, _prediction}, &1))
          for failed <- failed, do: assert({:error, %Error{kind: :worker_died}} = failed)

          # Of each part that ran in this worker those at the same time; if it was killed, for each also the one before it: a
          # function's answer that is written to a Python that has died ends the port, and what that Python had written and nobody
          # had read is gone. A worker has two parts, or three when several have ended at once.
          parts = for {{:error, _}, index} <- Enum.with_index(results), do: div(index, @part)

          assert Enum.all?(Enum.frequencies(parts), fn {_part, count} ->
                   count <= unquote(most)
                 end)

          assert parts |> Enum.uniq() |> length() <= 3
          assert length(done) + length(failed) == 100 * size
          for number <- 1..(100 * size), do: assert(:counters.get(called, number) <= 1)
        end)
      end
    end
  end

  test "a batch is not disturbed by workers that only take long", %{pool: pool} do
    asked = :counters.new(1, [])

    slow = fn _request ->
      :counters.add(asked, 1, 1)
      Process.sleep(4_000)
      ScriptedModel.written(answer: "A")
    end

    options = [pool: pool, lm: {:elixir, slow}, timeout: 60_000]
    assert {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs(40), options)
    for result <- results, do: assert({:ok, _prediction} = result)
    assert :counters.get(asked, 1) == 40
  end
end
