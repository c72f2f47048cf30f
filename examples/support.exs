defmodule Examples do
  @moduledoc """
  The model that an example asks: the one that `DSPEX_MODEL` names, such as `openai/gpt-4o-mini` with its key in
  `OPENAI_API_KEY`. Without it, the answers that stand in the example.
  """

  alias DSPex.Python.ScriptedModel

  def model(answers) do
    case System.get_env("DSPEX_MODEL") do
      nil ->
        {:ok, model} = ScriptedModel.start_link(answers)
        ScriptedModel.lm(model)

      name ->
        name
    end
  end

  @doc "What the model is told by a request, where an example's answers depend on it."
  defdelegate text(request), to: ScriptedModel

  @doc "An answer as a model writes it."
  defdelegate written(fields), to: ScriptedModel
end
