defmodule DSPex.Python.Functions.Callback do
  @moduledoc false

  # A function that Python may call while it is registered.
  #
  #     id        the name by which Python calls it; nobody can guess it
  #     name      its name in the log
  #     owner     the process that registered it
  #     timeout   the longest time of an invocation in ms

  @enforce_keys [:id, :name, :function]
  defstruct [:id, :name, :function, :owner, timeout: :infinity]

  @type t :: %__MODULE__{
          id: String.t(),
          name: String.t(),
          function: (map() -> term()),
          owner: pid() | nil,
          timeout: timeout()
        }

  @doc """
  Makes a callback with a random id.
  """
  @spec new(String.t(), (map() -> term()), timeout()) :: t()
  def new(name, function, timeout) do
    id = Base.encode16(:rand.bytes(16))
    %__MODULE__{id: id, name: name, function: function, timeout: timeout}
  end
end
