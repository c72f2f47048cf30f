defmodule DSPex.Python.Line do
  @moduledoc false

  # What a caller needs to make a call of its own: it writes its call to the port itself, and waits for the answer, which
  # the owner of the port (DSPex.Python.PortClient) passes on. So a call is two messages and not four, and its terms are
  # encoded and decoded where they are needed.
  #
  # What the port does not take at once, or not yet because Python is being started, the owner sends later.

  alias DSPex.Python.{Calls, Error, Protocol}
  alias DSPex.Python.Calls.Call

  # Python ends the work at the caller's timeout and says where the time went. This side gives it that much longer, so
  # that its answer is the one that normally arrives.
  @grace_ms 45
  # The owner is watched by those only who have waited so long: a monitor costs both sides as much as a small call does.
  @unwatched_ms 20
  # The longest that `receive` takes.
  @longest_ms 0xFFFFFFFF

  @enforce_keys [:owner, :port, :calls]
  defstruct [:owner, :port, :calls, predecessors: []]

  @typedoc """
  The port is `nil` while no call may be written to it. The predecessors are lines of Pythons that are being replaced by
  this one, and still work.
  """
  @type t :: %__MODULE__{
          owner: pid(),
          port: port() | nil,
          calls: Calls.t(),
          predecessors: [t()]
        }

  @doc """
  Has callers find the line of a pool by `of/1`.

  It stands among the persistent terms, where it is read without a copy: one of a table is copied for each call, and the
  counters of the references in it go from core to core. To replace it makes the system look through all processes, but
  that happens only when a Python starts or ends.
  """
  @spec publish(atom(), t()) :: :ok
  def publish(pool, line), do: :persistent_term.put({__MODULE__, pool}, line)

  @doc """
  Has callers find none.
  """
  @spec withdraw(atom()) :: :ok
  def withdraw(pool) do
    :persistent_term.erase({__MODULE__, pool})
    :ok
  end

  @doc """
  Gives the line of a pool; `nil` while it has none. Its owner may have ended: calls tell.
  """
  @spec of(atom()) :: t() | nil
  def of(pool), do: :persistent_term.get({__MODULE__, pool}, nil)

  @doc """
  Calls an operation and waits for its answer, until `deadline` (monotonic ms).

  `:restarting` if the owner of the port ended before the call was sent: Python has not seen it, so it may be made again.
  """
  @spec call(t(), atom(), [term()], timeout(), integer() | :infinity) ::
          {:ok, term()} | {:error, Error.t()} | :restarting
  def call(%__MODULE__{} = line, operation, args, timeout, deadline) do
    request = Protocol.encode_request(operation, args)

    # No alias, which costs as much as sending both messages: whoever takes the call out of the table answers it, so no
    # answer comes that is not waited for.
    tag = make_ref()

    case send_call(line, tag, request) do
      {:written, id} ->
        receive do
          {^tag, answer} -> read(answer)
        after
          min(timeout, @unwatched_ms) ->
            from = {:written, tag, Process.monitor(line.owner)}
            wait(line, id, from, timeout, deadline)
        end

      {:handed_over, id, monitor} ->
        wait(line, id, {:handed_over, tag, monitor}, timeout, deadline)

      :closed ->
        :restarting
    end
  end

  @doc """
  Writes a frame to a port, from any process; `false` if the port is busy.
  """
  @spec command(port(), iodata()) :: boolean()
  def command(port, frame), do: Port.command(port, frame, [:nosuspend])

  @doc """
  Answers a call, which must have been taken out of the table.
  """
  @spec answer(Call.t(), {:frame, binary()} | {:error, Error.t()}) :: :ok
  def answer(%Call{tag: {:startup, _operation}}, _answer), do: :ok

  def answer(%Call{tag: tag, caller: caller}, answer) do
    send(caller, {tag, answer})
    :ok
  end

  defp send_call(line, tag, request) do
    id = Calls.add(line.calls, tag)
    if Calls.watch(line.calls), do: send(line.owner, :watch_callers)
    write(line, id, tag, request)
  rescue
    # The table is gone with its owner.
    ArgumentError -> :closed
  end

  defp write(line, id, tag, request) do
    if line.port != nil and command(line.port, Protocol.frame(id, request)) do
      {:written, id}
    else
      Calls.unsent(line.calls, id)
      # From before it is told, so that its end is not missed.
      monitor = Process.monitor(line.owner)
      send(line.owner, {:send_call, id, request})
      {:handed_over, id, monitor}
    end
  rescue
    # The port is closed.
    ArgumentError -> take_back(line, id, tag)
  end

  # Nobody else may answer it any more, and no message of it may stay.
  defp take_back(line, id, tag) do
    unless taken?(line.calls, id) do
      # Its owner is answering all calls at this moment, or has just ended.
      monitor = Process.monitor(line.owner)

      receive do
        {^tag, _answer} -> :ok
        {:DOWN, ^monitor, :process, _owner, _reason} -> :ok
      end

      Process.demonitor(monitor, [:flush])
    end

    :closed
  end

  defp taken?(calls, id) do
    Calls.take(calls, id) != nil
  rescue
    # The table is gone with its owner.
    ArgumentError -> false
  end

  defp wait(line, id, {_way, tag, monitor} = from, timeout, deadline) do
    result =
      receive do
        {^tag, answer} -> read(answer)
        {:DOWN, ^monitor, :process, _owner, reason} -> owner_ended(reason, from)
      after
        left_ms(deadline) -> time_over(line, id, from, timeout)
      end

    Process.demonitor(monitor, [:flush])
    result
  end

  defp time_over(line, id, from, timeout) do
    case Calls.take(line.calls, id) do
      # Answered at this moment.
      nil ->
        answered(from)

      call ->
        if call.sent?, do: cancel(line, id)
        {stage, cause} = silence(line, call)
        {:error, Error.timeout(timeout, stage, cause)}
    end
  rescue
    # The owner ends, and has answered all calls.
    ArgumentError -> answered(from)
  end

  defp answered({_way, tag, monitor} = from) do
    receive do
      {^tag, answer} -> read(answer)
      {:DOWN, ^monitor, :process, _owner, reason} -> owner_ended(reason, from)
    end
  end

  defp read({:frame, frame}), do: Protocol.decode_answer(frame)
  defp read({:error, _error} = error), do: error

  # It answers all calls before it ends, so that one without an answer came after that. But of an owner that was killed
  # those who begin to watch it later are told `:noproc` too; their call may have been sent.
  defp owner_ended(reason, {way, _tag, _monitor}) do
    case {reason, way} do
      {:noproc, :handed_over} -> :restarting
      {orderly, _way} when orderly in [:normal, :shutdown] -> :restarting
      {{:shutdown, _reason}, _way} -> :restarting
      _crash -> {:error, Error.new(:port_closed, "the port's owner crashed")}
    end
  end

  defp cancel(line, id) do
    frame = Protocol.cancel_frame(id)
    # Through the owner if the port is busy, or if the call went that way.
    unless line.port != nil and command(line.port, frame),
      do: send(line.owner, {:send_frame, frame})
  rescue
    ArgumentError -> :closed
  end

  # Where the time of a call without an answer went, and why.
  defp silence(%{port: nil}, %Call{sent?: false}), do: {"start", "python is still being started"}
  defp silence(_line, %Call{sent?: false}), do: {"send", "python does not read"}
  defp silence(_line, _call), do: {"python", "python has not answered"}

  defp left_ms(:infinity), do: :infinity

  defp left_ms(deadline) do
    (deadline + @grace_ms - System.monotonic_time(:millisecond)) |> max(0) |> min(@longest_ms)
  end
end
