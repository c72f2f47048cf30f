defmodule DSPex.Python.Functions.NamedFunction do
  @moduledoc false

  # Checks a function that an option names by its module, such as `redact: {MyApp.Privacy, :clean}`. What is not there would fail at each
  # call, long after the mistake.

  alias DSPex.Suggestion

  @doc """
  Tells whether a module of this node exports the function; the error is the beginning of a sentence, which says what there is instead.

      iex> DSPex.Python.Functions.NamedFunction.check(String, :upcase, 1)
      :ok
      iex> DSPex.Python.Functions.NamedFunction.check(String, :upcas, 1)
      {:error, "there is no public function String.upcas/1 (did you mean :upcase?)"}
      iex> DSPex.Python.Functions.NamedFunction.check(String, :upcase, 3)
      {:error, "there is no public function String.upcase/3 (there is upcase/1, upcase/2)"}
      iex> DSPex.Python.Functions.NamedFunction.check(Strin, :upcase, 1)
      {:error, "this node has no module Strin"}
  """
  @spec check(module(), atom(), arity()) :: :ok | {:error, String.t()}
  def check(module, name, arity) do
    cond do
      not Code.ensure_loaded?(module) ->
        {:error, "this node has no module #{inspect(module)}"}

      function_exported?(module, name, arity) ->
        :ok

      true ->
        function = Exception.format_mfa(module, name, arity)
        {:error, "there is no public function #{function}#{hint(module, name, arity)}"}
    end
  end

  defp hint(module, name, arity) do
    exports = module.module_info(:exports)

    case for {^name, other} <- exports, do: "#{name}/#{other}" do
      [] -> Suggestion.hint(name, for({other, ^arity} <- exports, do: other))
      others -> " (there is #{others |> Enum.sort() |> Enum.join(", ")})"
    end
  end
end
