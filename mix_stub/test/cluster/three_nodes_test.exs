defmodule DSPex.Cluster.ThreeNodesTest do
  # Three nodes with one PostgreSQL under load: one is killed and comes back, then one is cut off and goes on alone. What was
  # acknowledged is compared with what is in the store. `make cluster` runs it and prints its figures.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.{ClusterLoad, Nodes, Python}
  alias DSPex.Python.Cluster

  @root Path.expand("../../..", __DIR__)
  @pool {:cluster, :served}
  @sessions 24
  @phase_ms 8_000
  # 48 clients; with shorter pauses this machine is busy with them, and the figures say how busy.
  @pause_ms 2_000

  describe "the checker" do
    @turn %{session: "s", conversation: "c", question: "q1", outcome: {:ok, "a"}}

    test "finds nothing in a right history" do
      unknown = %{@turn | question: "q2", outcome: {:error, :timeout}}
      for turns <- [["q1"], ["q1", "q2"]], do: assert([] == check([@turn, unknown], turns))
    end

    test "finds a turn that is lost, doubled or invented" do
      assert [{:lost, @turn}] == check([@turn], [])
      assert [{:doubled, "q1"}] == check([@turn], ["q1", "q1"])
      assert [{:invented, "q3"}] == check([@turn], ["q1", "q3"])
    end

    defp check(history, turns), do: ClusterLoad.check(history, %{{"s", "c"} => turns})
  end

  @tag :cluster
  @tag timeout: 600_000
  test "three nodes, one killed, one cut off: nothing acknowledged is lost or doubled" do
    url = start_postgresql!()
    Nodes.start_distribution!()
    on_exit(&Nodes.stop_distribution!/0)
    start_pool! = &Nodes.start_pool!(&1, :served, store: url)
    [a, b, c] = nodes = Nodes.start!(["a", "b", "c"], start_pool!)
    names = Enum.map(nodes, & &1.node)
    for one <- nodes, other <- names, do: Nodes.call(one, Node, :connect, [other])
    for from <- [nil | nodes], do: Nodes.await_members!(:served, names, from)

    programs =
      for number <- 1..@sessions do
        spec = %{signature: "question -> answer", history: true}
        session = "session #{number}"
        {:ok, program} = Python.create_program(spec, pool: @pool, session_id: session)
        program
      end

    for node <- [a, b], do: :ok = Nodes.call(node, ClusterLoad, :start, [programs, @pause_ms])
    Process.sleep(@phase_ms)

    # Killed under load.
    homes = homes(programs)
    moved = Enum.filter(programs, &(homes[&1.session_id] == c.node))
    assert moved != []
    :net_kernel.monitor_nodes(true)
    in_flight = for program <- moved, do: hold(program)
    Nodes.kill!(c)
    killed = c.node
    assert_receive {:nodedown, ^killed}, 30_000
    down_at = now()

    answered =
      for task <- in_flight do
        assert {:error, %{kind: :worker_died}} = Task.await(task, 30_000)
        now() - down_at
      end

    next =
      moved
      |> Enum.map(&Task.async(fn -> ClusterLoad.turn(&1, "after", "after the kill") end))
      |> Task.await_many(60_000)

    for turn <- next, do: assert({:ok, _node} = turn.outcome)
    after_kill = homes(programs)
    for {session, home} <- homes, home != killed, do: assert(after_kill[session] == home)
    Process.sleep(@phase_ms)

    # Another one joins, and takes its share.
    [d] = Nodes.start!(["d"], start_pool!)
    for node <- [a, b], do: Nodes.call(node, Node, :connect, [d.node])
    three = [a.node, b.node, d.node]
    for from <- [nil, a, b, d], do: Nodes.await_members!(:served, three, from)
    assert d.node in Map.values(homes(programs))
    Process.sleep(@phase_ms)

    # Cut off from the others: each half has its own clients, which go on with the same conversations.
    cut_at = System.system_time(:millisecond)
    cut(b, [a, d, %{node: node()}])
    Nodes.await_members!(:served, [b.node], b)
    Nodes.await_members!(:served, [a.node, d.node], a)
    Process.sleep(@phase_ms)
    healed_at = System.system_time(:millisecond)
    heal(b, [a, d, %{node: node()}])
    for from <- [nil, a, b, d], do: Nodes.await_members!(:served, three, from)
    Process.sleep(@phase_ms)

    history = next ++ Enum.flat_map([a, b], &Nodes.call(&1, ClusterLoad, :stop, [], 180_000))
    turns = stored(programs, history)
    assert ClusterLoad.check(history, turns) == []

    in_split =
      Enum.filter(history, &(&1.at in cut_at..healed_at and match?({:ok, _}, &1.outcome)))

    # Both halves have answered, each on its own nodes.
    nodes_in_split = in_split |> Enum.map(&elem(&1.outcome, 1)) |> Enum.uniq()
    assert to_string(b.node) in nodes_in_split and length(nodes_in_split) >= 2

    report(history, answered, next, homes, moved)
  end

  # A call that is in flight while its node is killed.
  defp hold(program) do
    test = self()

    model = fn _request ->
      send(test, :asked)
      Process.sleep(:infinity)
    end

    task =
      Task.async(fn ->
        Python.execute_program(program, "Held?",
          conversation: "held",
          lm: {:elixir, model},
          timeout: 60_000
        )
      end)

    assert_receive :asked, 30_000
    task
  end

  defp homes(programs),
    do: Map.new(programs, &{&1.session_id, Cluster.home(:served, &1.session_id)})

  # With another cookie no connection comes back by itself.
  defp cut(node, others) do
    for other <- others do
      true = Nodes.call(node, :erlang, :set_cookie, [other.node, :cut])
      Nodes.call(node, :erlang, :disconnect_node, [other.node])
    end
  end

  defp heal(node, others) do
    cookie = Node.get_cookie()
    for other <- others, do: true = Nodes.call(node, :erlang, :set_cookie, [other.node, cookie])

    for other <- others,
        do: eventually(fn -> Nodes.call(node, Node, :connect, [other.node]) == true end)
  end

  defp stored(programs, history) do
    program = Map.new(programs, &{&1.session_id, &1})

    history
    |> Enum.map(&{&1.session, &1.conversation})
    |> Enum.uniq()
    |> Map.new(fn {session, conversation} = where ->
      case Python.conversation(program[session], conversation, pool: @pool) do
        {:ok, %{"turns" => turns}} -> {where, Enum.map(turns, & &1["question"])}
        {:error, _not_begun} -> {where, []}
      end
    end)
  end

  defp report(history, answered, next, homes, moved) do
    acknowledged = Enum.filter(history, &match?({:ok, _node}, &1.outcome))
    errors = history |> Enum.flat_map(& &1.errors) |> Enum.frequencies()
    ms = acknowledged |> Enum.map(& &1.ms) |> Enum.sort()

    IO.puts("""

    turns acknowledged: #{length(acknowledged)}, not acknowledged: #{length(history) - length(acknowledged)}, lost or doubled: 0
    errors on the way, asked again: #{inspect(errors)}
    sessions: #{map_size(homes)}, of the killed node: #{length(moved)}, others that moved: 0
    calls in flight on the killed node answered after nodedown within: #{Enum.max(answered)} ms
    next call of its sessions: median #{next |> Enum.map(& &1.ms) |> median()} ms, longest #{next |> Enum.map(& &1.ms) |> Enum.max()} ms
    a turn under load: median #{median(ms)} ms
    """)
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  defp now, do: System.monotonic_time(:millisecond)

  # The server of the tests in Python, which ends with its standard input.
  defp start_postgresql! do
    program = """
    import sys
    from tests.store import postgresql
    with postgresql.Server() as server:
        print(server.url, flush=True)
        sys.stdin.read()
    """

    port =
      Port.open({:spawn_executable, interpreter()}, [
        :binary,
        :exit_status,
        line: 1_000,
        cd: @root,
        args: ["-c", program],
        env: [{~c"PYTHONPATH", to_charlist(@root)}]
      ])

    assert_receive {^port, {:data, {:eol, url}}}, 120_000
    url
  end
end
