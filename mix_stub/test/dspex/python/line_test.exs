defmodule DSPex.Python.LineTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.{Calls, Error, Line}

  # An owner of calls and of a port that only takes what is written to it.
  defp start_owner(options \\ []) do
    test = self()

    owner =
      spawn(fn ->
        # `:out`: of a port that reads too, this program would close the other pipe, and so the port.
        port = Port.open({:spawn, "cat > /dev/null"}, [:out, :binary, {:packet, 4}])
        send(test, {:line, %Line{owner: self(), port: port, calls: Calls.new()}})
        own()
      end)

    assert_receive {:line, line}, 5_000
    if options[:written] == false, do: {owner, %{line | port: nil}}, else: {owner, line}
  end

  # Until it is told how to end.
  defp own do
    receive do
      {:end, reason} -> exit(reason)
      _other -> own()
    end
  end

  defp call(line, timeout \\ 5_000) do
    Line.call(line, :ping, [], timeout, System.monotonic_time(:millisecond) + timeout)
  end

  # The answer, and what the call has left behind in its process.
  defp call_in_process(line) do
    task =
      Task.async(fn ->
        answer = call(line)
        {answer, Process.info(self(), [:messages, :monitors])}
      end)

    # The line's table has the call now.
    wait_until(fn -> Calls.count(line.calls) == 1 end)
    task
  end

  defp wait_until(done?) do
    unless done?.() do
      Process.sleep(1)
      wait_until(done?)
    end
  end

  for {when_told, wait_ms} <- [{"at once", 0}, {"later", 60}] do
    test "a call whose owner is killed #{when_told} is answered" do
      {owner, line} = start_owner()
      task = call_in_process(line)
      Process.sleep(unquote(wait_ms))
      Process.exit(owner, :kill)

      assert {{:error, %Error{kind: :port_closed, retryable: true}}, left} = Task.await(task)
      assert left == [messages: [], monitors: []]
    end
  end

  test "a call that its owner has not sent may be made again" do
    {owner, line} = start_owner(written: false)
    task = call_in_process(line)
    send(owner, {:end, {:shutdown, :over}})
    assert {:restarting, [messages: [], monitors: []]} = Task.await(task)
  end

  test "so may a call whose owner had ended" do
    for options <- [[], [written: false]] do
      {owner, line} = start_owner(options)
      monitor = Process.monitor(owner)
      send(owner, {:end, :normal})
      assert_receive {:DOWN, ^monitor, :process, ^owner, :normal}
      assert call(line) == :restarting
      assert Process.info(self(), :messages) == {:messages, []}
    end
  end

  test "so may a call that its port has not taken, and nothing is left of it" do
    {_owner, line} = start_owner()
    Port.close(line.port)
    # As an owner does that is about to end, beside the caller.
    answering = spawn_link(fn -> answer_all_for_ever(line.calls) end)

    for _ <- 1..500 do
      assert call(line) == :restarting
      assert Process.info(self(), [:messages, :monitors]) == [messages: [], monitors: []]
      assert Calls.count(line.calls) == 0
    end

    Process.unlink(answering)
    Process.exit(answering, :kill)
  end

  test "and one whose owner ends at that moment" do
    {_owner, %{port: port}} = start_owner()
    Port.close(port)
    test = self()

    for _ <- 1..2_000 do
      owner =
        spawn(fn ->
          calls = Calls.new()
          send(test, {:line, %Line{owner: self(), port: port, calls: calls}})
          receive do: (:end -> answer_all(calls))
        end)

      assert_receive {:line, line}, 5_000
      send(owner, :end)
      assert call(line) == :restarting
    end

    # What was on its way has come.
    Process.sleep(50)
    assert Process.info(self(), [:messages, :monitors]) == [messages: [], monitors: []]
  end

  defp answer_all_for_ever(calls) do
    answer_all(calls)
    answer_all_for_ever(calls)
  end

  defp answer_all(calls) do
    for call <- Calls.take_all(calls),
        do: :ok = Line.answer(call, {:error, Error.new(:port_closed, "the port's owner ends")})
  end

  test "an answer comes through, at once and later" do
    for wait_ms <- [0, 60] do
      {_owner, line} = start_owner()
      task = call_in_process(line)
      Process.sleep(wait_ms)
      [call] = Calls.take_all(line.calls)
      :ok = Line.answer(call, {:frame, :erlang.term_to_binary({:r, 1, {:ok, "done"}})})
      assert {{:ok, {:ok, "done"}}, [messages: [], monitors: []]} = Task.await(task)
    end
  end

  test "a deadline ends a call, and nobody can answer it any more" do
    for timeout <- [1, 60] do
      {_owner, line} = start_owner()
      test = self()

      task =
        Task.async(fn ->
          answer = call(line, timeout)
          send(test, {:over, self()})
          receive do: (:look -> {answer, Process.info(self(), [:messages, :monitors])})
        end)

      wait_until(fn -> Calls.count(line.calls) == 1 end)
      [{id, _caller}] = Calls.callers(line.calls)
      assert_receive {:over, caller}, 5_000
      assert Calls.count(line.calls) == 0
      # Who answers it takes it out of the table first.
      assert Calls.take(line.calls, id) == nil
      send(caller, :look)

      assert {{:error, %Error{kind: :timeout, stage: "python"}}, [messages: [], monitors: []]} =
               Task.await(task)
    end
  end
end
