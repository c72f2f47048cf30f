defmodule DSPex.Python.Port.PoolTally do
  @moduledoc false

  # Counts what happens to the workers of a pool: how many were started, died, and were replaced and why; how many calls
  # were refused. It also remembers why workers could not start, so that the log says each cause once for all of them. The
  # table belongs to the supervisor of the pool.

  @type t :: :ets.tid()
  @type event :: :died | {:recycled, String.t()} | :retried | :overloaded

  @doc """
  Makes an empty table, which ends with the calling process.
  """
  @spec new() :: t()
  def new, do: :ets.new(__MODULE__, [:public, write_concurrency: true])

  @doc """
  Returns the number of a new worker: 1, 2, 3, …
  """
  @spec next_worker(t()) :: non_neg_integer()
  def next_worker(tally), do: add(tally, :started)

  @doc """
  Counts an event, and returns how often it has happened.
  """
  @spec add(t(), event() | :started) :: non_neg_integer()
  def add(tally, event) do
    :ets.update_counter(tally, event, 1, {event, 0})
  rescue
    # The pool has been stopped.
    ArgumentError -> 0
  end

  @doc """
  Notes why a worker could not start; tells whether no worker of the pool has failed so since one was ready.
  """
  @spec first_failure?(t(), String.t()) :: boolean()
  def first_failure?(tally, cause) do
    :ets.insert_new(tally, {{:failed, cause}, true})
  rescue
    ArgumentError -> true
  end

  @doc """
  Forgets why workers could not start, since one is ready.
  """
  @spec forget_failures(t()) :: :ok
  def forget_failures(tally) do
    :ets.match_delete(tally, {{:failed, :_}, :_})
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc """
  Returns the counts, as `DSPex.Python.metrics/1` shows them.
  """
  @spec report(t()) :: %{String.t() => non_neg_integer() | %{String.t() => pos_integer()}}
  def report(tally) do
    counts = Map.new(:ets.tab2list(tally))
    recycled = for {{:recycled, kind}, count} <- counts, into: %{}, do: {kind, count}

    counted =
      for event <- [:started, :died, :retried, :overloaded],
          into: %{},
          do: {Atom.to_string(event), counts[event] || 0}

    Map.put(counted, "recycled", recycled)
  end
end
