# An agent: dspy.ReAct calls functions of Elixir until it can answer.
Code.require_file("support.exs", __DIR__)

stock = %{"bolts" => 120, "nuts" => 0}

tools = [
  %{
    name: "stock",
    description: "How many pieces of an article are in stock",
    parameters: %{article: :string},
    function: fn %{"article" => article} -> Map.fetch!(stock, article) end
  },
  %{
    name: "order",
    description: "Orders pieces of an article",
    parameters: %{article: :string, count: {:integer, minimum: 1}},
    function: fn %{"article" => article, "count" => count} -> "ordered #{count} #{article}" end
  }
]

model =
  Examples.model([
    %{
      next_thought: "I look how many there are.",
      next_tool_name: "stock",
      next_tool_args: %{article: "nuts"}
    },
    %{
      next_thought: "None: I order some.",
      next_tool_name: "order",
      next_tool_args: %{article: "nuts", count: 50}
    },
    %{next_thought: "Done.", next_tool_name: "finish", next_tool_args: %{}},
    %{
      reasoning: "There were none, and 50 were ordered.",
      answer: "Nuts had run out; 50 are on their way."
    }
  ])

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.ReAct",
    "task -> answer",
    "See to it that there are nuts in stock.",
    tools: tools,
    lm: model
  )

IO.puts("Answer: #{prediction[:answer]}")
IO.puts("Observed: #{prediction[:trajectory]["observation_1"]}")
