defprotocol Jason.Encoder do
  @moduledoc """
  Stands for the protocol of Jason in tests, with the same API: this project does not depend on Jason.
  """

  @fallback_to_any true

  def encode(value, options)
end

defimpl Jason.Encoder, for: Any do
  def encode(value, _options),
    do: raise(Protocol.UndefinedError, protocol: @protocol, value: value)
end

defimpl Jason.Encoder, for: Map do
  def encode(map, _options) do
    {:ok, text} = DSPex.Python.JSON.encode(map)
    text
  end
end
