defmodule DSPex.Python.Wire.Keywords do
  @moduledoc false

  # Keyword lists become maps before they cross the port. A key that comes twice would lose a value without a word.

  alias DSPex.Python.Error

  @doc """
  Returns an error sentence if a key comes more than once in a list of pairs at `path`; `nil` if none does.

      iex> DSPex.Python.Wire.Keywords.repeated([timeout: 1, pool: :a, timeout: 2], "opts")
      "expected the key :timeout once at opts, got it 2 times"
      iex> DSPex.Python.Wire.Keywords.repeated([timeout: 1, pool: :a], "opts")
      nil
  """
  @spec repeated([{term(), term()}] | map(), String.t()) :: String.t() | nil
  def repeated(pairs, path) do
    with {key, count} <- repeated_key(pairs), do: message(key, count, path)
  end

  @doc """
  Returns the same as an error.
  """
  @spec check([{term(), term()}] | map(), String.t()) :: :ok | {:error, Error.t()}
  def check(pairs, path) do
    case repeated_key(pairs) do
      nil ->
        :ok

      {key, count} ->
        path_of_key = if is_atom(key) or is_binary(key), do: "#{path}.#{key}", else: path
        {:error, Error.new(:input, message(key, count, path), %{"path" => path_of_key})}
    end
  end

  defp message(key, count, path),
    do: "expected the key #{inspect(key)} once at #{path}, got it #{count} times"

  # The first of the keys that come more than once.
  defp repeated_key([_one, _other | _more] = pairs) do
    if map_size(Map.new(pairs)) < length(pairs) do
      counts = Enum.frequencies_by(pairs, &elem(&1, 0))
      Enum.find_value(pairs, fn {key, _value} -> counts[key] > 1 && {key, counts[key]} end)
    end
  end

  defp repeated_key(_map_or_short_list), do: nil
end
