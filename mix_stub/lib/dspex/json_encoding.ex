defmodule DSPex.JSONEncoding do
  @moduledoc false

  # Implements `Jason.Encoder`, and `JSON.Encoder` of Elixir 1.18 and newer, for predictions, errors and traces.
  #
  # `defimpl` needs the protocol when DSPex is compiled. But DSPex does not depend on Jason, so Mix may compile it first. Therefore
  # the modules are written as `defimpl` would write them: Elixir finds an implementation by its name, and when protocols are
  # consolidated, by its attribute `:__impl__`. Without the protocol nobody calls them.

  alias DSPex.{Prediction, Trace}
  alias DSPex.Python.Error

  @doc """
  Encodes a prediction, an error or a trace as a map, by the protocol's own implementation for maps.
  """
  @spec encode(module(), Prediction.t() | Error.t() | Trace.t(), term()) :: iodata()
  def encode(protocol, value, options), do: protocol.encode(to_map(value), options)

  defp to_map(%Prediction{} = prediction), do: Prediction.to_map(prediction)
  defp to_map(%Trace{} = trace), do: Trace.to_map(trace)

  # Neither the traceback nor `details`, which repeat the other fields.
  defp to_map(%Error{} = error),
    do: Map.take(error, [:kind, :type, :message, :path, :stage, :retryable])

  for protocol <- [Jason.Encoder, JSON.Encoder], struct <- [Prediction, Error, Trace] do
    defmodule Module.concat(protocol, struct) do
      @moduledoc false

      @protocol protocol
      @struct struct

      Module.register_attribute(__MODULE__, :__impl__, persist: true)
      @__impl__ [protocol: @protocol, for: @struct]

      def __impl__(:protocol), do: @protocol
      def __impl__(:for), do: @struct
      def __impl__(:target), do: __MODULE__

      def encode(value, options), do: DSPex.JSONEncoding.encode(@protocol, value, options)
    end
  end
end
