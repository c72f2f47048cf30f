# Without its Python the pool has logged what to run, and the example would not work.
python = Application.get_env(:dspex, DSPex.Python, [])[:pools][:general][:python]

if python && System.find_executable(python) do
  IO.puts(
    ~S|try: {:ok, p} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?")|
  )
end
