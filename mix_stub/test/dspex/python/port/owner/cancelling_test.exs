defmodule DSPex.Python.Port.Owner.CancellingTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python

  setup do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}, active: false])
    {:ok, port} = :inet.port(listener)

    # A model that takes requests and never answers.
    model =
      {:openai,
       [
         model: "silent",
         api_base: "http://127.0.0.1:#{port}/v1",
         api_key: "test-key-7f3a",
         num_retries: 0
       ]}

    pool = start_pool!(model: model)
    # The deadlines below must not include the start.
    {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
    {:ok, pool: pool, listener: listener}
  end

  test "the end of a caller closes its request to the model", %{
    pool: pool,
    listener: listener
  } do
    caller = spawn(fn -> ask(pool, :infinity) end)
    request = accepted(listener)
    Process.exit(caller, :kill)
    assert read_to_the_end(request) == :closed
    assert eventually(fn -> in_flight(pool) == 0 end)
  end

  test "a deadline of Elixir alone closes the request to the model too", %{
    pool: pool,
    listener: listener
  } do
    # Python gets no timeout, as if its own clock or loop had failed.
    attempt = fn timeout ->
      result = Python.call(:execute_module, arguments(), pool: pool, timeout: timeout)
      {result, :gen_tcp.accept(listener, 0)}
    end

    in_time? = &match?({_result, {:ok, _request}}, &1)
    {{result, {:ok, request}}, _timeout} = at_deadline(500, attempt, in_time?)
    assert {:error, %Python.Error{kind: :timeout}} = result
    assert read_to_the_end(request) == :closed
  end

  test "a call can be cancelled by its id from any process", %{pool: pool, listener: listener} do
    task = Task.async(fn -> ask(pool, :infinity, request_id: "r-1") end)
    request = accepted(listener)
    assert Python.cancel("r-2", pool: pool) == {:ok, 0}
    assert Python.cancel("r-1", pool: pool) == {:ok, 1}
    assert {:error, %Python.Error{kind: :cancelled} = error} = Task.await(task, 30_000)
    assert error.details["request_id"] == "r-1"
    assert read_to_the_end(request) == :closed
    assert Python.cancel("r-1", pool: pool) == {:ok, 0}
    assert {:error, %Python.Error{kind: :input}} = Python.cancel(7, pool: pool)
  end

  test "the death of callers does not cancel calls that have ended", %{pool: pool} do
    for number <- 1..50, do: {:ok, %{"payload" => ^number}} = Python.ping(number, pool: pool)

    callers =
      for _ <- 1..20, do: spawn(fn -> for n <- 1..1_000, do: Python.ping(n, pool: pool) end)

    for caller <- callers, do: Process.exit(caller, :kill)
    assert {:ok, %{"payload" => :alive}} = Python.ping(:alive, pool: pool)
  end

  defp arguments, do: ["dspy.Predict", "question -> answer", %{question: "Why?"}, %{}]

  defp ask(pool, timeout, options \\ []) do
    options = [pool: pool, timeout: timeout] ++ options
    Python.execute_module("dspy.Predict", "question -> answer", "Why?", options)
  end

  defp accepted(listener) do
    {:ok, socket} = :gen_tcp.accept(listener, 20_000)
    {:ok, _first_bytes} = :gen_tcp.recv(socket, 0, 20_000)
    socket
  end

  defp read_to_the_end(socket) do
    case :gen_tcp.recv(socket, 0, 20_000) do
      {:ok, _more} -> read_to_the_end(socket)
      {:error, reason} -> reason
    end
  end

  defp in_flight(pool) do
    {:ok, metrics} = Python.metrics(pool: pool)
    metrics["operations"]["execute_module"]["in_flight"]
  end
end
