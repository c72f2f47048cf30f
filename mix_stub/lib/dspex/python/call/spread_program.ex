defmodule DSPex.Python.Call.SpreadProgram do
  @moduledoc false

  # Runs the batches and evaluations of a stored program in all workers of a pool, as DSPex.Python.Call.SpreadBatch does for
  # modules. Each worker must find the program, so the pool has a store, and Python says that the program is portable: that
  # no model of it has a key or a function which only its own worker knows. All parts run the same version.
  # One worker gets all as one part, and is asked nothing before.

  import DSPex.Python.Call.Arguments

  alias DSPex.{Prediction, Program}
  alias DSPex.Python.Call.{CallOptions, Observation, Operation, Results, SpreadBatch}
  alias DSPex.Python.Pool.{OpenBatches, Routing}
  alias DSPex.Python.Wire.Timeout

  @enforce_keys [:workers, :session_id, :program_id, :options]
  defstruct @enforce_keys

  @typedoc "How a program is called: in how many workers, and with which options."
  @type t :: %__MODULE__{
          workers: pos_integer(),
          session_id: String.t() | nil,
          program_id: String.t(),
          options: CallOptions.t()
        }

  @doc """
  Asks Python about the program; `{:one_call, options}`: it is called once with all inputs, in the worker of its session, with
  what is left of the time.
  """
  @spec plan(Program.t() | String.t(), term(), CallOptions.t()) ::
          t() | {:one_call, CallOptions.t()}
  def plan(program, inputs_list, given) do
    {session_id, program_id, options} = program_target(program, given)

    with pool when is_atom(pool) <- options.pool,
         workers = Routing.size(pool),
         true <- workers > 0 and match?([_first | _rest], inputs_list),
         false <- List.improper?(inputs_list),
         false <- workers == 1 and SpreadBatch.fail_fast?(options),
         true <- Routing.shares_sessions?(pool),
         {:ok, options} <- in_workers(workers, session_id, program_id, options) do
      %__MODULE__{
        workers: workers,
        session_id: session_id,
        program_id: program_id,
        options: CallOptions.share_budget(%{options | resolves?: true, route: :any})
      }
    else
      {:one_call, timeout} -> {:one_call, unless_cancelled(%{given | timeout: timeout})}
      _one_call -> {:one_call, given}
    end
  end

  defp unless_cancelled(options) do
    if OpenBatches.cancelled?(options.batch),
      do: %{options | once: {:error, SpreadBatch.cancelled_error()}},
      else: options
  end

  # One worker that is replaced finds the program in the store, or says for the items that are left that there is none.
  defp in_workers(1, _session_id, _program_id, options), do: {:ok, options}

  defp in_workers(_several, session_id, program_id, options) do
    asked = [session_id, program_id, Map.take(options.python, [:version])]
    deadline = Timeout.deadline(options.timeout)
    # The rest is for the call itself.
    half = with ms when is_integer(ms) <- options.timeout, do: max(div(ms, 2), 1)
    uncounted = %{options | counted?: false, retry: :safe, timeout: half}
    described = Operation.call(:describe_program, asked, uncounted)
    left = with ms when is_integer(ms) <- Timeout.remaining(deadline, 0), do: max(ms, 1)

    case described do
      {:ok, %{"portable" => true, "history" => false, "version" => version}} ->
        {:ok, CallOptions.put(%{options | timeout: left}, :version, version)}

      _other ->
        {:one_call, left}
    end
  end

  @doc """
  Runs `work`, which is a call of the program, as one call with one pair of events and one trace.
  """
  @spec run(t(), atom(), (t() -> result)) :: result when result: term()
  def run(plan, operation, work) do
    Observation.run(operation, plan.options, about(plan), fn options, call ->
      work.(%{plan | options: %{options | within: call}})
    end)
  end

  @doc """
  Returns the stream of `make`, which is a call of the program, as `run/3` does.
  """
  @spec stream(t(), atom(), (t() -> Enumerable.t())) :: Enumerable.t()
  def stream(plan, operation, make),
    do: Observation.stream(operation, plan.options, about(plan), &make.(%{plan | options: &1}))

  defp about(plan), do: Operation.about(:execute_program, plan.session_id, [plan.program_id])

  @doc """
  Runs a batch; returns the stream of `{index, result}`, and `{:error, error}` if the batch has failed as a whole.
  """
  @spec batch(t(), [term()], non_neg_integer()) :: Enumerable.t()
  def batch(plan, inputs_list, offset) do
    spread(plan, inputs_list, offset, fn inputs_list, options ->
      plan
      |> call(:stream_program_batch, inputs_list, options)
      |> Stream.flat_map(&Results.batch_elements(&1, inputs_list, 0))
    end)
  end

  @doc """
  Evaluates; returns the stream of `DSPex.Python.stream_evaluate/4`.
  """
  @spec evaluation(t(), [term()]) :: Enumerable.t()
  def evaluation(plan, examples) do
    failure_score = plan.options.python[:failure_score] || 0.0

    plan
    |> spread(examples, 0, fn examples, options ->
      plan
      |> call(:stream_evaluate, examples, options)
      |> Stream.map(&Results.evaluation_element(&1, examples))
      |> Stream.map(&with({:ok, evaluation} <- &1, do: {:ended, beside_results(evaluation)}))
    end)
    |> Stream.transform(
      fn -> %{began: System.monotonic_time(), scored: [], parts: [], failed?: false} end,
      fn
        {:ended, part}, seen -> {[], %{seen | parts: [part | seen.parts]}}
        {:error, _error} = failed, seen -> {[failed], %{seen | failed?: true}}
        element, seen -> {[element], %{seen | scored: [element | seen.scored]}}
      end,
      fn seen -> {if(seen.failed?, do: [], else: [{:ok, whole(seen, failure_score)}]), seen} end,
      fn _seen -> :ok end
    )
  end

  # What the results of a part do not show. A part whose worker dies has no report, and the results that it had count all the same.
  defp beside_results(evaluation) do
    %{
      metric_tokens: evaluation.metric_tokens,
      tokens: evaluation.total_tokens - tokens(evaluation.results),
      # Without those about its results, which are the last ones.
      warnings: Enum.drop(evaluation.warnings, -length(of_results(evaluation.results)))
    }
  end

  defp tokens(results), do: results |> Enum.map(&result_tokens/1) |> Enum.sum()

  defp result_tokens({:ok, scored}), do: Prediction.total_tokens(scored.prediction)
  # What was paid before it failed, also for its metric.
  defp result_tokens({:error, error}), do: Prediction.usage_tokens(error.details["usage"] || %{})

  # As Python's report of an evaluation in one call.
  defp whole(seen, failure_score) do
    results = seen.scored |> List.keysort(0) |> Enum.map(&elem(&1, 1))
    done = for {:ok, scored} <- results, do: scored
    failed = length(results) - length(done)
    total = Enum.sum(Enum.map(done, & &1.score)) + failed * failure_score
    took = System.monotonic_time() - seen.began

    %{
      score: 100 * total / length(results),
      count: length(results),
      failed: failed,
      total_tokens: tokens(results) + sum(seen.parts, :tokens),
      metric_tokens: sum(seen.parts, :metric_tokens),
      duration_ms: System.convert_time_unit(took, :native, :microsecond) / 1000,
      warnings: Enum.uniq(Enum.flat_map(seen.parts, & &1.warnings)) ++ of_results(results),
      results: results
    }
  end

  defp sum(parts, name), do: parts |> Enum.map(&Map.fetch!(&1, name)) |> Enum.sum()

  # As erlport_bridge/programs/execution/evaluation.py words it.
  defp of_results(results) do
    numbered = Enum.with_index(results)

    beyond =
      for {{:ok, %{score: score}}, index} when score < 0 or score > 1 <- numbered, do: index

    failed = for {{:error, error}, index} <- numbered, do: {error, index}
    beyond(beyond, length(results)) ++ failures(failed, length(results))
  end

  defp beyond([], _count), do: []

  defp beyond([index | _more] = found, count) do
    [
      "#{length(found)} of #{count} scores are not from 0 to 1, the first one that of examples[#{index}], so that the " <>
        "score is no percentage"
    ]
  end

  defp failures([], _count), do: []

  defp failures([{error, index} | _more] = found, count) do
    [message | _more] = String.split(error.message, "\n", parts: 2)

    [
      "#{length(found)} of #{count} examples failed; the first one, examples[#{index}]: #{message}"
    ]
  end

  defp spread(plan, inputs_list, offset, run),
    do: SpreadBatch.stream(inputs_list, offset, plan.workers, plan.options, run)

  defp call(plan, operation, inputs_list, options),
    do: Operation.stream(operation, plan.session_id, [plan.program_id, inputs_list], options)
end
