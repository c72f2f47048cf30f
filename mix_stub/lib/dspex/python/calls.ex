defmodule DSPex.Python.Calls do
  @moduledoc false

  # The calls of one port that wait for an answer: their ids, timers and monitors.

  alias DSPex.Python.Protocol

  defmodule Call do
    @moduledoc false

    # `from` is a GenServer.from(), or {:startup, operation} for the calls that the port's owner makes itself, which
    # have neither a monitor nor a timer.
    @enforce_keys [:from]
    defstruct [:from, :monitor, :timer, :timeout, sent?: false]

    @type t :: %__MODULE__{
            from: GenServer.from() | {:startup, atom()},
            monitor: reference() | nil,
            timer: reference() | nil,
            timeout: timeout() | nil,
            sent?: boolean()
          }
  end

  defstruct last_id: 0, by_id: %{}, id_of_monitor: %{}

  @type t :: %__MODULE__{
          last_id: non_neg_integer(),
          by_id: %{Protocol.id() => Call.t()},
          id_of_monitor: %{reference() => Protocol.id()}
        }

  @doc """
  Adds a call of the owner itself.
  """
  @spec add_startup(t(), atom()) :: {Protocol.id(), t()}
  def add_startup(calls, operation),
    do: add(calls, %Call{from: {:startup, operation}, sent?: true})

  @doc """
  Adds a call of another process, which is watched. At `answer_by` (monotonic ms) the calling process, the owner of
  the port, gets the message `{:deadline, id}`.
  """
  @spec add_call(t(), GenServer.from(), timeout(), integer() | :infinity) :: {Protocol.id(), t()}
  def add_call(calls, {caller, _tag} = from, timeout, answer_by) do
    monitor = Process.monitor(caller)
    {id, calls} = add(calls, %Call{from: from, monitor: monitor, timeout: timeout})
    calls = put_in(calls.by_id[id].timer, timer(id, answer_by))
    {id, %{calls | id_of_monitor: Map.put(calls.id_of_monitor, monitor, id)}}
  end

  @doc """
  Takes a call out, with its timer and its monitor; `nil` if there is none of that id.
  """
  @spec pop(t(), non_neg_integer()) :: {Call.t() | nil, t()}
  def pop(calls, id) do
    case Map.pop(calls.by_id, id) do
      {nil, _by_id} ->
        {nil, calls}

      {call, by_id} ->
        if call.timer, do: Process.cancel_timer(call.timer)
        if call.monitor, do: Process.demonitor(call.monitor, [:flush])

        {call,
         %{calls | by_id: by_id, id_of_monitor: Map.delete(calls.id_of_monitor, call.monitor)}}
    end
  end

  @doc """
  Takes out the call of a process that is gone, by its monitor; gives its id too.
  """
  @spec pop_monitored(t(), reference()) :: {{Protocol.id(), Call.t()} | nil, t()}
  def pop_monitored(calls, monitor) do
    id = Map.get(calls.id_of_monitor, monitor, 0)

    case pop(calls, id) do
      {nil, calls} -> {nil, calls}
      {call, calls} -> {{id, call}, calls}
    end
  end

  @doc """
  Takes all calls out.
  """
  @spec pop_all(t()) :: {[Call.t()], t()}
  def pop_all(calls), do: Enum.map_reduce(Map.keys(calls.by_id), calls, &pop(&2, &1))

  @doc """
  Tells whether a call of that id waits for an answer.
  """
  @spec waiting?(t(), Protocol.id()) :: boolean()
  def waiting?(calls, id), do: is_map_key(calls.by_id, id)

  @doc """
  Notes that the port has taken a call.
  """
  @spec sent(t(), Protocol.id()) :: t()
  def sent(calls, id), do: put_in(calls.by_id[id].sent?, true)

  @doc """
  How many calls wait for an answer.
  """
  @spec count(t()) :: non_neg_integer()
  def count(calls), do: map_size(calls.by_id)

  defp add(calls, call) do
    id = if calls.last_id == Protocol.max_id(), do: 1, else: calls.last_id + 1
    # Only after two thousand million calls can an id still be in use.
    if waiting?(calls, id) do
      add(%{calls | last_id: id}, call)
    else
      {id, %{calls | last_id: id, by_id: Map.put(calls.by_id, id, call)}}
    end
  end

  defp timer(_id, :infinity), do: nil
  defp timer(id, answer_by), do: Process.send_after(self(), {:deadline, id}, answer_by, abs: true)
end
