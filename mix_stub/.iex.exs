IO.puts(
  ~S|try: {:ok, p} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?")|
)
