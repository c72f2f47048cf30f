# Classification: one of several labels, and a confidence within bounds. An answer that breaks them is asked for again.
Code.require_file("support.exs", __DIR__)

signature = %{
  inputs: [:sentence],
  outputs: %{
    sentiment: {:enum, ["positive", "negative", "neutral"]},
    confidence: {:float, ge: 0, le: 1}
  }
}

model =
  Examples.model([
    # A percentage is out of bounds: refused, and the model is told why.
    %{sentiment: "positive", confidence: 95},
    %{sentiment: "positive", confidence: 0.95}
  ])

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.Predict",
    signature,
    "This book was super fun to read, though not the last chapter.",
    lm: model,
    parse_retries: 2
  )

IO.puts("#{prediction[:sentiment]} (#{prediction[:confidence]})")
