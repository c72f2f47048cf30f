defmodule DSPex do
  @moduledoc """
  Calls DSPy from Elixir, over a port, with native terms.

      {:ok, prediction} =
        DSPex.Python.execute_module("dspy.ChainOfThought", "question -> answer", %{question: "What is ETF?"})

      prediction[:answer]

  Where to go on:

    * `DSPex.Python` - every operation, one function each
    * `DSPex.Python.Pool` - how Python and its language model are configured
    * `DSPex.LLM.Adapters.Python` - the same behind the protocol `DSPex.LLM.Adapter`
    * `DSPex.Prediction`, `DSPex.Python.Error` - what comes back
  """
end
