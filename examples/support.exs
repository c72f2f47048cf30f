defmodule Examples do
  @moduledoc """
  The model that an example asks: the model named by `DSPEX_MODEL`, such as `openai/gpt-4o-mini` with its key in
  `OPENAI_API_KEY`. Without `DSPEX_MODEL`, the answers that are written in the example.
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

  @doc "Returns the text of a request, for examples whose answers depend on it."
  defdelegate text(request), to: ScriptedModel

  @doc "Returns an answer in the form in which a model writes it."
  defdelegate written(fields), to: ScriptedModel
end
