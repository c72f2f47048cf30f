defmodule DSPex.Python.Port.SendQueueTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Port.{PendingCall, PendingCalls, SendQueue}
  alias DSPex.Python.Wire.Protocol

  # More than the driver of a port takes from a program that does not read.
  @large_bytes 4 * 1024 * 1024

  setup do
    {:ok, calls: PendingCalls.new(), request: Protocol.encode_request(:ping, [])}
  end

  test "writes entries in their order, and skips calls that are not pending any more", context do
    %{calls: calls, request: request} = context
    # Sends back what it reads.
    port = Port.open({:spawn, "cat"}, [:binary, {:packet, 4}])
    [first, second] = for _ <- 1..2, do: PendingCalls.add(calls, make_ref())
    for id <- [first, second], do: :ok = PendingCalls.unsent(calls, id)
    %PendingCall{} = PendingCalls.take(calls, first)

    queue =
      Enum.reduce(
        [{:call, first, request}, {:call, second, request}, {:frame, "last"}],
        %SendQueue{},
        &SendQueue.add(&2, &1)
      )

    assert SendQueue.count(queue) == 3
    assert %SendQueue{timer: nil} = queue = SendQueue.flush(queue, port, calls)
    assert SendQueue.count(queue) == 0
    assert_receive {^port, {:data, frame}}, 20_000
    assert {:C, ^second, :dspy_bridge, :ping, []} = :erlang.binary_to_term(frame)
    assert_receive {^port, {:data, "last"}}, 20_000
    assert %PendingCall{sent?: true} = PendingCalls.take(calls, second)
    Port.close(port)
  end

  test "keeps entries while the port is busy, and asks for one retry at a time", context do
    %{calls: calls, request: request} = context
    port = Port.open({:spawn, "sleep 60"}, [:out, :binary, {:packet, 4}])
    id = PendingCalls.add(calls, make_ref())
    :ok = PendingCalls.unsent(calls, id)
    large = {:frame, :binary.copy("x", @large_bytes)}

    queue =
      Enum.reduce([large, large, {:call, id, request}], %SendQueue{}, &SendQueue.add(&2, &1))

    queue = SendQueue.flush(queue, port, calls)
    assert SendQueue.count(queue) > 0
    assert_receive :flush, 20_000
    queue = queue |> SendQueue.retried() |> SendQueue.flush(port, calls)
    queue = SendQueue.flush(queue, port, calls)
    assert_receive :flush, 20_000
    refute_receive :flush, 50
    assert %PendingCall{sent?: false} = PendingCalls.take(calls, id)
    assert SendQueue.count(SendQueue.clear(queue)) == 0
    # The port breaks when its program is killed.
    Process.unlink(port)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    :ok = DSPex.TestPython.signal_process(os_pid, "KILL")
  end

  test "a closed port takes everything", context do
    port = Port.open({:spawn, "cat"}, [:binary, {:packet, 4}])
    Port.close(port)
    queue = SendQueue.add(%SendQueue{}, {:frame, "late"})
    assert SendQueue.count(SendQueue.flush(queue, port, context.calls)) == 0
  end
end
