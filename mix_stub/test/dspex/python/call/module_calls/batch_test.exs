defmodule DSPex.Python.Call.ModuleCalls.BatchTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  @signature "question -> answer"

  # Calls `before`, and answers each question with itself.
  defp echo(before \\ fn _question -> :ok end) do
    {:elixir,
     fn request ->
       [_all, question] = Regex.run(~r/item (\w+)/, ScriptedModel.text(request))

       with :ok <- before.(question),
            do: ScriptedModel.written(answer: question)
     end}
  end

  defp items(range), do: for(number <- range, do: %{question: "item #{number}"})

  defp answers(results), do: for({:ok, prediction} <- results, do: prediction[:answer])

  test "returns results in the order of the inputs, however long each takes" do
    slow_first = fn question -> if question == "1", do: Process.sleep(100), else: :ok end

    assert {:ok, results} =
             Python.execute_batch("dspy.Predict", @signature, items(1..20), lm: echo(slow_first))

    assert answers(results) == for(number <- 1..20, do: "#{number}")
  end

  test "each item has a timeout of its own" do
    endless = fn question -> if question == "2", do: Process.sleep(:infinity), else: :ok end

    batch = fn item_timeout ->
      options = [lm: echo(endless), item_timeout: item_timeout, timeout: :infinity]
      Python.execute_batch("dspy.Predict", @signature, items(1..3), options)
    end

    in_time? = &match?({:ok, [{:ok, _one}, _two, {:ok, _three}]}, &1)
    {{:ok, [one, two, three]}, item_timeout} = at_deadline(250, batch, in_time?)
    assert answers([one, three]) == ["1", "3"]
    assert {:error, %Error{kind: :timeout, message: message}} = two
    assert message =~ "#{item_timeout} ms"
  end

  test "an item that has not begun at the deadline has a timeout in the queue" do
    test = self()

    endless = fn _question ->
      send(test, {:asked, self()})
      Process.sleep(:infinity)
    end

    batch = fn timeout ->
      options = [lm: echo(endless), max_concurrency: 2, timeout: timeout]
      result = Python.execute_batch("dspy.Predict", @signature, items(1..5), options)
      {result, [take_message(:asked), take_message(:asked)]}
    end

    in_time? = fn {result, asked} -> python_answered?(result) and nil not in asked end
    {{{:ok, results}, _asked}, _timeout} = at_deadline(250, batch, in_time?)

    stages = for {:error, %Error{kind: :timeout} = error} <- results, do: error.details["stage"]
    assert Enum.sort(stages) == ["model", "model", "queue", "queue", "queue"]
  end

  test "collects errors, or ends with the first error" do
    broken = fn
      "2" -> {:error, {:auth, "no"}}
      "3" -> Process.sleep(:infinity)
      _other -> :ok
    end

    collecting = fn item_timeout ->
      options = [lm: echo(broken), item_timeout: item_timeout, timeout: :infinity]
      Python.execute_batch("dspy.Predict", @signature, items(1..3), options)
    end

    late? = &match?({:error, %Error{kind: :timeout}}, &1)
    in_time? = fn {:ok, [one, two, _three]} -> not (late?.(one) or late?.(two)) end
    {{:ok, results}, _item_timeout} = at_deadline(250, collecting, in_time?)

    assert [{:ok, _one}, {:error, %Error{kind: :auth}}, {:error, %Error{kind: :timeout}}] =
             results

    assert {:ok, [one, two | others]} =
             Python.execute_batch("dspy.Predict", @signature, items(1..40),
               lm: echo(broken),
               on_error: :fail_fast,
               max_concurrency: 3
             )

    assert match?({:ok, _prediction}, one) or match?({:error, %Error{kind: :cancelled}}, one)
    assert {:error, %Error{kind: :auth}} = two
    cancelled = for {:error, %Error{kind: :cancelled} = error} <- others, do: error.message
    assert length(cancelled) > 30
    assert hd(cancelled) =~ "item 1 failed"
  end

  test "wrong options are named in the error" do
    for {options, part} <- [
          {[on_error: :stop], ~s|expected "collect" or "fail_fast" at opts.on_error, got :stop|},
          {[item_timeout: 0], "opts.item_timeout"},
          {[max_concurrency: 257], "opts.max_concurrency"}
        ] do
      assert {:error, %Error{kind: :input} = error} =
               Python.execute_batch("dspy.Predict", @signature, items(1..2), options)

      assert error.message =~ part
    end
  end

  test "a thousand items do not delay other calls" do
    pool = start_pool!()
    asked = :counters.new(1, [])

    model = fn _request ->
      :counters.add(asked, 1, 1)
      ScriptedModel.written(answer: "a")
    end

    batch =
      Task.async(fn ->
        Python.execute_batch("dspy.Predict", @signature, items(1..1_000),
          pool: pool,
          lm: {:elixir, model},
          max_concurrency: 64,
          timeout: :infinity
        )
      end)

    eventually(fn -> :counters.get(asked, 1) > 0 end)
    for _ <- 1..20, do: assert({:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000))
    # All of them were answered before most of the items were begun.
    assert :counters.get(asked, 1) < 1_000
    assert {:ok, results} = Task.await(batch, 60_000)
    assert length(answers(results)) == 1_000
  end

  test "programs can be executed for many inputs too" do
    {:ok, program} = Python.create_program(signature: @signature, modules: ["dspy.Predict"])

    assert {:ok, results} = Python.execute_program_batch(program, items(1..10), lm: echo())
    assert answers(results) == for(number <- 1..10, do: "#{number}")
  end

  describe "a stream of results" do
    test "emits each result as soon as it exists" do
      test = self()

      waits = fn question ->
        if question == "1" do
          send(test, {:waiting, self()})
          receive(do: (:go_on -> :ok))
        else
          :ok
        end
      end

      stream = Python.stream_batch("dspy.Predict", @signature, items(1..5), lm: echo(waits))

      [last | _others] =
        seen =
        Enum.reduce(stream, [], fn result, seen ->
          seen = [result | seen]

          if length(seen) == 4 do
            receive do
              {:waiting, model} -> send(model, :go_on)
            end
          end

          seen
        end)

      assert {0, {:ok, first}} = last
      assert first[:answer] == "1"
      assert seen |> Enum.map(&elem(&1, 0)) |> Enum.sort() == [0, 1, 2, 3, 4]
    end

    test "reads inputs lazily, and ends with its reader" do
      test = self()

      inputs =
        Stream.map(1..1_000_000, fn number ->
          if number in [1, 2_001], do: send(test, {:taken, number})
          %{question: "item #{number}"}
        end)

      stream = Python.stream_batch("dspy.Predict", @signature, inputs, lm: echo())
      assert length(Enum.take(stream, 10)) == 10
      assert_received {:taken, 1}
      refute_received {:taken, 2_001}
    end

    test "counts indices across chunks" do
      quick = {:elixir, fn _ -> ScriptedModel.written(answer: "a") end}
      inputs = Stream.map(1..1_200, &%{question: "item #{&1}"})

      indices =
        "dspy.Predict"
        |> Python.stream_batch(@signature, inputs, lm: quick, timeout: 60_000)
        |> Enum.map(&elem(&1, 0))

      assert Enum.sort(indices) == Enum.to_list(0..1_199)
    end

    test "emits errors of items, and of the whole batch" do
      stream = Python.stream_batch("dspy.Predict", @signature, [%{qestion: "typo"}], lm: echo())
      assert [{0, {:error, %Error{kind: :input}}}] = Enum.to_list(stream)
      stream = Python.stream_batch("dspy.Predcit", @signature, items(1..2))
      assert [{:error, %Error{kind: :module_not_found}}] = Enum.to_list(stream)
    end

    test "has back-pressure" do
      pool = start_pool!()
      asked = :counters.new(1, [])
      counting = fn _question -> :counters.add(asked, 1, 1) end

      stream =
        Python.stream_batch("dspy.Predict", @signature, items(1..200),
          pool: pool,
          lm: echo(counting),
          buffer: 5,
          max_concurrency: 2
        )

      Enum.reduce_while(stream, 0, fn _result, count ->
        if count == 3 do
          Process.sleep(300)
          # The results that were read, those in the buffer, and one for each worker.
          assert :counters.get(asked, 1) < 30
          {:halt, count}
        else
          {:cont, count + 1}
        end
      end)
    end
  end
end
