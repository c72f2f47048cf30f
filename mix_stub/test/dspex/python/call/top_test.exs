defmodule DSPex.Python.Call.TopTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureIO

  alias DSPex.Python
  alias DSPex.Python.Call.Top

  test "shows frames with rates and calls" do
    pool = start_pool!()
    {:ok, _pong} = Python.ping(nil, pool: pool)

    shown =
      capture_io(fn ->
        assert Top.run(frames: 2, interval: 50, pools: [pool]) == :ok
      end)

    assert [first, second] = Regex.scan(~r/UTC  pools 1 .*/, shown) |> List.flatten()
    assert first =~ "tokens/s -"
    assert second =~ ~r/tokens\/s 0  \$\/h 0.0000  errors\/min 0/
    assert shown =~ inspect(pool)
    assert shown =~ ~r/AGE +STAGE/
  end

  test "ends with a line, and with the end of the input" do
    for input <- ["q\n", "\n", ""] do
      shown = capture_io(input, fn -> assert Top.run(interval: 60_000, pools: []) == :ok end)
      assert shown =~ "no pools"
    end
  end

  test "refuses wrong options" do
    assert_raise ArgumentError, ~r/unknown option :intervall.*:interval/, fn ->
      Top.run(intervall: 1)
    end

    assert_raise ArgumentError, ~r/expected :interval/, fn -> Top.run(interval: 0) end
    assert_raise ArgumentError, ~r/expected :frames/, fn -> Top.run(frames: "2") end
    assert_raise ArgumentError, ~r/expected options/, fn -> apply(Top, :run, [5]) end

    assert_raise ArgumentError, ~r/no pool :generl .*mean :general/, fn ->
      Top.run(pools: [:generl])
    end

    assert_raise ArgumentError, ~r/no pool :nope on this node/, fn -> Python.status([:nope]) end

    assert_raise ArgumentError, ~r/list of names of pools, or :all, got :general/, fn ->
      Python.status(:general)
    end
  end

  # In a real IEx, in a real terminal.
  @tag skip: System.find_executable("tmux") == nil
  test "is refreshed in place in IEx until q is typed" do
    # The path of a socket has at most 107 bytes.
    name = "dspex_top_#{System.pid()}_#{System.unique_integer([:positive])}"
    socket = Path.join(System.tmp_dir!(), name)

    paths =
      for path <- Path.wildcard(Path.join(Mix.Project.build_path(), "lib/*/ebin")),
          do: ["-pa ", path, " "]

    command = "iex #{paths} --erl '-kernel shell_history disabled'"
    tmux(socket, ["-f", "/dev/null", "new-session", "-d", "-x", "140", "-y", "30", command])

    on_exit(fn ->
      System.cmd("tmux", ["-S", socket, "kill-server"], stderr_to_stdout: true)
      File.rm(socket)
    end)

    wait_for(socket, ~r/iex\(1\)>/)
    type(socket, "Application.ensure_all_started(:dspex) |> elem(0)")
    wait_for(socket, ~r/iex\(2\)>/)
    type(socket, "DSPex.Python.top(interval: 200)")
    first = wait_for(socket, ~r/(\d\d:\d\d:\d\d) UTC  pools 0/)
    # In place: the title stands in the first line, once, and changes.
    eventually(fn ->
      screen = screen(socket)
      length(Regex.scan(~r/UTC  pools/, screen)) == 1 and title(screen) != title(first)
    end)

    assert screen(socket) =~ "no pools"
    type(socket, "q")
    wait_for(socket, ~r/:ok\s+iex\(3\)>/)
  end

  defp title(screen), do: screen |> String.split("\n") |> Enum.find(&(&1 =~ "UTC  pools"))

  defp type(socket, text), do: tmux(socket, ["send-keys", "-t", "0", text, "Enter"])
  defp screen(socket), do: tmux(socket, ["capture-pane", "-p", "-t", "0"])

  defp wait_for(socket, pattern) do
    eventually(fn ->
      screen = screen(socket)
      if screen =~ pattern, do: screen
    end)
  end

  defp tmux(socket, arguments) do
    {output, status} = System.cmd("tmux", ["-S", socket | arguments], stderr_to_stdout: true)
    assert {status, arguments} == {0, arguments}, output
    output
  end
end
