defmodule DSPex.Python.Callbacks.Kept do
  @moduledoc false

  # Functions that stay registered as long as the process that keeps them: those of a pool's models, by their session
  # (`nil`: the pool itself). When the registry of functions ends and is started again, they are registered anew, under
  # the ids that Python knows.

  alias DSPex.Python.Callbacks
  alias DSPex.Python.Callbacks.Callback

  @retry_ms 20

  defstruct registered: %{}, monitor: nil

  @type t :: %__MODULE__{
          registered: %{(String.t() | nil) => {Callbacks.registration() | nil, [Callback.t()]}},
          monitor: reference() | nil
        }

  @doc """
  Keeps functions that have been registered for the calling process, in place of those that it kept for `session_id`.
  """
  @spec put(t(), String.t() | nil, Callbacks.registration() | nil, [Callback.t()]) :: t()
  def put(kept, session_id, registration, callbacks) do
    with {before, _callbacks} <- kept.registered[session_id], do: Callbacks.unregister(before)
    registered = Map.delete(kept.registered, session_id)

    if callbacks == [],
      do: %{kept | registered: registered},
      else:
        watching(%{
          kept
          | registered: Map.put(registered, session_id, {registration, callbacks})
        })
  end

  @doc """
  The registry has ended: registers all anew. If it is not there again yet, the calling process gets the message
  `:register_functions`, and is to call this once more.
  """
  @spec register_anew(t()) :: t()
  def register_anew(kept) do
    if Process.whereis(Callbacks) do
      registered =
        Map.new(kept.registered, fn {session_id, {_gone, callbacks}} ->
          {session_id, {Callbacks.register(callbacks), callbacks}}
        end)

      watching(%{kept | registered: registered, monitor: nil})
    else
      Process.send_after(self(), :register_functions, @retry_ms)
      kept
    end
  end

  defp watching(%{monitor: nil} = kept), do: %{kept | monitor: Process.monitor(Callbacks)}
  defp watching(kept), do: kept
end
