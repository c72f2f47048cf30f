defmodule DSPex.Nodes do
  @moduledoc """
  Starts further nodes of Erlang for tests, on loopback. Tests control them by their standard input and output, so
  they live on when they are disconnected.
  """

  alias DSPex.TestPython

  @host "127.0.0.1"
  # As in `config/test.exs`, but without a pool.
  @quiet [logger: [level: :emergency]]

  @doc """
  Gives this node a name, so that it can have connections to others, and a cookie of its own.
  """
  def start_distribution! do
    if not Node.alive?() do
      # Only the program `erl` starts it by itself.
      {_text, 0} = System.cmd(epmd(), ["-daemon"], env: [{"ERL_EPMD_ADDRESS", @host}])
      Application.put_env(:kernel, :inet_dist_use_interface, {127, 0, 0, 1})
      {:ok, _pid} = Node.start(name("test"), :longnames)
      Node.set_cookie(:"cookie_#{System.pid()}")
    end

    :ok
  end

  defp epmd do
    erts = "erts-#{:erlang.system_info(:version)}"
    System.find_executable("epmd") || Path.join([:code.root_dir(), erts, "bin", "epmd"])
  end

  @doc """
  Takes the name from this node again.
  """
  def stop_distribution! do
    Application.delete_env(:kernel, :inet_dist_use_interface)
    Node.stop()
  end

  @doc """
  Starts nodes with the application `:dspex`, and returns them. They end with the test, or with its module.

  `then` is called with each of them, at the same time.
  """
  def start!(names, then \\ fn _node -> :ok end) do
    nodes =
      names
      |> Enum.map(fn name -> Task.async(fn -> tap(start_one!(name), then) end) end)
      |> Task.await_many(120_000)

    ExUnit.Callbacks.on_exit(fn -> Enum.each(nodes, &stop!/1) end)
    nodes
  end

  defp start_one!(name) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

    {:ok, peer, node} =
      :peer.start(%{
        name: name |> name() |> to_string() |> String.split("@") |> hd() |> String.to_charlist(),
        host: String.to_charlist(@host),
        longnames: true,
        connection: :standard_io,
        wait_boot: 60_000,
        args:
          [~c"-setcookie", to_charlist(Node.get_cookie()), ~c"-start_epmd", ~c"false"] ++
            [~c"-kernel", ~c"inet_dist_use_interface", ~c"{127,0,0,1}"] ++
            [~c"-kernel", ~c"prevent_overlapping_partitions", ~c"false"] ++ paths
      })

    for {application, values} <- @quiet, {key, value} <- values do
      :ok = :peer.call(peer, :application, :set_env, [application, key, value])
    end

    {:ok, _started} = :peer.call(peer, :application, :ensure_all_started, [:logger], 60_000)
    {:ok, _started} = :peer.call(peer, :application, :ensure_all_started, [:dspex], 60_000)
    true = Node.connect(node)
    %{peer: peer, node: node}
  end

  @doc """
  Calls a function on a node.
  """
  def call(%{peer: peer}, module, function, args, timeout \\ 60_000),
    do: :peer.call(peer, module, function, args, timeout)

  @doc """
  Starts a pool on a node, and waits until it can be called.
  """
  def start_pool!(node, pool, options \\ []) do
    options =
      Keyword.merge(
        [python: TestPython.interpreter(), model: :embedded, stop_timeout: 0],
        options
      )

    {:ok, _pid} = call(node, DSPex.Python, :start_pool, [pool, options])
    :ok = call(node, DSPex.Python, :await_pools, [[pool], 60_000])
  end

  @doc """
  Waits until this node, or `from`, sees pools of exactly these nodes.
  """
  def await_members!(pool, nodes, from \\ nil) do
    TestPython.eventually(fn -> Enum.sort(members(pool, from)) == Enum.sort(nodes) end)
  end

  defp members(pool, nil), do: DSPex.Python.Pool.Membership.nodes(pool)
  defp members(pool, from), do: call(from, DSPex.Python.Pool.Membership, :nodes, [pool])

  @doc """
  Ends a node in an orderly way; one that has ended already is no fault.
  """
  def stop!(%{peer: peer}) do
    :peer.stop(peer)
  catch
    :exit, _ended -> :ok
  end

  @doc """
  Kills a node at once, with its process of the operating system.
  """
  def kill!(node) do
    os_pid = node |> call(:os, :getpid, []) |> to_string()
    TestPython.signal_process(os_pid, "KILL")
  end

  @doc """
  Returns ids of sessions, as many of each node as asked.
  """
  def sessions_of(pool, node, count) do
    1
    |> Stream.iterate(&(&1 + 1))
    |> Stream.map(&"session #{&1}")
    |> Stream.filter(&(DSPex.Python.Cluster.home(pool, &1) == node))
    |> Enum.take(count)
  end

  defp name(name), do: :"dspex_#{name}_#{System.pid()}@#{@host}"
end
