defmodule DSPex.Python.Wire.UniqueId do
  @moduledoc false

  # Ids that nobody else has. Not of `:rand`: processes that an application has seeded alike would have the same ones, and
  # one of them would get what the other's functions answer.

  @doc """
  Returns a new id of `bytes` random bytes, as text of twice as many hexadecimal digits.
  """
  @spec new(pos_integer()) :: String.t()
  def new(bytes), do: bytes |> :crypto.strong_rand_bytes() |> Base.encode16(case: :lower)
end
