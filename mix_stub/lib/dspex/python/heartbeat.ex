defmodule DSPex.Python.Heartbeat do
  @moduledoc false

  # Notices a Python that is alive and silent: stopped, deadlocked, or in C code that keeps Python's lock. The owner of
  # the port asks every `interval` ms and gives up when nothing has come back for `limit` ms.
  #
  # Questions without an answer are counted, not the time since the last answer: if this node itself did not run for a
  # while (a suspended machine), the answer may be in the mailbox behind the timer.

  @enforce_keys [:interval, :limit]
  defstruct [:interval, :limit, unanswered: 0]

  @type t :: %__MODULE__{
          interval: pos_integer(),
          limit: pos_integer(),
          unanswered: non_neg_integer()
        }

  @doc """
  Begins to send the calling process the message `:heartbeat`; `nil` for a pool that wants none.
  """
  @spec start(false | %{interval: pos_integer(), limit: pos_integer()}) :: t() | nil
  def start(false), do: nil

  def start(%{interval: interval, limit: limit}),
    do: schedule(%__MODULE__{interval: interval, limit: limit})

  @doc """
  Tells what to do at the message `:heartbeat`: ask Python, or give it up.
  """
  @spec tick(t()) :: {:ask, t()} | {:silent, ms :: pos_integer()}
  def tick(%__MODULE__{unanswered: unanswered} = heartbeat) do
    silent_ms = unanswered * heartbeat.interval

    if silent_ms >= heartbeat.limit,
      do: {:silent, silent_ms},
      else: {:ask, schedule(%{heartbeat | unanswered: unanswered + 1})}
  end

  @doc """
  Python has answered.
  """
  @spec answered(t()) :: t()
  def answered(heartbeat), do: %{heartbeat | unanswered: 0}

  defp schedule(heartbeat) do
    Process.send_after(self(), :heartbeat, heartbeat.interval)
    heartbeat
  end
end
