defmodule DSPex.Python.Port.Heartbeat do
  @moduledoc false

  # Notices a Python that is alive and silent, in two ways, and tells the owner of the port to kill it:
  #
  #   * The owner sends a `ping` every `interval` ms; no answer has come for `limit` ms. So a Python is found that is
  #     deadlocked, or in C code that holds the GIL, or stopped where the system does not say so.
  #   * The system says that its process is stopped (DSPex.Python.Port.ProcessState), for `stopped` ms. A process that is
  #     stopped does nothing at all, so there is no reason to wait for as long. If it has used CPU time since the last look, it
  #     was going on in between, such as one that `cpulimit` slows down.
  #
  # Unanswered pings are counted instead of the time since the last answer, and looks at the process in the same way: if this
  # node itself did not run for a while (a suspended machine), the answer may be in the mailbox behind the timer, and a
  # process that was stopped with the node is going on with it.

  alias DSPex.Python.Port.ProcessState

  # A look wakes up two threads of an idle node, which takes about 1 ms of CPU time. So it is rare while no call is pending.
  @look_ms 250
  @idle_look_ms 1_000

  @enforce_keys [:interval, :limit, :stopped]
  defstruct [
    :interval,
    :limit,
    :stopped,
    :process,
    :stopped_after,
    unanswered: 0,
    seen_stopped: 0
  ]

  @type t :: %__MODULE__{
          interval: pos_integer(),
          limit: pos_integer(),
          stopped: pos_integer() | false,
          process: ProcessState.t() | nil,
          stopped_after: non_neg_integer() | nil,
          unanswered: non_neg_integer(),
          seen_stopped: non_neg_integer()
        }

  @type options :: %{
          interval: pos_integer(),
          limit: pos_integer(),
          stopped: pos_integer() | false
        }

  @doc """
  Begins to send the calling process the messages `:heartbeat` and, if the state of Python's `process` can be read,
  `:look_at_process`; returns `nil` for `false`.
  """
  @spec start(false | options(), ProcessState.t() | nil) :: t() | nil
  def start(false, _process), do: nil

  def start(options, process) do
    heartbeat = schedule(struct!(__MODULE__, Map.put(options, :process, process)))

    if process != nil and options.stopped != false,
      do: look_after(@look_ms, heartbeat),
      else: heartbeat
  end

  @doc """
  Tells what to do at the message `:heartbeat`: send a ping, or kill a Python that was silent for `ms`.
  """
  @spec tick(t()) :: {:ask, t()} | {:kill, {:silent, ms :: pos_integer()}}
  def tick(%__MODULE__{unanswered: unanswered} = heartbeat) do
    silent_ms = unanswered * heartbeat.interval

    if silent_ms >= heartbeat.limit,
      do: {:kill, {:silent, silent_ms}},
      else: {:ask, schedule(%{heartbeat | unanswered: unanswered + 1})}
  end

  @doc """
  Notes that Python has answered.
  """
  @spec answered(t()) :: t()
  def answered(heartbeat), do: %{heartbeat | unanswered: 0}

  @doc """
  Tells what the message `:look_at_process` has found: a process that runs, runs again, or is stopped; or to kill one that was
  stopped for at least `ms`. `idle?`: whether no call waits for it.
  """
  @spec look(t(), boolean()) ::
          {:runs | :continues | :is_stopped, t()} | {:kill, {:stopped, ms :: pos_integer()}}
  def look(%__MODULE__{seen_stopped: seen, stopped: limit} = heartbeat, idle?) do
    case ProcessState.stopped_after(heartbeat.process) do
      nil when seen > 0 ->
        {:continues, look_after(@look_ms, %{heartbeat | seen_stopped: 0})}

      nil ->
        {:runs, look_after(if(idle?, do: @idle_look_ms, else: @look_ms), heartbeat)}

      cpu_time when cpu_time != heartbeat.stopped_after ->
        {:is_stopped,
         look_after(@look_ms, %{heartbeat | seen_stopped: 1, stopped_after: cpu_time})}

      _unchanged when seen * @look_ms >= limit ->
        {:kill, {:stopped, seen * @look_ms}}

      _unchanged ->
        {:is_stopped, look_after(@look_ms, %{heartbeat | seen_stopped: seen + 1})}
    end
  end

  defp schedule(heartbeat) do
    Process.send_after(self(), :heartbeat, heartbeat.interval)
    heartbeat
  end

  defp look_after(ms, heartbeat) do
    Process.send_after(self(), :look_at_process, ms)
    heartbeat
  end
end
