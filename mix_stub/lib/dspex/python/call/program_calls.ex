defmodule DSPex.Python.Call.ProgramCalls do
  @moduledoc false

  # Creates, executes, evaluates, compiles and stores programs. DSPex.Python documents each function.

  import DSPex.Python.Call.Arguments

  alias DSPex.{Prediction, Program}

  alias DSPex.Python.Call.{
    CallOptions,
    Operation,
    ProgramSpec,
    ProgressLine,
    Results,
    SpreadBatch,
    SpreadProgram,
    StructHints
  }

  alias DSPex.Python.Error
  alias DSPex.Python.Pool.OpenBatches

  @typep program :: Program.t() | String.t() | atom()
  @typep result(value) :: {:ok, value} | {:error, Error.t()}

  @doc """
  Creates a program in a session.
  """
  @spec create(term(), CallOptions.t()) :: result(Program.t())
  def create(spec, options) do
    # Python refuses every unknown option here, strict or not, because it knows which of them belong to the spec.
    {_strict, options} = CallOptions.pop(options, :strict)
    taken = [:session_id]

    with :ok <- CallOptions.check_misspelt(options, taken),
         {:ok, spec} <- ProgramSpec.to_python(spec, options.pool),
         created = Operation.call(:create_program, [spec, options.python], options),
         {:ok, term} <- CallOptions.explain_unknown(created, options, taken) do
      {:ok, Program.from_term(term, options.pool)}
    else
      error -> StructHints.explain(error, nil, %{"spec" => spec, "opts" => options.python})
    end
  end

  @doc """
  Executes a program once.
  """
  @spec execute(program(), term(), CallOptions.t()) :: result(Prediction.t())
  def execute(program, inputs, options) do
    with {:ok, term} <-
           execute_operation(:execute_program, program, python_inputs(inputs), options),
         do: {:ok, Prediction.from_term(term)}
  end

  @doc """
  Returns a lazy stream of the pieces of the answer.
  """
  @spec stream(program(), term(), CallOptions.t()) :: Enumerable.t()
  def stream(program, inputs, options) do
    :stream_program
    |> stream_operation(program, python_inputs(inputs), options)
    |> Stream.map(&Results.stream_element/1)
  end

  @doc """
  Executes a program once for each element of a list.
  """
  @spec execute_batch(program(), term(), CallOptions.t()) :: result([result(Prediction.t())])
  def execute_batch(program, inputs_list, options) do
    inputs_list = python_inputs_list(inputs_list)

    as_batch(program, options, fn options ->
      case SpreadProgram.plan(program, inputs_list, options) do
        {:one_call, options} ->
          with {:ok, terms} <-
                 execute_operation(:execute_program_batch, program, inputs_list, options),
               do: {:ok, Results.batch_results(terms, inputs_list)}

        plan ->
          SpreadProgram.run(plan, :execute_program_batch, fn plan ->
            plan |> SpreadProgram.batch(inputs_list, 0) |> SpreadBatch.collected()
          end)
      end
    end)
  end

  @doc """
  Executes a program once for each element of an enumerable, `chunk_size` elements in each call; returns a lazy stream of the
  results.
  """
  @spec stream_batch(program(), Enumerable.t(), pos_integer(), CallOptions.t()) :: Enumerable.t()
  def stream_batch(program, inputs, chunk_size, options) do
    begin = fn -> in_pool(options, program) end

    SpreadBatch.chunks(inputs, chunk_size, begin, fn chunk, offset, options ->
      inputs_list = python_inputs_list(chunk)

      case SpreadProgram.plan(program, inputs_list, options) do
        {:one_call, options} ->
          :stream_program_batch
          |> stream_operation(program, inputs_list, options)
          |> Stream.flat_map(&Results.batch_elements(&1, inputs_list, offset))

        plan ->
          SpreadProgram.stream(
            plan,
            :stream_program_batch,
            &SpreadProgram.batch(&1, inputs_list, offset)
          )
      end
    end)
  end

  @doc """
  Executes a program for each example and scores its predictions. The option `:progress` shows each score at once.
  """
  @spec evaluate(program(), term(), term(), CallOptions.t()) :: result(map())
  def evaluate(program, examples, metric, options) do
    {progress, options} = CallOptions.pop(options, :progress)
    refuse_option_as_metric!(metric)

    if progress in [nil, false] do
      options = CallOptions.put(options, :metric, metric)
      examples = python_inputs_list(examples)

      as_batch(program, options, fn options ->
        case SpreadProgram.plan(program, examples, options) do
          {:one_call, options} ->
            with {:ok, report} <-
                   execute_operation(:evaluate_program, program, examples, options),
                 do: {:ok, Results.evaluation(report, examples)}

          plan ->
            SpreadProgram.run(plan, :evaluate_program, fn plan ->
              plan
              |> SpreadProgram.evaluation(examples)
              |> Enum.reduce(nil, fn last, _ -> last end)
            end)
        end
      end)
    else
      program |> stream_evaluate(examples, metric, options) |> ProgressLine.follow(progress)
    end
  end

  @doc """
  Returns a lazy stream of the scores, and at last the evaluation.
  """
  @spec stream_evaluate(program(), term(), term(), CallOptions.t()) :: Enumerable.t()
  def stream_evaluate(program, examples, metric, options) do
    refuse_option_as_metric!(metric)
    options = CallOptions.put(options, :metric, metric)
    examples = python_inputs_list(examples)

    # Only when the stream is read is the program there, and how many workers the pool has is known.
    Stream.transform(
      [:read],
      fn -> OpenBatches.begun(pool(program, options), options.python[:request_id]) end,
      fn :read, batch ->
        {evaluation_stream(program, examples, %{options | batch: batch}), batch}
      end,
      &OpenBatches.ended/1
    )
  end

  defp evaluation_stream(program, examples, options) do
    case SpreadProgram.plan(program, examples, options) do
      {:one_call, options} ->
        :stream_evaluate
        |> stream_operation(program, examples, options)
        |> Stream.map(&Results.evaluation_element(&1, examples))

      plan ->
        SpreadProgram.stream(plan, :stream_evaluate, &SpreadProgram.evaluation(&1, examples))
    end
  end

  # Of a compilation it is an option, so that it is written as one here too.
  defp refuse_option_as_metric!([{:metric, metric} | _rest]) do
    raise ArgumentError,
          "expected the metric itself as the third argument of an evaluation, got options with :metric; " <>
            "write evaluate_program(program, examples, #{inspect(metric, limit: 5)})"
  end

  defp refuse_option_as_metric!(_metric), do: :ok

  @doc """
  Improves a program by examples. The option `:progress` shows each score at once.
  """
  @spec compile(program(), term(), CallOptions.t()) :: result(Program.t())
  def compile(program, trainset, options) do
    {progress, options} = CallOptions.pop(options, :progress)

    if progress in [nil, false] do
      examples = python_inputs_list(trainset)

      with {:ok, term} <- execute_operation(:compile_program, program, examples, options),
           do: {:ok, Program.from_term(term, pool(program, options))}
    else
      last = program |> stream_compile(trainset, options) |> ProgressLine.follow(progress)
      with {:program, compiled} <- last, do: {:ok, compiled}
    end
  end

  @doc """
  Returns a lazy stream of the scores, and at last the program.
  """
  @spec stream_compile(program(), term(), CallOptions.t()) :: Enumerable.t()
  def stream_compile(program, trainset, options) do
    pool = pool(program, options)

    :stream_compile
    |> stream_operation(program, python_inputs_list(trainset), options)
    |> Stream.map(&Results.compile_element(&1, pool))
  end

  @doc """
  Returns a program as JSON text.
  """
  @spec dump(program(), CallOptions.t()) :: result(String.t())
  def dump(program, options), do: look_up(:dump_program, program, options)

  @doc """
  Makes a program from the text of `dump/2`.
  """
  @spec load(String.t(), CallOptions.t()) :: result(Program.t())
  def load(text, options) do
    taken = [:session_id, :lm, :lms, :allow_urls]

    with {:ok, python_options} <-
           ProgramSpec.load_options(Map.take(options.python, taken), options.pool),
         {:ok, term} <-
           Operation.look_among(:load_program, [text, python_options], options, taken),
         do: {:ok, Program.from_term(term, options.pool)}
  end

  @doc """
  Describes a program.
  """
  @spec describe(program(), CallOptions.t()) :: result(map())
  def describe(program, options), do: look_up(:describe_program, program, options)

  @doc """
  Deletes a program with all of its versions.
  """
  @spec delete(program(), CallOptions.t()) :: result(map())
  def delete(program, options) do
    {session_id, program_id, options} = looked_up(program, options)
    Operation.look_among(:delete_program, [session_id, program_id], options, [:session_id])
  end

  @doc """
  Calls an operation on the conversations of a program; `args` follow the program.
  """
  @spec conversation(atom(), program(), [term()], CallOptions.t()) :: result(term())
  def conversation(operation, program, args, options) do
    {session_id, program_id, options} = looked_up(program, options)

    operation
    |> Operation.look_among([session_id, program_id | args], options, [:session_id])
    |> StructHints.explain(List.last(args))
  end

  # So that it can be cancelled also while it is found out how it is run.
  defp as_batch(program, options, run) do
    pool = pool(program, options)
    OpenBatches.during(pool, options.python[:request_id], &run.(%{options | batch: &1}))
  end

  defp execute_operation(operation, program, argument, options) do
    {session_id, program_id, options} = program_target(program, options)
    options = %{options | resolves?: true}
    Operation.execute(operation, session_id, [program_id, argument], options)
  end

  defp stream_operation(operation, program, argument, options) do
    {session_id, program_id, options} = program_target(program, options)
    options = %{options | resolves?: true}
    Operation.stream(operation, session_id, [program_id, argument], options)
  end

  # A program that was compiled has versions; all else that executes nothing is about all of them.
  defp look_up(operation, program, options) do
    {session_id, program_id, options} = looked_up(program, options)
    version = Map.merge(version(program), Map.take(options.python, [:version]))
    args = [session_id, program_id, version]
    Operation.look_among(operation, args, options, [:session_id, :version])
  end

  defp version(%Program{version: version}), do: %{version: version}
  defp version(_program_id), do: %{}

  defp pool(%Program{pool: pool}, _options), do: pool
  defp pool(_program_id, options), do: options.pool
end
