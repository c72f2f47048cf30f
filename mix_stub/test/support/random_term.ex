defmodule DSPex.RandomTerm do
  @moduledoc """
  Generates random terms for tests.

  ExUnit seeds `:rand` for each test with the seed that it prints, so `mix test --seed` generates the same terms again.
  """

  @doc """
  Returns a term of all types that keep their type on the way to Python and back.
  """
  def term(depth \\ 4)
  def term(0), do: scalar()

  def term(depth) do
    case :rand.uniform(6) do
      1 -> list(depth)
      2 -> List.to_tuple(list(depth))
      3 -> Map.new(list(depth), &{text(), &1})
      4 -> Map.new(list(depth), &{{:key, text()}, &1})
      _scalar -> scalar()
    end
  end

  @doc """
  Returns a term that JSON can carry.
  """
  def json(0), do: Enum.random([nil, true, false, integer(), :rand.normal(), text()])

  def json(depth) do
    case :rand.uniform(4) do
      1 -> for _ <- count(5), do: json(depth - 1)
      2 -> for _ <- count(5), into: %{}, do: {text(), json(depth - 1)}
      _scalar -> json(0)
    end
  end

  @doc """
  Returns text of characters of one to four bytes, with quotes and control characters.
  """
  def text do
    for _ <- count(12),
        into: "",
        do: <<Enum.random([?a, ?", ?\\, ?\n, 0, 0x7F, ?é, ?ł, ?中, 0x1F680])::utf8>>
  end

  defp list(depth), do: for(_ <- count(5), do: term(depth - 1))

  defp scalar do
    atoms = [nil, true, :ok, :żółw]
    Enum.random(atoms ++ [integer(), :rand.normal(), text(), :rand.bytes(9), self()])
  end

  defp integer,
    do: Enum.random([1, -1]) * Integer.pow(2, :rand.uniform(200) - 1) + :rand.uniform(9)

  # 0 to `most` - 1 times.
  defp count(most), do: 1..(:rand.uniform(most) - 1)//1
end
