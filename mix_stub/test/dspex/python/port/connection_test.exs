defmodule DSPex.Python.Port.ConnectionTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Connection, PendingCalls}

  # Starts an owner of pending calls and of a port that reads and never answers.
  defp start_owner(options \\ []) do
    test = self()

    owner =
      spawn(fn ->
        # `:out`, because this program would close the other pipe of a port with input, and so the port.
        port = Port.open({:spawn, "cat > /dev/null"}, [:out, :binary, {:packet, 4}])

        send(
          test,
          {:connection, %Connection{owner: self(), port: port, pending_calls: PendingCalls.new()}}
        )

        own()
      end)

    assert_receive {:connection, connection}, 20_000

    if options[:written] == false,
      do: {owner, %{connection | port: nil}},
      else: {owner, connection}
  end

  # Runs until the test sends the reason to end.
  defp own do
    receive do
      {:end, reason} -> exit(reason)
      _other -> own()
    end
  end

  defp call(connection, timeout \\ 5_000) do
    Connection.call(connection, :ping, [], timeout, System.monotonic_time(:millisecond) + timeout)
  end

  # Returns the answer, and what the call has left behind in its process.
  defp call_in_process(connection) do
    task =
      Task.async(fn ->
        answer = call(connection)
        {answer, Process.info(self(), [:messages, :monitors])}
      end)

    # The call is pending now.
    wait_until(fn -> PendingCalls.count(connection.pending_calls) == 1 end)
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
      {owner, connection} = start_owner()
      task = call_in_process(connection)
      Process.sleep(unquote(wait_ms))
      Process.exit(owner, :kill)

      assert {{:error, %Error{kind: :port_closed, retryable: true}}, left} =
               Task.await(task, 30_000)

      assert left == [messages: [], monitors: []]
    end
  end

  test "a call that its owner has not sent may be made again" do
    {owner, connection} = start_owner(written: false)
    task = call_in_process(connection)
    send(owner, {:end, {:shutdown, :over}})
    assert {:restarting, [messages: [], monitors: []]} = Task.await(task, 30_000)
  end

  test "a call whose owner had ended may be made again" do
    for options <- [[], [written: false]] do
      {owner, connection} = start_owner(options)
      monitor = Process.monitor(owner)
      send(owner, {:end, :normal})
      assert_receive {:DOWN, ^monitor, :process, ^owner, :normal}
      assert call(connection) == :restarting
      assert Process.info(self(), :messages) == {:messages, []}
    end
  end

  test "a call to a closed port may be made again, and leaves nothing behind" do
    {_owner, connection} = start_owner()
    Port.close(connection.port)
    # Answers calls beside the caller, as an owner does that is about to end.
    answering = spawn_link(fn -> answer_all_for_ever(connection.pending_calls) end)

    for _ <- 1..500 do
      assert call(connection) == :restarting
      assert Process.info(self(), [:messages, :monitors]) == [messages: [], monitors: []]
      assert PendingCalls.count(connection.pending_calls) == 0
    end

    Process.unlink(answering)
    Process.exit(answering, :kill)
  end

  test "a call to a closed port whose owner ends at that moment leaves nothing behind" do
    {_owner, %{port: port}} = start_owner()
    Port.close(port)
    test = self()

    for _ <- 1..2_000 do
      owner =
        spawn(fn ->
          calls = PendingCalls.new()
          send(test, {:connection, %Connection{owner: self(), port: port, pending_calls: calls}})
          receive do: (:end -> answer_all(calls))
        end)

      assert_receive {:connection, connection}, 20_000
      send(owner, :end)
      assert call(connection) == :restarting
    end

    # All messages have arrived.
    Process.sleep(50)
    assert Process.info(self(), [:messages, :monitors]) == [messages: [], monitors: []]
  end

  defp answer_all_for_ever(calls) do
    answer_all(calls)
    answer_all_for_ever(calls)
  end

  defp answer_all(calls) do
    for call <- PendingCalls.take_all(calls),
        do:
          :ok =
            Connection.answer(call, {:error, Error.new(:port_closed, "the port's owner ends")})
  end

  test "an answer arrives, at once and later" do
    for wait_ms <- [0, 60] do
      {_owner, connection} = start_owner()
      task = call_in_process(connection)
      Process.sleep(wait_ms)
      [call] = PendingCalls.take_all(connection.pending_calls)
      :ok = Connection.answer(call, {:frame, :erlang.term_to_binary({:r, 1, {:ok, "done"}})})
      assert {{:ok, {:ok, "done"}}, [messages: [], monitors: []]} = Task.await(task, 30_000)
    end
  end

  test "a deadline ends a call, and no process can answer it any more" do
    for timeout <- [1, 60] do
      {_owner, connection} = start_owner()
      test = self()

      task =
        Task.async(fn ->
          answer = call(connection, timeout)
          send(test, {:over, self()})
          receive do: (:look -> {answer, Process.info(self(), [:messages, :monitors])})
        end)

      wait_until(fn -> PendingCalls.count(connection.pending_calls) == 1 end)
      [{id, _caller}] = PendingCalls.callers(connection.pending_calls)
      assert_receive {:over, caller}, 20_000
      assert PendingCalls.count(connection.pending_calls) == 0
      # A process that answers the call takes it out of the table first.
      assert PendingCalls.take(connection.pending_calls, id) == nil
      send(caller, :look)

      assert {{:error, %Error{kind: :timeout, stage: "python"}}, [messages: [], monitors: []]} =
               Task.await(task, 30_000)
    end
  end
end
