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
    assert inspect(Prediction.from_term(%{"answer" => "yes", "score" => 1})) ==
             ~S|#DSPex.Prediction<answer: "yes", score: 1>|

    long = inspect(Prediction.from_term(%{"answer" => String.duplicate("é", 10_000)}))
    assert String.length(long) < 200
    assert long =~ "…"

    assert inspect(Prediction.from_term(%{"answer" => <<255>>})) ==
             "#DSPex.Prediction<answer: <<255>>>"

    # After pop/2 the name is still in `names`, but not in `fields`.
    {_value, changed} = pop_in(prediction["answer"])
    assert inspect(changed) =~ ~S|#DSPex.Prediction<reasoning: "because",|
  end

  test "is inspected with the tokens, the cost and the warnings of its call, if there are any" do
    term = put_in(@term, ["$meta", "cost"], 0.0003)

    assert inspect(Prediction.from_term(term), width: 200) ==
             ~S|#DSPex.Prediction<reasoning: "because", answer: "yes", tokens: 3, cost: 0.0003, warnings: ["w"]>|

    meta = %{"usage" => %{}, "cost" => 0.0, "warnings" => []}

    assert inspect(Prediction.from_term(%{"a" => 1, "$meta" => meta})) ==
             "#DSPex.Prediction<a: 1>"
  end

  test "is inspected within the limits of Inspect.Opts" do
    long = String.duplicate("é", 1_000)
    prediction = Prediction.from_term(%{"a" => [long], "b" => %{"c" => long}, "d" => long})
    assert String.length(inspect(prediction)) < 600
    assert inspect(prediction, limit: 1) =~ ~r/^#DSPex.Prediction<\s*a: .*, \.\.\.\s*>$/s
    assert String.length(inspect(prediction, printable_limit: :infinity)) > 3_000
    assert String.length(inspect(prediction, printable_limit: 10)) < 110
    assert inspect(Prediction.from_term(%{"a" => 1}), syntax_colors: [number: :red]) =~ "\e["
  end

  test "says how a field is read where it was read as the field of a struct" do
    prediction = Prediction.from_term(%{"answer" => "yes"})

    hint =
      "(read an output field in brackets, such as prediction[:answer]; " <>
        "read what the call used by functions: DSPex.Prediction.cost/1, usage/1, total_tokens/1, steps/1)"

    # By apply/3: newer compilers know that it raises.
    error = assert_raise KeyError, fn -> apply(Map, :fetch!, [prediction, :answer]) end
    assert Exception.message(error) =~ hint
    {blamed, _stacktrace} = Exception.blame(:error, error, [])
    assert Exception.message(blamed) =~ hint
    assert Exception.format(:error, error, []) =~ hint

    # Not where the prediction is a part of what was read.
    map = %{prediction: prediction}
    error = assert_raise KeyError, fn -> apply(Map, :fetch!, [map, :answer]) end
    refute Exception.message(error) =~ "brackets"
    refute inspect(prediction) =~ "brackets"
  end

  test "raises for a field that it does not have, and suggests the field that was meant" do
    prediction = Prediction.from_term(%{"answer" => nil, "score" => 1})
    assert Prediction.fetch!(prediction, "answer") == nil
    assert Prediction.fetch!(prediction, :score) == 1

    for {name, message} <- [
          {:answr, "no output field :answr in the prediction (did you mean :answer?)"},
          {"Score", ~S|no output field "Score" in the prediction (did you mean "score"?)|},
          {:reasoning, "no output field :reasoning in the prediction"}
        ] do
      error = assert_raise KeyError, fn -> Prediction.fetch!(prediction, name) end
      assert Exception.message(error) == message
      assert error.key == name
    end
  end

  test "tells what the call used and cost", %{prediction: prediction} do
    assert Prediction.usage(prediction) == %{"m" => %{"total_tokens" => 3}}
    assert Prediction.total_tokens(prediction) == 3
    assert Prediction.cost(prediction) == nil
    nothing = Prediction.from_term(%{"answer" => "4"})
    assert {Prediction.usage(nothing), Prediction.total_tokens(nothing)} == {%{}, 0}
    unknown = %{"$meta" => %{"usage" => %{"m" => nil, "k" => %{"total_tokens" => nil}}}}
    assert unknown |> Prediction.from_term() |> Prediction.total_tokens() == 0
  end

  for {name, term, text} <- [
        {"one output", %{"answer" => "yes", "reasoning" => "r"}, "yes"},
        {"no text", %{"score" => 1.5}, "1.5"},
        {"a list", %{"names" => ["Ada", "Bo"]}, ~S|["Ada", "Bo"]|},
        {"a map", %{"person" => %{"name" => "Ada"}}, ~S|%{"name" => "Ada"}|},
        {"a date", %{"day" => ~D[2024-01-02]}, "2024-01-02"},
        {"a truth value", %{"right" => true}, "true"},
        {"nil", %{"answer" => nil}, ""},
        {"bytes", %{"answer" => <<255>>}, "<<255>>"},
        {"several outputs",
         %{"b" => "two\nlines", "a" => 1, "$meta" => %{"fields" => ["b", "a"]}},
         "b: two\nlines\na: 1"},
        {"an agent",
         %{"answer" => "3", "history" => %{"messages" => []}, "termination_reason" => "submit"},
         "3"},
        {"its own history", %{"answer" => "3", "history" => "h"}, "answer: 3\nhistory: h"},
        {"reasoning alone", %{"reasoning" => "r"}, "r"},
        {"nothing", %{}, ""}
      ] do
    test "is text: #{name}" do
      assert "#{Prediction.from_term(unquote(Macro.escape(term)))}" == unquote(text)
    end
  end

  describe "steps/1" do
    defp steps(fields), do: fields |> Prediction.from_term() |> Prediction.steps()

    test "reads the trajectory of dspy.ReAct, also of more than ten steps" do
      trajectory =
        for number <- 0..11,
            {name, value} <- [thought: "t", tool_name: "f", tool_args: %{}],
            into: %{} do
          {"#{name}_#{number}", if(is_binary(value), do: "#{value}#{number}", else: value)}
        end

      assert [%{thought: "t0", tool: "f0", args: %{}, code: nil, observation: nil} | _] =
               steps = steps(%{"trajectory" => trajectory, "answer" => "x"})

      assert Enum.map(steps, & &1.thought) == for(number <- 0..11, do: "t#{number}")
    end

    test "reads the trajectory of dspy.CodeAct" do
      trajectory = %{
        "generated_code_0" => "1 + 1",
        "code_output_0" => "2",
        "observation_1" => "Failed to parse the generated code: no"
      }

      assert [%{code: "1 + 1", observation: "2"}, %{code: nil, observation: "Failed" <> _}] =
               steps(%{"trajectory" => trajectory})
    end

    test "reads the trajectory of dspy.RLM" do
      entry = %{"reasoning" => "r", "code" => "print(1)", "output" => "1"}

      assert steps(%{"trajectory" => [entry]}) ==
               [%{thought: "r", tool: nil, args: nil, code: "print(1)", observation: "1"}]
    end

    test "reads the history of dspy.ReActV2, whose turns may call several tools" do
      turn = %{
        "next_thought" => "look",
        "tool_calls" => %{
          "tool_calls" => [
            %{"name" => "stock", "args" => %{"a" => 1}},
            %{"name" => "stock", "args" => %{}}
          ],
          "tool_call_results" => %{"tool_call_results" => [%{"value" => 3}]}
        }
      }

      history = %{
        "messages" => [%{"question" => "q"}, turn, %{"tool_calls" => %{"tool_calls" => []}}]
      }

      assert steps(%{"history" => history, "termination_reason" => "submit"}) == [
               %{thought: "look", tool: "stock", args: %{"a" => 1}, code: nil, observation: 3},
               %{thought: "look", tool: "stock", args: %{}, code: nil, observation: nil}
             ]
    end

    test "are none of other modules, and of a field that only has such a name" do
      for fields <- [
            %{"answer" => "x"},
            %{"trajectory" => "far"},
            %{"trajectory" => %{"length" => 1, 2 => 3}},
            %{"trajectory" => [1, %{}]},
            %{"history" => "long"},
            %{"history" => %{"messages" => "m"}}
          ],
          do: assert(steps(fields) == [])
    end
  end
end
