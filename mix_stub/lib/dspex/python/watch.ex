defmodule DSPex.Python.Watch do
  @moduledoc false

  # Notices callers that end while they wait. A monitor for each call would cost as much as all else that the owner of
  # the port does for a small one, so it looks every 20 ms who has been waiting since, and watches those.

  alias DSPex.Python.{Calls, Protocol}

  @interval_ms 20
  # After a second without a call it is looked no more, until a caller says that there is one.
  @idle_looks 50

  defstruct monitors: %{}, ids: %{}, idle_looks: 0

  @type t :: %__MODULE__{
          monitors: %{Protocol.id() => reference()},
          ids: %{reference() => Protocol.id()},
          idle_looks: non_neg_integer()
        }

  @doc """
  Watches the callers of all calls that wait, and has the calling process get the message `:watch_callers` when it is
  time for the next look. Those that end are told of by `:DOWN`.
  """
  @spec look(t(), Calls.t()) :: t()
  def look(watch, calls) do
    # Those that took their calls back at their deadlines have told nobody.
    answered = for {id, _monitor} <- watch.monitors, not Calls.waiting?(calls, id), do: id
    watch = Enum.reduce(answered, watch, &forget(&2, &1))

    case Calls.callers(calls) do
      [] when watch.idle_looks >= @idle_looks ->
        Calls.unwatch(calls)
        # One that came just now has not said so.
        if Calls.count(calls) == 0 or not Calls.watch(calls),
          do: %{watch | idle_looks: 0},
          else: look(%{watch | idle_looks: 0}, calls)

      callers ->
        Process.send_after(self(), :watch_callers, @interval_ms)
        idle_looks = if callers == [], do: watch.idle_looks + 1, else: 0
        Enum.reduce(callers, %{watch | idle_looks: idle_looks}, &add/2)
    end
  end

  @doc """
  Tells whether the caller of a call is watched.
  """
  @spec watched?(t(), Protocol.id()) :: boolean()
  def watched?(%{monitors: monitors}, id), do: is_map_key(monitors, id)

  @doc """
  Forgets a call that is answered.
  """
  @spec forget(t(), Protocol.id()) :: t()
  def forget(%{monitors: monitors} = watch, id) when is_map_key(monitors, id) do
    {monitor, monitors} = Map.pop!(monitors, id)
    Process.demonitor(monitor, [:flush])
    %{watch | monitors: monitors, ids: Map.delete(watch.ids, monitor)}
  end

  def forget(watch, _id), do: watch

  @doc """
  Gives the call whose caller has ended, by its monitor; `nil` if it was forgotten.
  """
  @spec pop(t(), reference()) :: {Protocol.id() | nil, t()}
  def pop(watch, monitor) do
    {id, ids} = Map.pop(watch.ids, monitor)
    {id, %{watch | ids: ids, monitors: Map.delete(watch.monitors, id)}}
  end

  defp add({id, _caller}, %{monitors: monitors} = watch) when is_map_key(monitors, id), do: watch

  defp add({id, caller}, watch) do
    monitor = Process.monitor(caller)

    %{
      watch
      | monitors: Map.put(watch.monitors, id, monitor),
        ids: Map.put(watch.ids, monitor, id)
    }
  end
end
