defmodule DSPex do
  @moduledoc """
  Calls DSPy from Elixir, over a port, with native terms.

      {:ok, prediction} =
        DSPex.Python.execute_module("dspy.ChainOfThought", "question -> answer", %{question: "What is ETF?"})

      prediction[:answer]

  The most important modules:

    * `DSPex.Python` - every operation, one function each
    * `DSPex.Python.Pool` - how to configure Python and its language model
    * `DSPex.LLM.Adapters.Python` - DSPy behind the protocol `DSPex.LLM.Adapter`
    * `DSPex.Prediction`, `DSPex.Python.Error` - the results
  """
end
