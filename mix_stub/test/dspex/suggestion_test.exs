defmodule DSPex.SuggestionTest do
  use ExUnit.Case, async: true

  alias DSPex.Suggestion

  doctest Suggestion

  # The same cases as in tests/programs/execution/test_call_options.py: both sides judge an option alike.
  test "one mistake is a missing, added or wrong letter, or two letters swapped" do
    for name <- ["timeout", "pool", "lm", "serialization_format"],
        wrong <- mistakes(name),
        String.length(wrong) > 1 do
      assert {wrong, Suggestion.misspelt(wrong, [name])} == {wrong, name}
    end
  end

  test "a longer name may have two mistakes, a short one only one" do
    assert Suggestion.misspelt("temprture", ["temperature"]) == "temperature"
    assert Suggestion.misspelt("timeuot", [:timeout]) == :timeout
    assert Suggestion.misspelt("pl", ["pool"]) == nil
    assert Suggestion.misspelt("tmut", ["timeout"]) == nil
  end

  test "another word, a single letter and a very long name are no misspelling" do
    for name <- ["max_hops", "k", "x", "retriever", "", String.duplicate("timeout", 20)] do
      assert Suggestion.misspelt(name, ["timeout", "pool", "lm", "n", "max_iters"]) == nil
    end
  end

  test "the nearest of several names is meant" do
    assert Suggestion.misspelt("top_k", ["stop", "top_p", "tools"]) == "top_p"
    assert Suggestion.misspelt("x", []) == nil
    assert Suggestion.hint("x", []) == ""
  end

  defp mistakes(name) do
    letters = String.graphemes(name)

    for index <- 0..(length(letters) - 1), reduce: [] do
      found ->
        letter = Enum.at(letters, index)
        swapped = letters |> List.delete_at(index) |> List.insert_at(max(index - 1, 0), letter)

        wrong = [
          List.delete_at(letters, index),
          List.insert_at(letters, index, letter),
          List.replace_at(letters, index, "q"),
          swapped
        ]

        Enum.map(wrong, &Enum.join/1) ++ found
    end
    |> Enum.reject(&(&1 == name))
  end
end
