defmodule DSPex.Python.Port.SendQueue do
  @moduledoc false

  # The calls and frames that the port has not taken yet, in their order. No message tells when a busy port takes data
  # again, so the owner of the port tries again every 2 ms.

  alias DSPex.Python.Port.{Connection, PendingCalls}
  alias DSPex.Python.Wire.Protocol

  @retry_ms 2

  defstruct entries: :queue.new(), timer: nil

  @type t :: %__MODULE__{entries: :queue.queue(), timer: reference() | nil}
  @type entry :: {:call, Protocol.id(), Protocol.request()} | {:frame, iodata()}

  @doc """
  Adds a call or a frame at the end.
  """
  @spec add(t(), entry()) :: t()
  def add(queue, entry), do: %{queue | entries: :queue.in(entry, queue.entries)}

  @doc """
  Writes as many entries as the port takes. If the port is busy, the calling process gets the message `:flush` when it is
  time to call this function again.
  """
  @spec flush(t(), port(), PendingCalls.t()) :: t()
  def flush(queue, port, calls) do
    case :queue.out(queue.entries) do
      {:empty, _entries} ->
        queue

      {{:value, entry}, entries} ->
        if write(entry, port, calls) == :busy,
          do: retry_later(queue),
          else: flush(%{queue | entries: entries}, port, calls)
    end
  end

  @doc """
  Notes that the message `:flush` has come.
  """
  @spec retried(t()) :: t()
  def retried(queue), do: %{queue | timer: nil}

  @doc """
  Drops all entries.
  """
  @spec clear(t()) :: t()
  def clear(queue), do: %{queue | entries: :queue.new()}

  @doc """
  Counts the entries.
  """
  @spec count(t()) :: non_neg_integer()
  def count(queue), do: :queue.len(queue.entries)

  # A closed port takes everything: the message that says so is on its way to the owner, and answers all calls.
  defp write({:frame, frame}, port, _calls), do: Connection.write_frame(port, frame)

  defp write({:call, id, request}, port, calls) do
    # A call that is not pending any more had a timeout, or its caller has ended.
    with true <- PendingCalls.pending?(calls, id),
         written when written != :busy <-
           Connection.write_frame(port, Protocol.frame(id, request)) do
      PendingCalls.sent(calls, id)
    end
  end

  defp retry_later(%{timer: nil} = queue),
    do: %{queue | timer: Process.send_after(self(), :flush, @retry_ms)}

  defp retry_later(queue), do: queue
end
