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

  test "writes values other than text as JSON" do
    model = start_supervised!({ScriptedModel, [%{tags: ["a", "b"], score: 0.5}]})

    assert {:ok, prediction} =
             Python.execute_module("dspy.Predict", "text -> tags: list[str], score: float", "t",
               lm: ScriptedModel.lm(model)
             )

    assert {prediction[:tags], prediction[:score]} == {["a", "b"], 0.5}
  end
end
