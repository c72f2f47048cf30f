defmodule DSPex.Python.Functions.Role do
  @moduledoc false

  # What a function is for: with how many arguments it is called, and how these come from the one map that Python gives.

  alias DSPex.Prediction

  @type t :: :tool | :reward | :metric | :retriever | :embedder

  @roles [:tool, :reward, :metric, :retriever, :embedder]

  @doc """
  Returns the role of this name, or `nil`.
  """
  @spec named(term()) :: t() | nil
  def named(name), do: Enum.find(@roles, &(Atom.to_string(&1) == name))

  @doc """
  Lists the numbers of arguments that a function of a role may have. The usual number is the first one.

  A metric may also take what DSPy gives metrics: the trace, the predictor's name and the predictor's trace.
  """
  @spec arities(t()) :: [arity(), ...]
  def arities(role) when role in [:tool, :embedder], do: [1]
  def arities(role) when role in [:reward, :retriever], do: [2]
  def arities(:metric), do: [2, 3, 4, 5]

  @doc """
  Returns the function as Python calls it, with one map.
  """
  @spec adapt(t(), function()) :: (map() -> term())
  def adapt(:tool, function), do: function
  def adapt(:embedder, function), do: fn %{"texts" => texts} -> function.(texts) end
  def adapt(:retriever, function), do: fn %{"query" => query, "k" => k} -> function.(query, k) end

  def adapt(role, function) when role in [:reward, :metric] do
    {:arity, arity} = Function.info(function, :arity)

    fn %{"inputs" => inputs, "prediction" => fields} = given ->
      traced = [given["trace"], given["pred_name"], given["pred_trace"]]
      apply(function, [inputs, Prediction.from_term(fields) | Enum.take(traced, arity - 2)])
    end
  end
end
