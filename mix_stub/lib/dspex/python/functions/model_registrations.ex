defmodule DSPex.Python.Functions.ModelRegistrations do
  @moduledoc false

  # The functions that stay registered as long as the calling process: the model functions of a pool (key `nil`) and of
  # its sessions. When the registry of functions is started again, they are registered again under the same ids.
  #
  # A key may have functions of several models: Python has the last one, or one of those before. Functions that were replaced are
  # kept until the calls that may call them have ended.

  alias DSPex.Python.Functions.{Callback, CallbackRegistry}

  @retry_ms 20
  @look_again_ms 1_000

  defstruct registered: %{}, replaced: [], monitor: nil

  @typedoc "Functions of a model that have been registered for the calling process."
  @type functions :: {CallbackRegistry.registration() | nil, [Callback.t()]}

  @type t :: %__MODULE__{
          registered: %{(String.t() | nil) => [functions()]},
          replaced: [{CallbackRegistry.registration(), (... -> boolean())}],
          monitor: reference() | nil
        }

  @doc """
  Keeps functions, which replace those of `key`. `in_use?` tells whether a call still runs that may call the replaced ones. If so, it is
  asked again each second: the calling process gets the message `:release_functions` and has to call `release/1`.
  """
  @spec put(t(), term(), functions(), (... -> boolean())) :: t()
  def put(registrations, key, functions, in_use?) do
    {replaced, registered} = Map.pop(registrations.registered, key, [])
    replaced = in_use(for {registration, _callbacks} <- replaced, do: {registration, in_use?})
    if replaced != [] and registrations.replaced == [], do: look_again()

    add(
      %{registrations | registered: registered, replaced: replaced ++ registrations.replaced},
      key,
      functions
    )
  end

  @doc """
  Keeps functions beside those of `key`: it is not known which of them Python has.
  """
  @spec add(t(), term(), functions()) :: t()
  def add(registrations, _key, {_registration, []}), do: registrations

  def add(registrations, key, functions) do
    registered = Map.update(registrations.registered, key, [functions], &[functions | &1])
    monitoring(%{registrations | registered: registered})
  end

  @doc """
  Ends the replaced functions that no call can call any more.
  """
  @spec release(t()) :: t()
  def release(registrations) do
    replaced = in_use(registrations.replaced)
    if replaced != [], do: look_again()
    %{registrations | replaced: replaced}
  end

  defp in_use(replaced) do
    {in_use, ended} = Enum.split_with(replaced, fn {_registration, in_use?} -> in_use?.() end)
    for {registration, _in_use?} <- ended, do: CallbackRegistry.unregister(registration)
    in_use
  end

  defp look_again, do: Process.send_after(self(), :release_functions, @look_again_ms)

  @doc """
  Registers all functions again after the registry has ended.

  While the registry is not running, the calling process gets the message `:register_functions` and has to call this
  function again.
  """
  @spec register_again(t()) :: t()
  def register_again(registrations) do
    if Process.whereis(CallbackRegistry) do
      registered =
        Map.new(registrations.registered, fn {key, functions} ->
          {key,
           for(
             {_ended, callbacks} <- functions,
             do: {CallbackRegistry.register(callbacks), callbacks}
           )}
        end)

      # Those that were replaced have ended with the registry.
      monitoring(%{registrations | registered: registered, replaced: [], monitor: nil})
    else
      Process.send_after(self(), :register_functions, @retry_ms)
      registrations
    end
  end

  defp monitoring(%{monitor: nil} = registrations),
    do: %{registrations | monitor: Process.monitor(CallbackRegistry)}

  defp monitoring(registrations), do: registrations
end
