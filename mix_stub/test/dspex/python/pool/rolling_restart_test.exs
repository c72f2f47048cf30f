defmodule DSPex.Python.Pool.RollingRestartTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.Error
  alias DSPex.Python.Pool.RollingRestart

  @moduletag :capture_log
  @qa "question -> answer"

  defp ready!(pool) do
    {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
    os_pid(pool)
  end

  defp ask(pool, options),
    do: Python.execute_module("dspy.Predict", @qa, "Q", [pool: pool, timeout: 60_000] ++ options)

  defp ping_until(pool, done?, count \\ 0) do
    {:ok, _pong} = Python.ping(nil, pool: pool)
    if :atomics.get(done?, 1) == 1, do: count, else: ping_until(pool, done?, count + 1)
  end

  test "replaces Python without a gap, and calls in flight end in the old one" do
    pool = start_pool!()
    first = ready!(pool)
    test = self()

    model = fn _request ->
      send(test, {:asked, self()})

      receive do
        :answer -> "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
      end
    end

    call = Task.async(fn -> ask(pool, lm: {:elixir, model}) end)
    assert_receive {:asked, runner}, 60_000
    done? = :atomics.new(1, [])
    callers = for _ <- 1..4, do: Task.async(fn -> ping_until(pool, done?) end)

    assert Python.restart_pool(pool) == :ok
    assert os_pid(pool) != first
    assert alive?(first)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    :atomics.put(done?, 1, 1)
    assert Enum.all?(Task.await_many(callers, 60_000), &(&1 > 0))

    send(runner, :answer)
    assert {:ok, prediction} = Task.await(call, 60_000)
    assert prediction[:answer] == "yes"
    eventually(fn -> not alive?(first) and owners(pool) == 1 end)
  end

  test "a stream, and the pieces of a model function, continue in the old Python" do
    pool = start_pool!()
    first = ready!(pool)
    test = self()
    words = for number <- 1..40, do: "word#{number} "

    pieces = fn _request ->
      Stream.concat(["[[ ## answer ## ]]\n"], words)
      |> Stream.with_index()
      |> Stream.map(fn {piece, index} ->
        if index == 10 do
          send(test, {:half, self()})

          receive do
            :go_on -> :ok
          end
        end

        piece
      end)
    end

    reader =
      Task.async(fn ->
        "dspy.Predict"
        |> Python.stream(@qa, "Q",
          pool: pool,
          lm: {:elixir, pieces},
          buffer: 4,
          timeout: 60_000
        )
        |> Enum.to_list()
      end)

    assert_receive {:half, runner}, 60_000
    assert Python.restart_pool(pool) == :ok
    assert os_pid(pool) != first
    send(runner, :go_on)
    elements = Task.await(reader, 60_000)
    assert {:prediction, prediction} = List.last(elements)
    assert prediction[:answer] == words |> Enum.join() |> String.trim()
    # The pieces came as pieces.
    chunks = for {:chunk, "answer", text} <- elements, do: text
    assert length(chunks) > 20
    assert Enum.join(chunks) |> String.trim() == prediction[:answer]
  end

  test "the new Python has the model that was configured last, and without a store no session" do
    url = ModelServer.start!()
    pool = start_pool!(model: nil, store: false)
    {provider, options} = ModelServer.model(url, "slow-1")
    {:ok, _model} = Python.configure_lm(provider, options, pool: pool, timeout: 60_000)
    {:ok, program} = Python.create_program([signature: @qa], pool: pool)
    assert Python.restart_pool(pool) == :ok
    assert {:ok, prediction} = ask(pool, [])
    assert prediction.model == "openai/slow-1"

    assert {:error, %Error{kind: :session_not_found}} = Python.execute_program(program, "Q")
  end

  @tag :tmp_dir
  test "returns the error of a Python that cannot be started, and the old one stays", %{
    tmp_dir: folder
  } do
    work = Path.join(folder, "work")
    File.mkdir!(work)
    pool = start_pool!(cd: work)
    first = ready!(pool)
    File.rmdir!(work)

    started = "a new python is being started for pool #{inspect(pool)}: restart_pool/1 was called"
    replaced = "python of pool #{inspect(pool)} is replaced by a new one"

    for _ <- 1..2 do
      {{:error, %Error{kind: :missing_dependency, message: message}}, log} =
        with_log(fn -> Python.restart_pool(pool) end)

      assert message =~ "does not exist"
      assert {ready!(pool), owners(pool)} == {first, 1}
      assert log =~ started
      refute log =~ replaced
      refute log =~ "pool #{inspect(pool)} has no python"

      assert [_before, _after] =
               String.split(
                 log,
                 "the new python of pool #{inspect(pool)} cannot be started, and the old one stays: #{message}"
               )
    end

    File.mkdir!(work)
    {:ok, log} = with_log(fn -> Python.restart_pool(pool) end)
    assert ready!(pool) != first
    assert log =~ ~r/#{Regex.escape(started)}.*#{Regex.escape(replaced)}/s
  end

  test "several at once, and one while Python is being started, leave one Python" do
    pool = start_pool!()
    assert Python.restart_pool(pool) == :ok
    first = ready!(pool)
    restarts = for _ <- 1..3, do: Task.async(fn -> Python.restart_pool(pool) end)
    assert Task.await_many(restarts, 120_000) == [:ok, :ok, :ok]
    assert ready!(pool) != first
    eventually(fn -> owners(pool) == 1 end)
  end

  # Both were `:ok`, and there was no pool.
  test "a pool that is being stopped is not restarted" do
    pool = :"pool_#{System.unique_integer([:positive])}"
    options = [python: interpreter(), model: :embedded, size: 2, stop_timeout: 60_000]
    {:ok, _pid} = Python.start_pool(pool, options)
    on_exit(fn -> Python.stop_pool(pool) end)
    assert Python.await_pools([pool]) == :ok
    test = self()

    model = fn _request ->
      send(test, {:asked, self()})
      receive do: (:answer -> "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")
    end

    call = Task.async(fn -> ask(pool, lm: {:elixir, model}) end)
    assert_receive {:asked, runner}, 60_000
    # One that has begun before the stop, and one afterwards.
    workers = owners(pool)
    before = Task.async(fn -> Python.restart_pool(pool) end)
    eventually(fn -> owners(pool) > workers end)
    stop = Task.async(fn -> Python.stop_pool(pool) end)
    eventually(fn -> match?({:error, _refused}, Python.ping(nil, pool: pool)) end)
    assert {:error, %Error{kind: :pool_not_found} = error} = Python.restart_pool(pool)
    assert error.message == "pool #{inspect(pool)} is being stopped, and takes no further calls"
    assert Task.await(before, 60_000) == {:error, error}
    send(runner, :answer)
    assert {:ok, _prediction} = Task.await(call, 60_000)
    assert Task.await(stop, 60_000) == :ok
  end

  test "a pool that ends while it is restarted is an error" do
    for size <- [1, 2] do
      pool = start_pool!(size: size)
      assert Python.await_pools([pool]) == :ok
      workers = owners(pool)
      restart = Task.async(fn -> Python.restart_pool(pool) end)
      eventually(fn -> owners(pool) > workers end)
      stop_supervised!(pool)
      assert {:error, %Error{kind: :pool_not_found}} = Task.await(restart, 60_000)
    end
  end

  test "a successor that is killed while it starts has another one started" do
    pool = start_pool!()
    first = ready!(pool)
    before = worker_pids(pool)
    restart = Task.async(fn -> Python.restart_pool(pool) end)
    eventually(fn -> worker_pids(pool) -- before != [] end)
    for owner <- worker_pids(pool) -- before, do: Process.exit(owner, :kill)
    assert Task.await(restart, 120_000) == :ok
    assert ready!(pool) != first
  end

  defp worker_pids(pool) do
    [{workers, _needed}] = Registry.lookup(DSPex.Python.Registry, {:workers, pool})

    for {_id, pid, _type, _modules} when is_pid(pid) <- Supervisor.which_children(workers),
        do: pid
  end

  test "a pool that is not there is not found" do
    assert {:error, %{kind: :pool_not_found}} = Python.restart_pool(:nonesuch)
    assert {:error, %{kind: :pool_not_found}} = RollingRestart.restart(:nonesuch)
  end
end
