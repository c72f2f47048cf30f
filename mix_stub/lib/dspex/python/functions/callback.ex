defmodule DSPex.Python.Functions.Callback do
  @moduledoc false

  # A function that Python may call while it is registered.
  #
  #     id        the name by which Python calls it; nobody can guess it
  #     name      its name in the log
  #     context   what its processes have from the process that brought it
  #     timeout   the longest time of an invocation in ms
  #     resolver? whether Python may call exported functions by it (DSPex.Python.Functions.Exported)
  #     quiet?    whether the log has nothing of its arguments, nor of the messages of its errors
  #     proxy?    whether the function is on another node: it takes the reference behind the id, and the arguments

  alias DSPex.Python.Functions.CallerContext
  alias DSPex.Python.Wire.UniqueId

  @enforce_keys [:id, :name, :function]
  defstruct [
    :id,
    :name,
    :function,
    :context,
    timeout: :infinity,
    resolver?: false,
    quiet?: false,
    proxy?: false
  ]

  @type t :: %__MODULE__{
          id: String.t(),
          name: String.t(),
          function: (map() -> term()),
          context: CallerContext.t() | nil,
          timeout: timeout(),
          resolver?: boolean(),
          quiet?: boolean(),
          proxy?: boolean()
        }

  @doc """
  Makes a callback with a random id.
  """
  @spec new(String.t(), (map() -> term()), timeout()) :: t()
  def new(name, function, timeout) do
    %__MODULE__{id: UniqueId.new(16), name: name, function: function, timeout: timeout}
  end

  @doc """
  Sets on whose behalf the functions run, unless that is known.
  """
  @spec on_behalf([t()], CallerContext.t()) :: [t()]
  def on_behalf(callbacks, %CallerContext{} = context),
    do: for(callback <- callbacks, do: %{callback | context: callback.context || context})

  @doc """
  Sets whether the log has nothing of what the functions get: the application redacts it.
  """
  @spec quiet([t()], boolean()) :: [t()]
  def quiet(callbacks, quiet?), do: for(callback <- callbacks, do: %{callback | quiet?: quiet?})
end
