defmodule DSPex.Python.Call.ModuleCalls do
  @moduledoc false

  # Executes DSPy modules: once, as a stream, or once for each of many inputs. DSPex.Python documents each function.

  import DSPex.Python.Call.Arguments

  alias DSPex.Prediction
  alias DSPex.Python.Call.{CallOptions, Observation, Operation, Results, SpreadBatch}
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
    workers = SpreadBatch.workers(inputs_list, options)

    if workers == nil do
      args = [signature, inputs_list]

      with {:ok, terms} <- Operation.execute(:execute_batch, module, args, options),
           do: {:ok, Results.batch_results(terms, inputs_list)}
    else
      about = Operation.about(:execute_batch, module, [])
      options = CallOptions.share_budget(options)

      Observation.run(:execute_batch, options, about, fn options, call ->
        module
        |> spread(signature, inputs_list, 0, workers, %{options | within: call})
        |> SpreadBatch.collected()
      end)
    end
  end

  @doc """
  Executes a module once for each element of an enumerable, `chunk_size` elements in each call; returns a lazy stream of
  the results.
  """
  @spec stream_batch(ModuleSpec.t(), signature(), Enumerable.t(), pos_integer(), CallOptions.t()) ::
          Enumerable.t()
  def stream_batch(module, signature, inputs, chunk_size, options) do
    begin = fn -> CallOptions.share_budget(options) end

    SpreadBatch.chunks(inputs, chunk_size, begin, fn chunk, offset, options ->
      chunk(module, signature, python_inputs_list(chunk), offset, options)
    end)
  end

  defp chunk(module, signature, inputs_list, offset, options) do
    workers = SpreadBatch.workers(inputs_list, options)

    if workers == nil,
      do: part(module, signature, inputs_list, offset, options),
      else:
        Observation.stream(
          :stream_batch,
          options,
          Operation.about(:stream_batch, module, []),
          &spread(module, signature, inputs_list, offset, workers, &1)
        )
  end

  defp part(module, signature, inputs_list, offset, options) do
    :stream_batch
    |> Operation.stream(module, [signature, inputs_list], options)
    |> Stream.flat_map(&Results.batch_elements(&1, inputs_list, offset))
  end

  defp spread(module, signature, inputs_list, offset, workers, options) do
    SpreadBatch.stream(inputs_list, offset, workers, options, fn inputs_list, options ->
      part(module, signature, inputs_list, 0, options)
    end)
  end
end
