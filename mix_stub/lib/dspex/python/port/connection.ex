defmodule DSPex.Python.Port.Connection do
  @moduledoc false

  # What a caller needs to call Python: the port, to which the caller writes its call itself, and the table of pending
  # calls. The owner of the port (DSPex.Python.Port.Owner) passes the answer on. So a call is two messages instead of
  # four, and its terms are encoded and decoded in the process that uses them.
  #
  # The owner sends a call later that the port does not take at once, or not yet because Python is being started.

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{PendingCall, PendingCalls, Quarantine}
  alias DSPex.Python.Wire.{Limits, Protocol, Timeout}

  # Python ends the work at the caller's timeout and says where the time went. Elixir waits this much longer, so that
  # Python's answer normally arrives.
  @grace_ms 45
  # A caller monitors the owner only after this time: a monitor costs both processes as much as a small call does.
  @unmonitored_ms 20

  @enforce_keys [:owner, :port, :pending_calls]
  defstruct [
    :owner,
    :port,
    :pending_calls,
    :quarantine,
    :worker,
    :waiting,
    size: 1,
    max_in_flight: :infinity,
    max_queue: 0,
    max_request_bytes: Limits.defaults().max_request_bytes
  ]

  @typedoc """
  The port is `nil` while no call may be written to it. `worker` is the number of the worker, `size` how many workers the
  pool has, `max_in_flight` how many calls the worker may have at the same time, `waiting` counts the calls that wait for
  the pool (DSPex.Python.Pool.Queue), and `max_queue` is how many may.
  """
  @type t :: %__MODULE__{
          owner: pid(),
          port: port() | nil,
          pending_calls: PendingCalls.t(),
          quarantine: Quarantine.t() | nil,
          worker: pos_integer() | nil,
          size: pos_integer(),
          max_in_flight: pos_integer() | :infinity,
          waiting: :atomics.atomics_ref() | nil,
          max_queue: non_neg_integer(),
          max_request_bytes: pos_integer()
        }

  @doc """
  Publishes the connection of a slot of a pool, so that callers find it by `of/2`.

  A persistent term is read without a copy. A row of a table would be copied for each call, and the reference counters
  in it would move from core to core. Replacing a persistent term scans all processes, but that happens only when a
  Python starts or ends.
  """
  @spec publish(atom(), pos_integer(), t()) :: :ok
  def publish(pool, slot, connection),
    do: :persistent_term.put({__MODULE__, pool, slot}, connection)

  @doc """
  Removes the connection of a slot of a pool.
  """
  @spec withdraw(atom(), pos_integer()) :: :ok
  def withdraw(pool, slot) do
    :persistent_term.erase({__MODULE__, pool, slot})
    :ok
  end

  @doc """
  Returns the connection of a slot of a pool, or `nil`. Its owner may have ended; `call/5` notices that.
  """
  @spec of(atom(), pos_integer()) :: t() | nil
  def of(pool, slot), do: :persistent_term.get({__MODULE__, pool, slot}, nil)

  @doc """
  Counts the calls in flight of a connection; `nil` if its owner has ended.
  """
  @spec in_flight(t()) :: non_neg_integer() | nil
  def in_flight(connection), do: PendingCalls.count(connection.pending_calls)

  @doc """
  Tells whether this Python seems to be silent: a call has run out without an answer, or its process is stopped, and nothing has come from
  it since.
  """
  @spec silent?(t()) :: boolean()
  def silent?(connection), do: PendingCalls.silent?(connection.pending_calls)

  @doc """
  Calls an operation and waits for its answer until `deadline`.

  Returns `:restarting` if the owner of the port ended before the call was sent. Python has not seen the call then, so it
  may be made again. Returns `{:died, number, error}` if Python had the call when it died, with the number of that death.
  """
  @spec call(t(), atom(), [term()], timeout(), Timeout.deadline()) ::
          {:ok, term()}
          | {:error, Error.t()}
          | {:died, pos_integer() | nil, Error.t()}
          | :restarting
  def call(%__MODULE__{} = connection, operation, args, timeout, deadline) do
    case Protocol.encode_request(operation, args, connection.max_request_bytes) do
      {:error, _too_large} = error -> error
      request -> send_and_wait(connection, request, timeout, deadline)
    end
  end

  @doc """
  Writes a frame to a port, from any process. `:busy` means that the port has not taken it.
  """
  @spec write_frame(port() | nil, iodata()) :: :written | :busy | :closed
  def write_frame(port, frame) do
    if Port.command(port, frame, [:nosuspend]), do: :written, else: :busy
  rescue
    # The port is closed, or `nil`. A port can close at any moment, so this cannot be checked before.
    ArgumentError -> :closed
  end

  @doc """
  Answers a call, which must have been taken out of the table.
  """
  @spec answer(
          PendingCall.t(),
          {:frame, binary()} | {:error, Error.t()} | {:died, pos_integer() | nil, Error.t()}
        ) :: :ok
  def answer(%PendingCall{tag: {:startup, _operation}}, _answer), do: :ok

  def answer(%PendingCall{tag: tag, caller: caller}, answer) do
    send(caller, {tag, answer})
    :ok
  end

  defp send_and_wait(connection, request, timeout, deadline) do
    # Not an alias, which costs as much as sending both messages: only the process that takes the call out of the table
    # answers it, so no answer comes after the caller has taken it out.
    tag = make_ref()

    case send_call(connection, tag, request) do
      {:written, id} ->
        receive do
          {^tag, answer} -> read(answer)
        after
          min(timeout, @unmonitored_ms) ->
            from = {:written, tag, Process.monitor(connection.owner)}
            wait(connection, id, from, timeout, deadline)
        end

      {:handed_over, id, monitor} ->
        wait(connection, id, {:handed_over, tag, monitor}, timeout, deadline)

      :closed ->
        :restarting
    end
  end

  defp send_call(%{pending_calls: calls} = connection, tag, request) do
    case PendingCalls.add(calls, tag) do
      :gone ->
        :closed

      id ->
        if PendingCalls.request_monitoring(calls), do: send(connection.owner, :monitor_callers)
        write_call(connection, id, tag, request)
    end
  end

  defp write_call(%{port: nil} = connection, id, tag, request),
    do: hand_over(connection, id, tag, request)

  defp write_call(connection, id, tag, request) do
    case write_frame(connection.port, Protocol.frame(id, request)) do
      :written -> {:written, id}
      :busy -> hand_over(connection, id, tag, request)
      :closed -> take_back(connection, id, tag)
    end
  end

  # The owner writes the call when the port takes it.
  defp hand_over(connection, id, tag, request) do
    case PendingCalls.unsent(connection.pending_calls, id) do
      :ok ->
        # Monitored before the owner gets the call, so that the end of the owner is not missed.
        monitor = Process.monitor(connection.owner)
        send(connection.owner, {:send_call, id, request})
        {:handed_over, id, monitor}

      :gone ->
        take_back(connection, id, tag)
    end
  end

  # Makes sure that no other process answers the call, and that no message of it stays in the mailbox.
  defp take_back(connection, id, tag) do
    unless match?(%PendingCall{}, PendingCalls.take(connection.pending_calls, id)) do
      # The owner is answering all calls at this moment, or has just ended.
      monitor = Process.monitor(connection.owner)

      receive do
        {^tag, _answer} -> :ok
        {:DOWN, ^monitor, :process, _owner, _reason} -> :ok
      end

      Process.demonitor(monitor, [:flush])
    end

    :closed
  end

  defp wait(connection, id, {_way, tag, monitor} = from, timeout, deadline) do
    result =
      receive do
        {^tag, answer} -> read(answer)
        {:DOWN, ^monitor, :process, _owner, reason} -> owner_ended(reason, from)
      after
        Timeout.remaining(deadline, @grace_ms) -> time_over(connection, id, from, timeout)
      end

    Process.demonitor(monitor, [:flush])
    result
  end

  defp time_over(connection, id, from, timeout) do
    case PendingCalls.take(connection.pending_calls, id) do
      %PendingCall{} = call ->
        if call.sent?, do: cancel(connection, id)
        if connection.port, do: PendingCalls.silent(connection.pending_calls)
        {stage, cause} = silence(connection, call)
        {:error, Error.timeout(timeout, stage, cause)}

      # The call is being answered at this moment, or the owner has answered all calls and ends.
      _answered ->
        answered(from)
    end
  end

  defp answered({_way, tag, monitor} = from) do
    receive do
      {^tag, answer} -> read(answer)
      {:DOWN, ^monitor, :process, _owner, reason} -> owner_ended(reason, from)
    end
  end

  defp read({:frame, frame}), do: Protocol.decode_answer(frame)
  defp read({:error, _error} = error), do: error
  defp read({:died, _number, _error} = died), do: died

  # The owner answers all calls before it ends, so a call without an answer came after that. But a process that monitors
  # a killed owner later gets `:noproc` too, and its call may have been sent.
  defp owner_ended(reason, {way, _tag, _monitor}) do
    case {reason, way} do
      {:noproc, :handed_over} -> :restarting
      {orderly, _way} when orderly in [:normal, :shutdown] -> :restarting
      {{:shutdown, _reason}, _way} -> :restarting
      _crash -> {:error, crashed(way)}
    end
  end

  # Whether a call that was handed over was sent, and what Python has done for one that was, nobody knows any more.
  defp crashed(way) do
    sent = if way == :written, do: true
    Error.new(:port_closed, "the port's owner crashed", %{"sent" => sent, "asked" => nil})
  end

  defp cancel(%{port: port} = connection, id) do
    frame = Protocol.cancel_frame(id)

    # The owner writes the frame if the port is busy, or if the owner has written the call.
    if port == nil or write_frame(port, frame) == :busy,
      do: send(connection.owner, {:send_frame, frame})
  end

  # Returns where the time of a call without an answer went, and why.
  defp silence(%{port: nil}, %PendingCall{sent?: false}),
    do: {"start", "python is still being started"}

  defp silence(_connection, %PendingCall{sent?: false}), do: {"send", "python does not read"}
  defp silence(_connection, _call), do: {"python", "python has not answered"}
end
