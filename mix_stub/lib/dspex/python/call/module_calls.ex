defmodule DSPex.Python.Call.ModuleCalls do
  @moduledoc false

  # Executes DSPy modules: once, as a stream, or once for each of many inputs. DSPex.Python documents each function.

  import DSPex.Python.Call.Arguments

  alias DSPex.Prediction
  alias DSPex.Python.Call.{CallOptions, Operation, Results}
  alias DSPex.Python.{Error, ModuleSpec}

  @typep signature :: String.t() | map() | nil
  @typep result(value) :: {:ok, value} | {:error, Error.t()}

  @doc """
  Checks a module, a signature and options without asking a model.
  """
  @spec validate(ModuleSpec.t(), signature(), CallOptions.t()) :: result(map())
  def validate(module, signature, options),
    do: Operation.execute(:validate_module, module, [signature], options)

  @doc """
  Executes a module once.
  """
  @spec execute(ModuleSpec.t(), signature(), term(), CallOptions.t()) :: result(Prediction.t())
  def execute(module, signature, inputs, options) do
    args = [signature, python_inputs(inputs)]

    with {:ok, term} <- Operation.execute(:execute_module, module, args, options),
         do: {:ok, Prediction.from_term(term)}
  end

  @doc """
  Returns a lazy stream of the pieces of the answer.
  """
  @spec stream(ModuleSpec.t(), signature(), term(), CallOptions.t()) :: Enumerable.t()
  def stream(module, signature, inputs, options) do
    args = [signature, python_inputs(inputs)]

    :stream_module
    |> Operation.stream(module, args, options)
    |> Stream.map(&Results.stream_element/1)
  end

  @doc """
  Executes a module once for each element of a list.
  """
  @spec execute_batch(ModuleSpec.t(), signature(), term(), CallOptions.t()) ::
          result([result(Prediction.t())])
  def execute_batch(module, signature, inputs_list, options) do
    inputs_list = python_inputs_list(inputs_list)
    args = [signature, inputs_list]

    with {:ok, terms} <- Operation.execute(:execute_batch, module, args, options),
         do: {:ok, Results.batch_results(terms, inputs_list)}
  end

  @doc """
  Executes a module once for each element of an enumerable, `chunk_size` elements in each call; returns a lazy stream of
  the results.
  """
  @spec stream_batch(ModuleSpec.t(), signature(), Enumerable.t(), pos_integer(), CallOptions.t()) ::
          Enumerable.t()
  def stream_batch(module, signature, inputs, chunk_size, options) do
    inputs
    |> Stream.chunk_every(chunk_size)
    |> Stream.transform(0, fn chunk, offset ->
      inputs_list = python_inputs_list(chunk)

      results =
        :stream_batch
        |> Operation.stream(module, [signature, inputs_list], options)
        |> Stream.flat_map(&Results.batch_elements(&1, inputs_list, offset))

      {results, offset + length(chunk)}
    end)
  end
end
