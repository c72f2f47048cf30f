defmodule DSPex.PredictionTest do
  use ExUnit.Case, async: true

  alias DSPex.Prediction

  doctest Prediction

  @term %{
    "answer" => "yes",
    "reasoning" => "because",
    "$meta" => %{
      "fields" => ["reasoning", "answer"],
      "usage" => %{"m" => %{"total_tokens" => 3}},
      "duration_ms" => 1.5,
      "warnings" => ["w"],
      "model" => "m",
      "completions" => [%{"answer" => "yes"}]
    }
  }

  setup do
    {:ok, prediction: Prediction.from_term(@term)}
  end

  test "reads fields by atom and by string", %{prediction: prediction} do
    assert prediction[:answer] == "yes"
    assert prediction["answer"] == "yes"
    assert prediction[:absent] == nil
    assert get_in(prediction, [:answer]) == "yes"
    assert prediction.reasoning == "because"
  end

  test "raises for a name that is neither an atom nor a string", %{prediction: prediction} do
    message = "expected the name of an output field as an atom or a string, got 0"
    assert_raise ArgumentError, message, fn -> prediction[0] end
  end

  test "keeps the metadata of the call", %{prediction: prediction} do
    assert prediction.usage == %{"m" => %{"total_tokens" => 3}}
    assert {prediction.duration_ms, prediction.warnings, prediction.model} == {1.5, ["w"], "m"}
    assert prediction.completions == [%{"answer" => "yes"}]
    assert prediction.meta == @term["$meta"]
    assert Prediction.to_map(prediction) == %{"answer" => "yes", "reasoning" => "because"}
  end

  test "can be changed like a map", %{prediction: prediction} do
    assert put_in(prediction[:answer], "no")["answer"] == "no"
    assert {"yes", changed} = pop_in(prediction["answer"])
    assert Prediction.to_map(changed) == %{"reasoning" => "because"}
  end

  test "has a main output, the first of the signature" do
    term = %{
      "b" => 1,
      "a" => 2,
      "rationale" => "r",
      "$meta" => %{"fields" => ["rationale", "b", "a"]}
    }

    assert Prediction.main(Prediction.from_term(term)) == 1
    assert Prediction.main(Prediction.from_term(%{"reasoning" => "r"})) == nil
  end

  test "is inspected in a short form", %{prediction: prediction} do
    assert inspect(prediction) == ~S|#DSPex.Prediction<reasoning: "because", answer: "yes">|
    long = inspect(Prediction.from_term(%{"answer" => String.duplicate("é", 10_000)}))
    assert String.length(long) < 200
    assert long =~ "…"

    assert inspect(Prediction.from_term(%{"answer" => <<255>>})) ==
             "#DSPex.Prediction<answer: <<255>>>"

    # After pop/2 the name is still in `names`, but not in `fields`.
    {_value, changed} = pop_in(prediction["answer"])
    assert inspect(changed) == ~S|#DSPex.Prediction<reasoning: "because">|
  end
end
