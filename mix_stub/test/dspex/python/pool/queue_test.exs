defmodule DSPex.Python.Pool.QueueTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  @qa "question -> answer"

  defp ask(pool, options) do
    options = Keyword.merge([pool: pool, timeout: 60_000], options)
    Python.execute_module("dspy.Predict", @qa, "Why?", options)
  end

  # Begins a call in a process of its own, whose model answers when it is told to.
  defp begin(pool, name, options \\ []) do
    test = self()

    model = fn _request ->
      send(test, {:asked, name, self()})
      receive do: (:go_on -> ScriptedModel.written(answer: "done"))
    end

    Task.async(fn -> ask(pool, [lm: {:elixir, model}] ++ options) end)
  end

  defp asked(timeout \\ 30_000) do
    assert_receive {:asked, name, model}, timeout
    {name, model}
  end

  defp queued(pool) do
    {:ok, metrics} = Python.metrics(pool: pool)
    metrics["pool"]["queued"]
  end

  defp start_ready!(options) do
    pool = start_pool!(options)
    assert Python.await_pools([pool]) == :ok
    pool
  end

  test "at most max_in_flight calls run in each worker; the others wait, in the order of their turns" do
    pool = start_ready!(size: 2, standby: 0, max_in_flight: 2)
    calls = for number <- 1..4, do: begin(pool, {:first, number})
    running = for _ <- 1..4, do: asked()
    # Many of one caller, and then one of another.
    many = for number <- 1..10, do: begin(pool, {:many, number}, caller: "many")
    eventually(fn -> queued(pool) == 10 end)
    one = begin(pool, :one, caller: "one")
    eventually(fn -> queued(pool) == 11 end)
    refute_received {:asked, _name, _model}

    [{_name, first} | _others] = running
    send(first, :go_on)
    {second, model} = asked()
    send(model, :go_on)
    {third, model} = asked()
    # Of the two callers each has had a turn.
    assert :one in [second, third]
    send(model, :go_on)

    for {_name, model} <- tl(running), do: send(model, :go_on)

    for _ <- 1..9 do
      {_name, model} = asked()
      send(model, :go_on)
    end

    for result <- Task.await_many(calls ++ many ++ [one], 60_000),
        do: assert({:ok, _prediction} = result)

    assert queued(pool) == 0
  end

  test "a call beyond max_queue is refused at once, and says when to try again" do
    pool = start_ready!(max_in_flight: 1, max_queue: 2)
    running = begin(pool, :running)
    {:running, model} = asked()
    waiting = for number <- 1..2, do: begin(pool, number)
    eventually(fn -> queued(pool) == 2 end)

    for _ <- 1..20 do
      assert {:error, %Error{kind: :overloaded, retryable: true} = error} = ask(pool, [])
      assert error.message =~ "2 calls wait already"
      assert error.details["retry_after"] >= 1
    end

    # Calls that ask no model wait for nobody.
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
    assert {:ok, %{"pool" => %{"overloaded" => 20}}} = Python.metrics(pool: pool)
    send(model, :go_on)

    for _ <- 1..2 do
      {_name, model} = asked()
      send(model, :go_on)
    end

    for result <- Task.await_many([running | waiting], 60_000),
        do: assert({:ok, _prediction} = result)
  end

  test "a caller that gives up or dies leaves the queue, and Python never sees its call" do
    pool = start_ready!(max_in_flight: 1)
    running = begin(pool, :running)
    {:running, model} = asked()
    killed = begin(pool, :killed)
    Process.unlink(killed.pid)
    late = begin(pool, :late, timeout: 500)
    last = begin(pool, :last)
    assert {:error, %Error{kind: :timeout, stage: "queue"}} = Task.await(late, 30_000)
    eventually(fn -> queued(pool) == 2 end)
    Process.exit(killed.pid, :kill)
    eventually(fn -> queued(pool) == 1 end)

    send(model, :go_on)
    {:last, model} = asked()
    send(model, :go_on)
    for call <- [running, last], do: assert({:ok, _prediction} = Task.await(call, 30_000))
    refute_received {:asked, _name, _model}
    {:ok, metrics} = Python.metrics(pool: pool)
    assert metrics["operations"]["execute_module"]["calls"] == 2
  end

  # Its functions held the places for which their own calls waited, until the deadline, or for ever.
  test "a call that a function makes for a call in flight has a place beyond max_in_flight" do
    pool = start_ready!(size: 2, standby: 0, max_in_flight: 1)
    answer = fn _request -> ScriptedModel.written(answer: "inner") end

    nested = fn ->
      with {:ok, prediction} <- ask(pool, lm: {:elixir, answer}, timeout: 30_000),
           do: prediction[:answer]
    end

    text = fn -> ScriptedModel.written(answer: nested.()) end
    of_task = fn -> nested |> Task.async() |> Task.await(30_000) end

    # A model, one of whose task, and a model that is a stream, whose elements are made in turn.
    models = [
      fn _request -> text.() end,
      fn _request -> ScriptedModel.written(answer: of_task.()) end,
      fn _request -> Stream.map([text], & &1.()) end,
      # A function of a function.
      fn _request ->
        {:ok, prediction} = ask(pool, lm: {:elixir, fn _request -> text.() end}, timeout: 30_000)
        ScriptedModel.written(answer: prediction[:answer])
      end
    ]

    calls =
      for model <- models ++ models, do: Task.async(fn -> ask(pool, lm: {:elixir, model}) end)

    for call <- calls do
      assert {:ok, prediction} = Task.await(call, 60_000)
      assert prediction[:answer] == "inner"
    end
  end

  test "a call that a function makes for a call of another pool waits" do
    pool = start_ready!(max_in_flight: 1)
    other = start_ready!([])
    first = begin(pool, :first)
    {:first, model} = asked()

    ask_pool = fn _request ->
      {:ok, prediction} = ask(pool, lm: {:elixir, fn _ -> ScriptedModel.written(answer: "b") end})
      ScriptedModel.written(answer: prediction[:answer])
    end

    second = Task.async(fn -> ask(other, lm: {:elixir, ask_pool}) end)
    eventually(fn -> queued(pool) == 1 end)
    send(model, :go_on)
    assert {:ok, _prediction} = Task.await(first, 60_000)
    assert {:ok, prediction} = Task.await(second, 60_000)
    assert prediction[:answer] == "b"
  end

  test "a queue that ends loses no call" do
    pool = start_ready!(max_in_flight: 1)
    running = begin(pool, :running)
    {:running, model} = asked()
    waiting = for number <- 1..3, do: begin(pool, number)
    eventually(fn -> queued(pool) == 3 end)
    [{queue, _value}] = Registry.lookup(DSPex.Python.Registry, {:queue, pool})
    Process.exit(queue, :kill)
    eventually(fn -> queued(pool) == 3 end)
    send(model, :go_on)

    for _ <- 1..3 do
      {_number, model} = asked()
      send(model, :go_on)
    end

    for result <- Task.await_many([running | waiting], 60_000),
        do: assert({:ok, _prediction} = result)
  end

  test "calls of a session wait for its worker, and do not hold up others" do
    pool = start_ready!(size: 2, standby: 0, max_in_flight: 1)
    {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: pool, session_id: "mine")
    # A call of the session holds its worker, another call the other one.
    of_session = begin(pool, :held, session_id: "mine")
    {:held, model_of_session} = asked()
    elsewhere = begin(pool, :elsewhere)
    {:elsewhere, model} = asked()
    second_of_session = begin(pool, :second, session_id: "mine")
    eventually(fn -> queued(pool) == 1 end)
    other = begin(pool, :other)
    eventually(fn -> queued(pool) == 2 end)

    # The other worker has room: the call behind that of the session runs there.
    send(model, :go_on)
    {:other, model} = asked()
    assert queued(pool) == 1
    send(model_of_session, :go_on)
    {:second, model_of_session} = asked()
    for model <- [model, model_of_session], do: send(model, :go_on)

    for call <- [of_session, elsewhere, second_of_session, other],
        do: assert({:ok, _prediction} = Task.await(call, 30_000))
  end
end
