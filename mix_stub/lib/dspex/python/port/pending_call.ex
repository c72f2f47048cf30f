defmodule DSPex.Python.Port.PendingCall do
  @moduledoc false

  # A call that waits for its answer. `id` is its id on the port. `tag` is the first element of the answer, or {:startup, operation} for the calls
  # that the owner of the port makes itself. `sent?` tells whether the port has taken the call.

  @enforce_keys [:id, :tag, :caller, :sent?]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          id: pos_integer(),
          tag: reference() | {:startup, atom()},
          caller: pid(),
          sent?: boolean()
        }
end
