defmodule DSPex.Python.Port.PendingCalls do
  @moduledoc false

  # The pending calls of one port, in an ETS table to which callers write themselves (DSPex.Python.Port.Connection). So a
  # call costs the owner of the port nothing before its answer comes.
  #
  # Whoever takes a call out of the table answers it: the owner when the answer comes or Python ends, the caller at its
  # deadline, the owner when the caller has died. `take/2` is atomic, so that happens exactly once.
  #
  # The table belongs to the process that makes it. After the end of that process, ETS raises ArgumentError for the table.
  # A caller may notice this at any step of its call, so the functions that callers use (add/2, take/2, unsent/2) return
  # `:gone` then. They are the only place where this error is rescued.

  alias DSPex.Python.Port.PendingCall
  alias DSPex.Python.Wire.Protocol

  @max_id Protocol.max_id()

  @enforce_keys [:table, :counters]
  defstruct @enforce_keys

  @type t :: %__MODULE__{table: :ets.tid(), counters: :atomics.atomics_ref()}

  # Positions in the counters.
  @last_id 1
  @monitored 2
  # 1: Python seems to be silent, and has sent nothing since.
  @silent 3

  # The position of `sent?` in a row of the table.
  @sent_position 4

  @doc """
  Makes an empty table, which ends with the calling process.
  """
  @spec new() :: t()
  def new do
    %__MODULE__{
      table: :ets.new(__MODULE__, [:public, write_concurrency: true]),
      counters: :atomics.new(3, signed: false)
    }
  end

  @doc """
  Adds a call of the calling process, whose answer is `{tag, answer}`; returns its id.

  The call counts as sent until `unsent/2`.
  """
  @spec add(t(), reference() | {:startup, atom()}) :: Protocol.id() | :gone
  def add(calls, tag) do
    id = rem(:atomics.add_get(calls.counters, @last_id, 1) - 1, @max_id) + 1

    case insert_new(calls.table, {id, tag, self(), true}) do
      true -> id
      # The id is still in use, which needs more than two thousand million calls.
      false -> add(calls, tag)
      :gone -> :gone
    end
  end

  @doc """
  Takes a call out of the table; `nil` if it is not there, which means that it has been answered.
  """
  @spec take(t(), non_neg_integer()) :: PendingCall.t() | nil | :gone
  def take(calls, id) do
    case :ets.take(calls.table, id) do
      [{_id, tag, caller, sent?}] ->
        %PendingCall{id: id, tag: tag, caller: caller, sent?: sent?}

      [] ->
        nil
    end
  rescue
    ArgumentError -> :gone
  end

  @doc """
  Takes all calls out of the table.
  """
  @spec take_all(t()) :: [PendingCall.t()]
  def take_all(calls) do
    for {id, _caller} <- callers(calls), call = take(calls, id), do: call
  end

  @doc """
  Returns the ids of all calls with their callers.
  """
  @spec callers(t()) :: [{Protocol.id(), pid()}]
  def callers(calls),
    do: :ets.select(calls.table, [{{:"$1", :_, :"$2", :_}, [], [{{:"$1", :"$2"}}]}])

  @doc """
  Tells whether a call is pending.
  """
  @spec pending?(t(), Protocol.id()) :: boolean()
  def pending?(calls, id), do: :ets.member(calls.table, id)

  @doc """
  Returns a function that tells whether one of the calls that are pending now still is. The id of a later call is another one.
  """
  @spec until_ended(t()) :: (... -> boolean())
  def until_ended(calls) do
    ids = for {id, _caller} <- callers(calls), do: id

    fn ->
      try do
        Enum.any?(ids, &pending?(calls, &1))
      rescue
        # The table has ended.
        ArgumentError -> false
      end
    end
  rescue
    ArgumentError -> fn -> false end
  end

  @doc """
  Notes that the port has not taken a call.
  """
  @spec unsent(t(), Protocol.id()) :: :ok | :gone
  def unsent(calls, id), do: set_sent(calls, id, false)

  @doc """
  Notes that the port has taken a call that was `unsent/2`.
  """
  @spec sent(t(), Protocol.id()) :: :ok | :gone
  def sent(calls, id), do: set_sent(calls, id, true)

  @doc """
  Counts the pending calls; `nil` if the table has ended.
  """
  @spec count(t()) :: non_neg_integer() | nil
  def count(calls) do
    with :undefined <- :ets.info(calls.table, :size), do: nil
  end

  @doc """
  Counts the pending calls that the owner of the port has not made itself; `nil` if the table has ended.
  """
  @spec count_of_callers(t()) :: non_neg_integer() | nil
  def count_of_callers(calls) do
    :ets.select_count(calls.table, [{{:_, :"$1", :_, :_}, [is_reference: :"$1"], [true]}])
  rescue
    ArgumentError -> nil
  end

  @doc """
  Requests that callers are monitored from now on; `true` for the first request after `stop_monitoring/1`.
  """
  @spec request_monitoring(t()) :: boolean()
  def request_monitoring(calls) do
    # Callers are usually monitored already, and reading is cheaper than writing.
    :atomics.get(calls.counters, @monitored) == 0 and
      :atomics.exchange(calls.counters, @monitored, 1) == 0
  end

  @doc """
  Notes that callers are not monitored any more.
  """
  @spec stop_monitoring(t()) :: :ok
  def stop_monitoring(calls), do: :atomics.put(calls.counters, @monitored, 0)

  @doc """
  Notes that Python seems to be silent: a call has run out without an answer, or its process is stopped.
  """
  @spec silent(t()) :: :ok
  def silent(calls), do: :atomics.put(calls.counters, @silent, 1)

  @doc """
  Notes that Python has sent something, or that its process goes on.
  """
  @spec heard(t()) :: :ok
  def heard(calls) do
    # Reading is cheaper than writing, and this is done for each answer.
    if :atomics.get(calls.counters, @silent) == 1, do: :atomics.put(calls.counters, @silent, 0)
    :ok
  end

  @doc """
  Tells whether Python seems to be silent, and has sent nothing since.
  """
  @spec silent?(t()) :: boolean()
  def silent?(calls), do: :atomics.get(calls.counters, @silent) == 1

  defp insert_new(table, row) do
    :ets.insert_new(table, row)
  rescue
    ArgumentError -> :gone
  end

  defp set_sent(calls, id, sent?) do
    :ets.update_element(calls.table, id, {@sent_position, sent?})
    :ok
  rescue
    ArgumentError -> :gone
  end
end
