defmodule DSPex.Python.Functions.ScriptedModelTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  doctest ScriptedModel

  @signature "question -> answer"

  test "returns its replies in order, and an error after the last" do
    model =
      start_supervised!(
        {ScriptedModel,
         [
           %{answer: "first"},
           ScriptedModel.written(answer: "second"),
           {:error, {:rate_limit, retry_after: 1}},
           fn request -> ScriptedModel.written(answer: "asked #{length(request.messages)}") end
         ]}
      )

    ask = fn ->
      Python.execute_module("dspy.Predict", @signature, "Why?", lm: ScriptedModel.lm(model))
    end

    assert {:ok, %{fields: %{"answer" => "first"}}} = ask.()
    assert {:ok, %{fields: %{"answer" => "second"}}} = ask.()
    assert {:error, %Error{kind: :rate_limit}} = ask.()
    assert {:ok, %{fields: %{"answer" => "asked 2"}}} = ask.()
    assert {:error, %Error{kind: :provider} = error} = ask.()
    assert error.message =~ "no reply to request 5"
    assert length(ScriptedModel.requests(model)) == 5
  end

  test "names a field of a reply for which the prompt does not ask" do
    model = start_supervised!({ScriptedModel, [%{answr: "Lisbon"}]})

    assert {:error, %Error{kind: :provider, message: message}} =
             Python.execute_module("dspy.Predict", @signature, "Eh?", lm: ScriptedModel.lm(model))

    assert message =~
             ~s|the field :answr, for which the prompt does not ask (did you mean "answer"?)|
  end

  test "names the fields that a reply may have, and no input" do
    for {reply, wrong} <- [{%{anser: "x"}, ":anser"}, {%{question: "x"}, ":question"}] do
      model = start_supervised!({ScriptedModel, [reply]}, id: wrong)

      assert {:error, %Error{kind: :provider, message: message}} =
               Python.execute_module(
                 "dspy.ChainOfThought",
                 "question, text -> answer, note",
                 %{
                   question: "Respond with the corresponding output fields [[ ## x ## ]]",
                   text: "t"
                 },
                 lm: ScriptedModel.lm(model)
               )

      assert message =~ "has the field #{wrong}, for which the prompt does not ask"
      assert message =~ "; its fields: reasoning, answer, note"
      refute message =~ "answer, note,"
    end
  end

  test "writes values other than text as JSON" do
    model = start_supervised!({ScriptedModel, [%{tags: ["a", "b"], score: 0.5}]})

    assert {:ok, prediction} =
             Python.execute_module("dspy.Predict", "text -> tags: list[str], score: float", "t",
               lm: ScriptedModel.lm(model)
             )

    assert {prediction[:tags], prediction[:score]} == {["a", "b"], 0.5}
  end

  test "tells of a missing reply that an earlier one could perhaps not be read" do
    model = start_supervised!({ScriptedModel, [%{reasoning: "No answer."}]})

    assert {:error, %Error{kind: :provider, message: message}} =
             Python.execute_module("dspy.ChainOfThought", @signature, "Why?",
               lm: ScriptedModel.lm(model)
             )

    assert message =~ "no reply to request 2, which asks for JSON"

    assert message =~
             "an answer that cannot be read is asked for again as JSON: check the fields of the reply before"

    empty = start_supervised!({ScriptedModel, []}, id: :empty)

    assert {:error, %Error{kind: :provider, message: message}} =
             Python.execute_module("dspy.Predict", @signature, "Eh?", lm: ScriptedModel.lm(empty))

    assert message =~ "no reply to request 1"
    refute message =~ "JSON"
  end

  test "takes a map from a function as fields, unless it is an answer" do
    replies = [
      fn _request -> %{answer: "first", reasoning: "Because."} end,
      fn _request -> {:ok, %{"answer" => "second", "reasoning" => "Because."}} end,
      fn _request ->
        %{text: ScriptedModel.written(answer: "third", reasoning: "Because."), usage: %{}}
      end
    ]

    for replies <- [replies, fn _request -> %{answer: "first", reasoning: "Because."} end] do
      {:ok, model} = ScriptedModel.start_link(replies)
      expected = if is_list(replies), do: ~w(first second third), else: ~w(first first)

      for answer <- expected do
        assert {:ok, prediction} =
                 Python.execute_module("dspy.ChainOfThought", @signature, "Why?",
                   lm: ScriptedModel.lm(model)
                 )

        assert {prediction[:answer], prediction[:reasoning]} == {answer, "Because."}
      end
    end
  end

  test "writes fields as JSON for a prompt that asks for it" do
    {:ok, model} = ScriptedModel.start_link([%{answer: "first"}, "?", %{answer: "second"}])
    options = [lm: ScriptedModel.lm(model)]

    for {adapter, answer} <- [{"json", "first"}, {"chat", "second"}] do
      assert {:ok, %{fields: %{"answer" => ^answer}}} =
               Python.execute_module(
                 "dspy.Predict",
                 @signature,
                 "Why?",
                 [adapter: adapter] ++ options
               )
    end

    # The error of a function that leaves a field out names the fields.
    {:ok, model} = ScriptedModel.start_link(fn _request -> %{reasoning: "No answer."} end)

    assert {:error, %Error{message: message}} =
             Python.execute_module("dspy.ChainOfThought", @signature, "Why?",
               lm: ScriptedModel.lm(model)
             )

    assert message =~ "answer"
    refute message =~ "does not ask"
  end

  test "raises for replies that are no list and no function of one argument" do
    for wrong <- [%{answer: "x"}, "x", nil, fn -> "x" end, {:error, :server}] do
      error = assert_raise ArgumentError, fn -> ScriptedModel.start_link(wrong) end

      assert error.message ==
               "expected a list of replies or a function of one argument, got #{inspect(wrong)}"
    end
  end
end
