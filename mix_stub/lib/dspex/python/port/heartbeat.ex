defmodule DSPex.Python.Port.Heartbeat do
  @moduledoc false

  # Notices a Python that is alive and silent: stopped, deadlocked, or in C code that holds the GIL. The owner of the port
  # sends a `ping` every `interval` ms and kills Python when no answer has come for `limit` ms.
  #
  # Unanswered pings are counted instead of the time since the last answer: if this node itself did not run for a while (a
  # suspended machine), the answer may be in the mailbox behind the timer.

  @enforce_keys [:interval, :limit]
  defstruct [:interval, :limit, unanswered: 0]

  @type t :: %__MODULE__{
          interval: pos_integer(),
          limit: pos_integer(),
          unanswered: non_neg_integer()
        }

  @doc """
  Begins to send the calling process the message `:heartbeat`; returns `nil` for `false`.
  """
  @spec start(false | %{interval: pos_integer(), limit: pos_integer()}) :: t() | nil
  def start(false), do: nil

  def start(%{interval: interval, limit: limit}),
    do: schedule(%__MODULE__{interval: interval, limit: limit})

  @doc """
  Tells what to do at the message `:heartbeat`: send a ping, or kill a Python that was silent for `ms`.
  """
  @spec tick(t()) :: {:ask, t()} | {:silent, ms :: pos_integer()}
  def tick(%__MODULE__{unanswered: unanswered} = heartbeat) do
    silent_ms = unanswered * heartbeat.interval

    if silent_ms >= heartbeat.limit,
      do: {:silent, silent_ms},
      else: {:ask, schedule(%{heartbeat | unanswered: unanswered + 1})}
  end

  @doc """
  Notes that Python has answered.
  """
  @spec answered(t()) :: t()
  def answered(heartbeat), do: %{heartbeat | unanswered: 0}

  defp schedule(heartbeat) do
    Process.send_after(self(), :heartbeat, heartbeat.interval)
    heartbeat
  end
end
