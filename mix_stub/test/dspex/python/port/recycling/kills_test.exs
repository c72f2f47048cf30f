defmodule DSPex.Python.Port.Recycling.KillsTest do
  # Looks at the processes of the operating system, and loads the machine.
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}
  alias DSPex.Python.Port.{Connection, Names, PendingCalls, Slots}

  @moduletag :capture_log
  @moduletag :tmp_dir
  @qa "question -> answer"

  # A predecessor that drains is alive, but there is nothing left to take over from it.
  for {when?, busy?} <- [{"has no calls", false}, {"has calls in flight", true}] do
    test "a new Python that is killed while the old one drains and #{when?} is started again" do
      # Started again after the old one has left, or before.
      pool = start_pool!(template: unquote(busy?))
      assert Python.await_pools([pool]) == :ok
      answers = if unquote(busy?), do: for(_ <- 1..2, do: begin_call(pool)), else: []

      assert Python.restart_pool(pool) == :ok
      killed = client(pool)
      signal(pool, "KILL")
      assert eventually(fn -> client(pool) != killed end)
      assert eventually(fn -> whole?(pool, 1, 0, length(answers)) end)

      for answer <- answers, do: assert({:ok, _prediction} = answer.())
      assert eventually(fn -> whole?(pool, 1, 0) end)
    end
  end

  for {size, standby} <- [{1, 0}, {2, 1}] do
    test "a pool of #{size} with standby #{standby} is whole again after random kills",
         %{tmp_dir: marker} do
      kill_at_random(unquote(size), unquote(standby), rounds(2), marker)
    end
  end

  for {size, standby} <- [{1, 0}, {1, 1}, {2, 0}, {2, 1}] do
    @tag :long
    @tag timeout: :infinity
    test "a pool of #{size} with standby #{standby} is whole again after many random kills",
         %{tmp_dir: marker} do
      kill_at_random(unquote(size), unquote(standby), rounds(20), marker)
    end
  end

  # In each round Pythons are killed at random moments while others are replaced, asked for by restart_pool/1 or by
  # themselves after three calls, and while callers make calls.
  defp kill_at_random(size, standby, rounds, marker) do
    seed = seed!()

    pool =
      start_pool!(
        size: size,
        standby: standby,
        template: true,
        max_calls: 3,
        drain_timeout: 1_000,
        python_path: [marker]
      )

    assert Python.await_pools([pool]) == :ok
    ended? = :atomics.new(1, [])
    callers = for _ <- 1..(2 * size), do: Task.async(fn -> call_until(pool, ended?, []) end)

    for round <- 1..rounds do
      restart = if :rand.uniform(3) > 1, do: Task.async(fn -> Python.restart_pool(pool) end)

      for _kill <- 1..:rand.uniform(4) do
        Process.sleep(:rand.uniform(150))
        kill_one(pool, marker)
      end

      if restart, do: assert(Task.await(restart, 60_000) |> restarted?(), seed)
      assert eventually(fn -> every_slot_ready?(pool, size) end), "round #{round}, #{seed}"
    end

    :atomics.put(ended?, 1, 1)
    results = callers |> Task.await_many(60_000) |> List.flatten() |> Enum.uniq()
    for result <- results, do: assert(result in [:right, :worker_died, :replaced], seed)
    assert :right in results, seed

    assert eventually(fn -> whole?(pool, size, standby) end), seed

    # A worker is two processes, itself and its lifeline or launcher, and so is the template process.
    most = 2 * (size + standby + 1)
    assert eventually(fn -> length(marked(marker)) <= most end), seed
    :ok = stop_supervised(pool)
    assert eventually(fn -> marked(marker) == [] end), seed
  end

  # Any process of the pool: workers, spares, those that start or drain, and their launchers and template process.
  defp kill_one(pool, marker) do
    victims =
      case :rand.uniform(4) do
        1 -> marked(marker)
        2 -> for {_number, owner, _worker} <- Names.workers(pool), id = python_of(owner), do: id
        _at_work -> for {_slot, owner} <- slots(pool), id = python_of(owner), do: id
      end

    if victims != [],
      do: System.cmd("/bin/sh", ["-c", "kill -KILL #{Enum.random(victims)} 2>/dev/null"])
  end

  defp python_of(owner) do
    with {:links, links} <- Process.info(owner, :links),
         [port | _] <- Enum.filter(links, &is_port/1),
         {:os_pid, os_pid} <- Port.info(port, :os_pid),
         do: os_pid
  end

  defp slots(pool),
    do:
      for(slot <- 1..8, {owner, _model} <- [Names.lookup(:slot, {pool, slot})], do: {slot, owner})

  defp restarted?(:ok), do: true
  # The new Python was killed before it was ready, and the old one stays.
  defp restarted?({:error, %Error{}}), do: true

  defp every_slot_ready?(pool, size), do: Slots.all_ready?(pool, size)

  # Tells whether the pool has what its options say, and nothing else.
  defp whole?(pool, size, standby, draining \\ 0) do
    workers = for {_number, _owner, worker} <- Names.workers(pool), do: worker
    ready = Enum.filter(workers, & &1.connection.port)
    slots = for %{slot: slot} when slot != nil <- ready, do: slot
    spares = Enum.count(ready, & &1.spare?)

    Slots.all_ready?(pool, size) and Enum.sort(slots) == Enum.to_list(1..size) and
      spares == standby and owners(pool) == size + standby + min(draining, 1) and
      Enum.all?(1..size, fn slot ->
        {owner, _model} = Names.lookup(:slot, {pool, slot})
        Connection.of(pool, slot).owner == owner
      end) and
      Enum.all?(workers, &(PendingCalls.count(&1.connection.pending_calls) == 0 or draining > 0))
  end

  # Calls a model that answers when it is told to.
  defp begin_call(pool) do
    test = self()

    model = fn _request ->
      send(test, {:asked, self()})

      receive do
        :answer -> ScriptedModel.written(answer: "yes")
      end
    end

    call =
      Task.async(fn ->
        Python.execute_module("dspy.Predict", @qa, "Q", pool: pool, lm: {:elixir, model})
      end)

    assert_receive {:asked, runner}, 60_000

    fn ->
      send(runner, :answer)
      Task.await(call, 60_000)
    end
  end

  # Each call returns once; a call without an answer lets Task.await_many/2 fail.
  defp call_until(pool, ended?, results) do
    word = "word#{:rand.uniform(1_000_000)}"

    model = fn _request ->
      Process.sleep(:rand.uniform(30))
      ScriptedModel.written(answer: word)
    end

    result =
      case Python.execute_module("dspy.Predict", @qa, word,
             pool: pool,
             lm: {:elixir, model},
             timeout: 50_000
           ) do
        {:ok, prediction} -> if prediction[:answer] == word, do: :right, else: :wrong
        {:error, %Error{kind: :worker_died}} -> :worker_died
        {:error, %Error{kind: :port_closed}} -> :replaced
        {:error, error} -> {:error, error}
      end

    results = if result in results, do: results, else: [result | results]
    no_late_answer!()
    if :atomics.get(ended?, 1) == 1, do: results, else: call_until(pool, ended?, results)
  end

  defp no_late_answer! do
    receive do
      {tag, answer} when is_reference(tag) -> flunk("a second answer: #{inspect(answer)}")
    after
      0 -> :ok
    end
  end
end
