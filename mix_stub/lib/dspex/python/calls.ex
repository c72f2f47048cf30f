defmodule DSPex.Python.Calls do
  @moduledoc false

  # The calls of one port that wait for an answer: a table that callers write to themselves (DSPex.Python.Line), so that
  # a call costs the owner of the port nothing before its answer comes.
  #
  # Whoever takes a call out of the table answers it: the owner when its answer comes or Python ends, the caller at its
  # deadline, the owner when the caller has died. That happens exactly once.
  #
  # The table belongs to the process that makes it, and is gone with it: each function then raises ArgumentError.

  alias DSPex.Python.Protocol

  defmodule Call do
    @moduledoc false

    # `tag` is the first element of the answer, or {:startup, operation} for the calls that the port's owner makes itself.
    @enforce_keys [:tag, :caller, :sent?]
    defstruct @enforce_keys

    @type t :: %__MODULE__{
            tag: reference() | {:startup, atom()},
            caller: pid(),
            sent?: boolean()
          }
  end

  @enforce_keys [:table, :counters]
  defstruct @enforce_keys

  @type t :: %__MODULE__{table: :ets.tid(), counters: :atomics.atomics_ref()}

  # The places of the counters.
  @last_id 1
  @watched 2

  # The place of `sent?` in a row of the table.
  @sent_position 4

  @doc """
  Makes an empty table, which is gone with the calling process.
  """
  @spec new() :: t()
  def new do
    %__MODULE__{
      table: :ets.new(__MODULE__, [:public, write_concurrency: true]),
      counters: :atomics.new(2, signed: false)
    }
  end

  @doc """
  Adds a call of the calling process; its answer is `{tag, answer}`. It counts as sent until `unsent/2` says otherwise.
  """
  @spec add(t(), reference() | {:startup, atom()}) :: Protocol.id()
  def add(calls, tag) do
    id = rem(:atomics.add_get(calls.counters, @last_id, 1) - 1, Protocol.max_id()) + 1

    # Only after two thousand million calls can an id still be in use.
    if :ets.insert_new(calls.table, {id, tag, self(), true}),
      do: id,
      else: add(calls, tag)
  end

  @doc """
  Takes a call out; `nil` if there is none of that id, which is then answered already.
  """
  @spec take(t(), non_neg_integer()) :: Call.t() | nil
  def take(calls, id) do
    case :ets.take(calls.table, id) do
      [{_id, tag, caller, sent?}] ->
        %Call{tag: tag, caller: caller, sent?: sent?}

      [] ->
        nil
    end
  end

  @doc """
  Takes all calls out.
  """
  @spec take_all(t()) :: [Call.t()]
  def take_all(calls) do
    for {id, _caller} <- callers(calls), call = take(calls, id), do: call
  end

  @doc """
  Gives the ids of all calls with the processes that wait for their answers.
  """
  @spec callers(t()) :: [{Protocol.id(), pid()}]
  def callers(calls),
    do: :ets.select(calls.table, [{{:"$1", :_, :"$2", :_}, [], [{{:"$1", :"$2"}}]}])

  @doc """
  Tells whether a call of that id waits for an answer.
  """
  @spec waiting?(t(), Protocol.id()) :: boolean()
  def waiting?(calls, id), do: :ets.member(calls.table, id)

  @doc """
  Notes that the port has not taken a call; `sent/2`, that it has now.
  """
  @spec unsent(t(), Protocol.id()) :: :ok
  def unsent(calls, id), do: set_sent(calls, id, false)

  @spec sent(t(), Protocol.id()) :: :ok
  def sent(calls, id), do: set_sent(calls, id, true)

  @doc """
  How many calls wait for an answer.
  """
  @spec count(t()) :: non_neg_integer()
  def count(calls), do: :ets.info(calls.table, :size)

  @doc """
  Says that the callers must be watched from now on; `true` if nobody has said so since `unwatch/1`.
  """
  @spec watch(t()) :: boolean()
  def watch(calls) do
    # Mostly they are watched already, and reading is cheaper than writing.
    :atomics.get(calls.counters, @watched) == 0 and
      :atomics.exchange(calls.counters, @watched, 1) == 0
  end

  @doc """
  Says that the callers are watched no more.
  """
  @spec unwatch(t()) :: :ok
  def unwatch(calls), do: :atomics.put(calls.counters, @watched, 0)

  defp set_sent(calls, id, sent?) do
    :ets.update_element(calls.table, id, {@sent_position, sent?})
    :ok
  end
end
