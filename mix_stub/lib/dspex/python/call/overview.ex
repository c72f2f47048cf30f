defmodule DSPex.Python.Call.Overview do
  @moduledoc false

  # Looks at all pools at one moment: their workers, what these hold and run, and what was spent. A worker that does not
  # answer soon is shown as silent; nothing here waits for it.

  alias DSPex.Python.Pool
  alias DSPex.Python.Pool.Messages
  alias DSPex.Python.Port.{Connection, Names}

  # What a busy Python needs at most to answer a short call.
  @timeout 2_000
  @most_calls 100

  @enforce_keys [:at, :pools]
  defstruct @enforce_keys

  @typedoc "What was seen, and when, by the monotonic clock in ms."
  @type t :: %__MODULE__{at: integer(), pools: [pool()]}
  @type pool :: %{
          name: atom(),
          queued: non_neg_integer(),
          workers: [worker()],
          spent: spent()
        }
  @typedoc "What a worker is and does. Where it has not answered, the numbers that it knows alone are `nil`."
  @type worker :: %{
          number: pos_integer(),
          pid: pos_integer() | nil,
          state: :ready | :starting | :failed | :spare | :draining | :silent,
          in_flight: non_neg_integer(),
          memory: non_neg_integer() | nil,
          sessions: non_neg_integer() | nil,
          programs: non_neg_integer() | nil,
          calls: [map()]
        }
  @type spent :: %{tokens: number(), cost: number(), errors: number()}

  @doc """
  Returns names of pools; raises `ArgumentError` unless they are `:all` or a list of pools that there are.
  """
  @spec pools!(term()) :: [atom()] | :all
  def pools!(:all), do: :all

  def pools!(names) do
    :ok = Messages.check_list!(names)
    known = if Names.available?(), do: Names.pools(), else: []

    for name <- names,
        name not in known,
        do: raise(ArgumentError, Messages.not_running(name).message)

    names
  end

  @doc """
  Looks at these pools as `take/1` does, after a check of their names.
  """
  @spec of([atom()] | :all) :: t()
  def of(pools), do: pools |> pools!() |> take()

  @doc """
  Looks at the pools, all by default.
  """
  @spec take([atom()] | :all) :: t()
  def take(:all) do
    if Names.available?(), do: take(Enum.sort(Names.pools())), else: take([])
  end

  def take(names) do
    pools = for name <- names, Names.lookup(:pool, name) != nil, do: pool(name)
    %__MODULE__{at: System.monotonic_time(:millisecond), pools: pools}
  end

  defp pool(name) do
    workers =
      Names.workers(name)
      |> Task.async_stream(&worker(name, &1),
        timeout: 2 * @timeout + 1_000,
        on_timeout: :kill_task,
        max_concurrency: 256
      )
      |> Enum.flat_map(fn
        {:ok, worker} -> [worker]
        {:exit, _reason} -> []
      end)

    spent = for %{spent: spent} <- workers, reduce: nothing(), do: (sum -> sum(sum, spent))
    workers = for worker <- workers, do: Map.delete(worker, :spent)
    %{name: name, queued: Pool.report(name)["queued"] || 0, workers: workers, spent: spent}
  end

  defp worker(pool, {number, _owner, %{connection: connection} = known}) do
    worker = %{
      number: number,
      pid: nil,
      state: state(known),
      in_flight: Connection.in_flight(connection) || 0,
      memory: nil,
      sessions: nil,
      programs: nil,
      calls: [],
      spent: nothing()
    }

    if worker.state in [:starting, :failed], do: worker, else: asked(worker, pool)
  end

  # Its start has failed, and is tried again.
  defp state(%{connection: %{port: nil}, failed?: true}), do: :failed
  defp state(%{connection: %{port: nil}}), do: :starting
  defp state(%{spare?: true}), do: :spare
  defp state(%{slot: nil}), do: :draining
  defp state(_known), do: :ready

  defp asked(worker, pool) do
    route = [route: {:worker, worker.number}]

    with {:ok, {:ok, metrics}} <- Pool.call(pool, :metrics, [], @timeout, route),
         {:ok, {:ok, calls}} <-
           Pool.call(pool, :running_calls, [%{n: @most_calls}], @timeout, route) do
      %{
        worker
        | pid: metrics["pid"],
          memory: metrics["memory_bytes"],
          sessions: metrics["held"]["sessions"],
          programs: metrics["held"]["programs"],
          # Not the two by which it was asked.
          calls: Enum.reject(calls, &(&1["operation"] in ["metrics", "running_calls"])),
          spent: spent(metrics)
      }
    else
      _no_answer -> %{worker | state: :silent}
    end
  end

  defp spent(metrics) do
    models = Map.values(metrics["models"])

    errors =
      for {_name, counts} <- metrics["operations"], {_kind, count} <- counts["errors"], do: count

    %{
      tokens: models |> Enum.map(& &1["total_tokens"]) |> Enum.sum(),
      cost: models |> Enum.map(& &1["cost"]) |> Enum.sum(),
      errors: Enum.sum(errors)
    }
  end

  defp nothing, do: %{tokens: 0, cost: 0.0, errors: 0}
  defp sum(one, other), do: Map.merge(one, other, fn _key, value, more -> value + more end)

  @doc """
  Returns what was spent since an earlier look: tokens a second, dollars an hour, errors a minute; `nil` without one.

  Counters that were reset since, or ended with their Python, count from zero.
  """
  @spec rates(t(), t() | nil) :: %{tokens: float(), cost: float(), errors: float()} | nil
  def rates(_now, nil), do: nil

  def rates(now, before) do
    seconds = max(now.at - before.at, 1) / 1_000
    earlier = Map.new(before.pools, &{&1.name, &1.spent})

    spent =
      for pool <- now.pools, reduce: nothing() do
        sum -> sum(sum, since(pool.spent, Map.get(earlier, pool.name, pool.spent)))
      end

    %{
      tokens: spent.tokens / seconds,
      cost: spent.cost / seconds * 3_600,
      errors: spent.errors / seconds * 60
    }
  end

  defp since(now, before),
    do: Map.merge(now, before, fn _key, new, old -> if(new < old, do: new, else: new - old) end)

  @doc """
  Returns the table of the workers as lines of text.
  """
  @spec table(t()) :: [String.t()]
  def table(%__MODULE__{pools: []}), do: ["no pools"]

  def table(%__MODULE__{pools: pools}) do
    titles = ~w(POOL WORKER PID STATE CALLS QUEUED MEMORY SESSIONS PROGRAMS)

    rows =
      for pool <- pools, {worker, index} <- Enum.with_index(or_none(pool.workers)) do
        first? = index == 0

        [
          if(first?, do: inspect(pool.name), else: ""),
          worker.number,
          worker.pid,
          state_text(worker.state),
          worker.in_flight,
          if(first?, do: pool.queued, else: ""),
          bytes(worker.memory),
          worker.sessions,
          worker.programs
        ]
      end

    aligned([titles | rows])
  end

  defp state_text(:failed), do: "start failed, tried again"
  defp state_text(state), do: state

  # A pool between the end of its only Python and the next one has a row too.
  defp or_none([]) do
    none = %{number: nil, pid: nil, state: :down, in_flight: 0, memory: nil}
    [Map.merge(none, %{sessions: nil, programs: nil})]
  end

  defp or_none(workers), do: workers

  @doc """
  Returns the table of the running calls as lines of text, the oldest call first.
  """
  @spec calls(t(), non_neg_integer()) :: [String.t()]
  def calls(%__MODULE__{pools: pools}, most) do
    found =
      for pool <- pools, worker <- pool.workers, call <- worker.calls, do: {pool, worker, call}

    rows =
      for {pool, worker, call} <- Enum.sort_by(found, fn {_, _, call} -> -call["age_ms"] end) do
        [
          age(call["age_ms"]),
          call["stage"],
          call["operation"],
          inspect(pool.name),
          worker.number,
          call["request_id"],
          call["caller"]
        ]
      end

    more = length(rows) - most
    shown = aligned([~w(AGE STAGE OPERATION POOL WORKER REQUEST CALLER) | Enum.take(rows, most)])
    if more > 0, do: shown ++ ["… and #{more} more"], else: shown
  end

  @doc """
  Returns a number of bytes as text, such as `"61 MB"`; `nil` for `nil`.
  """
  @spec bytes(non_neg_integer() | nil) :: String.t() | nil
  def bytes(nil), do: nil
  def bytes(bytes) when bytes >= 1_000_000_000, do: "#{Float.round(bytes / 1.0e9, 1)} GB"
  def bytes(bytes), do: "#{round(bytes / 1.0e6)} MB"

  defp age(ms) when ms < 10_000, do: "#{Float.round(ms / 1_000, 1)} s"
  defp age(ms) when ms < 120_000, do: "#{round(ms / 1_000)} s"
  defp age(ms), do: "#{round(ms / 60_000)} min"

  defp aligned(rows) do
    texts = for row <- rows, do: Enum.map(row, &text/1)
    widths = texts |> Enum.zip_with(& &1) |> Enum.map(&longest/1)

    for row <- texts do
      row
      |> Enum.zip_with(widths, &String.pad_trailing/2)
      |> Enum.join("  ")
      |> String.trim_trailing()
    end
  end

  defp longest(column), do: column |> Enum.map(&String.length/1) |> Enum.max()

  defp text(nil), do: "-"
  # Names come from callers, and a terminal obeys control characters.
  defp text(value),
    do: value |> to_string() |> String.replace(~r/[[:cntrl:]]/u, "?") |> String.slice(0, 60)

  defimpl Inspect do
    # IEx shows the table.
    def inspect(overview, _options),
      do: overview |> DSPex.Python.Call.Overview.table() |> Enum.join("\n")
  end

  defimpl String.Chars do
    def to_string(overview),
      do: overview |> DSPex.Python.Call.Overview.table() |> Enum.join("\n")
  end
end
