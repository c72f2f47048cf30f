defmodule DSPex.Python.Call.ModuleCalls.CodeToolsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.ScriptedModel

  @tool %{
    name: "stock",
    description: "How many pieces of an article are in stock",
    parameters: %{
      article: :string,
      size: {:integer, default: 8},
      color: {:string, optional: true}
    },
    function: &__MODULE__.stock/1
  }

  def stock(%{"article" => "bolt"} = arguments),
    do: %{pieces: 3 * arguments["size"], color: arguments["color"]}

  def stock(%{"article" => article}), do: {:error, "no #{article} here"}

  test "code that a model writes calls Elixir functions and an Elixir model" do
    code = """
    print(stock("bolt")["pieces"], stock(article="bolt", size=2, color="red"), stock("nut"))
    print(llm_query("and what do you say?"))
    """

    model =
      start_supervised!(
        {ScriptedModel,
         [%{reasoning: "look", code: code}, %{reasoning: "done", code: "SUBMIT(24)"}]}
      )

    sub_model = {:elixir, function: fn _request -> "not much" end}
    spec = %{module: "dspy.RLM", sub_lm: sub_model, tools: [@tool]}

    assert {:ok, prediction} =
             Python.execute_module(spec, "question -> answer: int", "How many?",
               lm: ScriptedModel.lm(model),
               timeout: 120_000
             )

    assert prediction[:answer] == 24
    assert [%{"output" => output}, _submitted] = prediction[:trajectory]

    assert output ==
             "24 {'color': 'red', 'pieces': 6} Error in stock: no nut here\nnot much\n"
  end
end
