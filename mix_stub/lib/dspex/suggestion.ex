defmodule DSPex.Suggestion do
  @moduledoc false

  # Finds the name that was meant by a wrong one, and the list by a stream. `misspelt/2` follows the rules of Python's `misspelt`
  # (erlport_bridge/programs/text/wording.py), so that an option is judged alike on both sides.

  @max_characters 64
  # As Elixir's own suggestions for keys and functions.
  @min_similarity 0.77

  @type name :: atom() | String.t()

  @doc """
  Returns the known name of which `name` is a misspelling; `nil` if it is another word.

  Two letters swapped, one missing, added or wrong count as one mistake. A name of up to five letters may have one mistake, a
  longer name two, and a single letter none. Of names that are equally near, one that begins like `name` is meant, as a plural does.

      iex> DSPex.Suggestion.misspelt(:timout, [:timeout, :temperature])
      :timeout
      iex> DSPex.Suggestion.misspelt(:tool, [:pool, :tools])
      :tools
      iex> DSPex.Suggestion.misspelt("max_hops", ["max_iters"])
      nil
  """
  @spec misspelt(name(), [known]) :: known | nil when known: name()
  def misspelt(name, known) do
    letters = letters(name)
    count = length(letters)
    allowed = if count <= 5, do: 1, else: 2

    if count in 2..@max_characters do
      known
      |> Enum.map(
        &{mistakes(letters, letters(&1)), not List.starts_with?(letters(&1), letters), &1}
      )
      |> Enum.filter(fn {mistakes, _otherwise?, known} ->
        mistakes <= allowed and String.length(to_string(known)) > 1
      end)
      |> Enum.min(fn -> {nil, nil, nil} end)
      |> elem(2)
    end
  end

  @doc """
  Returns ` (did you mean …?)` with the known name that is most similar to `name`, or `""`. More lenient than `misspelt/2`.

      iex> DSPex.Suggestion.hint("answr", ["answer", "score"])
      ~S| (did you mean "answer"?)|
      iex> DSPex.Suggestion.hint(:timeout, [:pool, :timeout])
      ""
  """
  @spec hint(name(), [name()]) :: String.t()
  def hint(name, known) do
    similar = fn known ->
      String.jaro_distance(
        String.downcase(to_string(name)),
        String.downcase(to_string(known))
      )
    end

    # A name that has been registered meanwhile is no other one.
    case known |> Enum.reject(&(&1 == name)) |> Enum.max_by(similar, fn -> nil end) do
      nil ->
        ""

      nearest ->
        if similar.(nearest) >= @min_similarity,
          do: " (did you mean #{inspect(nearest)}?)",
          else: ""
    end
  end

  @doc """
  Returns `; Enum.to_list/1 makes a list of it` for an enumerable that is neither a list nor a map, such as a stream; otherwise `""`.

      iex> DSPex.Suggestion.list_hint(Stream.map([1], & &1))
      "; Enum.to_list/1 makes a list of it"
      iex> DSPex.Suggestion.list_hint(%{a: 1})
      ""
  """
  @spec list_hint(term()) :: String.t()
  def list_hint(value),
    do: if(enumerable?(value), do: "; Enum.to_list/1 makes a list of it", else: "")

  @doc """
  Tells whether a value is an enumerable that is neither a list nor a map. Most streams are functions: those of `Stream.resource/3`,
  `Stream.iterate/2`, …
  """
  @spec enumerable?(term()) :: boolean()
  def enumerable?(value),
    do: is_function(value, 2) or (is_struct(value) and Enumerable.impl_for(value) != nil)

  defp letters(name), do: name |> to_string() |> String.downcase() |> String.graphemes()

  # Returns the optimal string alignment distance, row by row. `before` is the row above the last one.
  defp mistakes(letters, wanted) do
    first = Enum.to_list(0..length(wanted))

    {row, _before, _previous} =
      letters
      |> Enum.with_index(1)
      |> Enum.reduce({first, nil, nil}, fn {letter, index}, {above, before, previous} ->
        {row(letter, previous, index, wanted, above, before), above, letter}
      end)

    List.last(row)
  end

  defp row(letter, previous, index, wanted, above, before) do
    # `swapped` is the distance before the last two letters of both names.
    swapped = if before, do: [nil | before], else: List.duplicate(nil, length(above))

    {row, _left, _last} =
      [wanted, above, tl(above), swapped]
      |> Enum.zip()
      |> Enum.reduce({[index], index, nil}, fn {other, diagonal, up, swap}, {row, left, last} ->
        cost = Enum.min([up + 1, left + 1, diagonal + if(letter == other, do: 0, else: 1)])
        cost = if swap && letter == last && previous == other, do: min(cost, swap + 1), else: cost
        {[cost | row], cost, other}
      end)

    Enum.reverse(row)
  end
end
