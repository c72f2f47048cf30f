defmodule DSPex.Python.Port.CallerMonitors do
  @moduledoc false

  # Monitors callers that wait, to notice when they end. A monitor for each call would cost as much as all other work that
  # the owner of the port does for a small call. So every 20 ms the owner monitors the callers that are still waiting.

  alias DSPex.Python.Port.PendingCalls
  alias DSPex.Python.Wire.Protocol

  @interval_ms 20
  # After a second without a call the owner stops looking, until a caller requests it again.
  @idle_looks 50

  defstruct monitors: %{}, ids: %{}, idle_looks: 0

  @type t :: %__MODULE__{
          monitors: %{Protocol.id() => reference()},
          ids: %{reference() => Protocol.id()},
          idle_looks: non_neg_integer()
        }

  @doc """
  Monitors the callers of all pending calls.

  The calling process gets the message `:monitor_callers` when it is time for the next look, and `:DOWN` when a caller
  ends.
  """
  @spec look(t(), PendingCalls.t()) :: t()
  def look(monitors, calls) do
    # A caller that takes its call back at its deadline does not tell the owner.
    answered =
      for {id, _monitor} <- monitors.monitors, not PendingCalls.pending?(calls, id), do: id

    monitors = Enum.reduce(answered, monitors, &forget(&2, &1))

    case PendingCalls.callers(calls) do
      [] when monitors.idle_looks >= @idle_looks ->
        PendingCalls.stop_monitoring(calls)
        # A call that came just now has not requested monitoring.
        if PendingCalls.count(calls) == 0 or not PendingCalls.request_monitoring(calls),
          do: %{monitors | idle_looks: 0},
          else: look(%{monitors | idle_looks: 0}, calls)

      callers ->
        Process.send_after(self(), :monitor_callers, @interval_ms)
        idle_looks = if callers == [], do: monitors.idle_looks + 1, else: 0
        Enum.reduce(callers, %{monitors | idle_looks: idle_looks}, &add/2)
    end
  end

  @doc """
  Tells whether the caller of a call is monitored.
  """
  @spec monitored?(t(), Protocol.id()) :: boolean()
  def monitored?(%{monitors: monitors}, id), do: is_map_key(monitors, id)

  @doc """
  Removes the monitor of a call that is answered.
  """
  @spec forget(t(), Protocol.id()) :: t()
  def forget(%{monitors: by_id} = monitors, id) when is_map_key(by_id, id) do
    {monitor, by_id} = Map.pop!(by_id, id)
    Process.demonitor(monitor, [:flush])
    %{monitors | monitors: by_id, ids: Map.delete(monitors.ids, monitor)}
  end

  def forget(monitors, _id), do: monitors

  @doc """
  Returns the call of a caller that has ended, by its monitor; `nil` if the call was forgotten.
  """
  @spec pop(t(), reference()) :: {Protocol.id() | nil, t()}
  def pop(monitors, monitor) do
    {id, ids} = Map.pop(monitors.ids, monitor)
    {id, %{monitors | ids: ids, monitors: Map.delete(monitors.monitors, id)}}
  end

  defp add({id, _caller}, %{monitors: by_id} = monitors) when is_map_key(by_id, id), do: monitors

  defp add({id, caller}, monitors) do
    monitor = Process.monitor(caller)

    %{
      monitors
      | monitors: Map.put(monitors.monitors, id, monitor),
        ids: Map.put(monitors.ids, monitor, id)
    }
  end
end
