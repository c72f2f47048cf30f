defmodule DSPex.Python.Functions.ModelRegistrations do
  @moduledoc false

  # The functions that stay registered as long as the calling process: the model functions of a pool (key `nil`) and of
  # its sessions. When the registry of functions is started again, they are registered again under the same ids.

  alias DSPex.Python.Functions.{Callback, CallbackRegistry}

  @retry_ms 20

  defstruct registered: %{}, monitor: nil

  @type t :: %__MODULE__{
          registered: %{
            (String.t() | nil) => {CallbackRegistry.registration() | nil, [Callback.t()]}
          },
          monitor: reference() | nil
        }

  @doc """
  Keeps functions that have been registered for the calling process. They replace the functions of `session_id`.
  """
  @spec put(t(), String.t() | nil, CallbackRegistry.registration() | nil, [Callback.t()]) :: t()
  def put(registrations, session_id, registration, callbacks) do
    with {replaced, _callbacks} <- registrations.registered[session_id],
         do: CallbackRegistry.unregister(replaced)

    registered = Map.delete(registrations.registered, session_id)

    if callbacks == [],
      do: %{registrations | registered: registered},
      else:
        monitoring(%{
          registrations
          | registered: Map.put(registered, session_id, {registration, callbacks})
        })
  end

  @doc """
  Registers all functions again after the registry has ended.

  While the registry is not running, the calling process gets the message `:register_functions` and has to call this
  function again.
  """
  @spec register_again(t()) :: t()
  def register_again(registrations) do
    if Process.whereis(CallbackRegistry) do
      registered =
        Map.new(registrations.registered, fn {session_id, {_ended, callbacks}} ->
          {session_id, {CallbackRegistry.register(callbacks), callbacks}}
        end)

      monitoring(%{registrations | registered: registered, monitor: nil})
    else
      Process.send_after(self(), :register_functions, @retry_ms)
      registrations
    end
  end

  defp monitoring(%{monitor: nil} = registrations),
    do: %{registrations | monitor: Process.monitor(CallbackRegistry)}

  defp monitoring(registrations), do: registrations
end
