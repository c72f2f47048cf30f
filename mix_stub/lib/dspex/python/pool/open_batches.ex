defmodule DSPex.Python.Pool.OpenBatches do
  @moduledoc false

  # The batches of this node that are made of several calls, by their `request_id`, so that `cancel/2` ends them also at a moment
  # at which no worker has one of their calls: while Python is being started, between two parts, while their reader waits.
  #
  # A batch without a `request_id` is not entered. This process removes what a process that has ended leaves.

  use GenServer

  @enforce_keys [:table, :ref, :alias, :state]
  defstruct @enforce_keys

  # What the atomic of a batch says. A batch that has ended stays in the table until this process has removed it.
  @open 0
  @cancelled 1
  @ended 2

  @typedoc "An open batch; `nil` if it has no `request_id`."
  @type t ::
          %__MODULE__{
            table: :ets.tid(),
            ref: reference(),
            alias: reference(),
            state: :atomics.atomics_ref()
          }
          | nil

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Enters a batch of the calling process, until `ended/1`.
  """
  @spec begun(term(), term()) :: t()
  def begun(pool, request_id) do
    with id when is_binary(id) <- name(request_id) do
      # A message to it is dropped after the end of the batch.
      reply_to = :erlang.alias()
      state = :atomics.new(1, signed: false)
      :atomics.put(state, 1, @open)
      {table, ref} = GenServer.call(__MODULE__, {:begun, {pool, id}, self(), reply_to, state})
      %__MODULE__{table: table, ref: ref, alias: reply_to, state: state}
    end
  catch
    # The application :dspex is not running.
    :exit, _reason -> nil
  end

  # As Python takes it.
  defp name(atom) when is_atom(atom) and atom not in [nil, true, false], do: to_string(atom)
  defp name(text) when is_binary(text), do: text
  defp name(_none), do: nil

  @doc """
  Notes that a batch has ended.
  """
  @spec ended(t()) :: :ok
  def ended(nil), do: :ok

  def ended(%__MODULE__{} = batch) do
    :atomics.put(batch.state, 1, @ended)
    :erlang.unalias(batch.alias)
    GenServer.cast(__MODULE__, {:ended, batch.ref})
    forget_message(batch)
  end

  defp forget_message(%{ref: ref} = batch) do
    receive do
      {:dspex_batch_cancelled, ^ref} -> forget_message(batch)
    after
      0 -> :ok
    end
  end

  @doc """
  Runs a function with a batch that is open meanwhile.
  """
  @spec during(term(), term(), (t() -> result)) :: result when result: term()
  def during(pool, request_id, run) do
    batch = begun(pool, request_id)

    try do
      run.(batch)
    after
      ended(batch)
    end
  end

  @doc """
  Tells whether a batch was cancelled. Its process gets the message `{:dspex_batch_cancelled, ref}` too.
  """
  @spec cancelled?(t()) :: boolean()
  def cancelled?(nil), do: false
  def cancelled?(%__MODULE__{state: state}), do: :atomics.get(state, 1) == @cancelled

  @doc """
  Notes that the batches with this `request_id` are cancelled; returns the number of those that had not ended.
  """
  @spec cancel(term(), term()) :: non_neg_integer()
  def cancel(pool, request_id) do
    case {name(request_id), :ets.whereis(__MODULE__)} do
      {id, table} when is_binary(id) and table != :undefined ->
        batches = :ets.lookup(table, {pool, id})

        Enum.count(batches, fn {_name, ref, _pid, reply_to, state} ->
          before = :atomics.compare_exchange(state, 1, @open, @cancelled)
          send(reply_to, {:dspex_batch_cancelled, ref})
          before != @ended
        end)

      _none ->
        0
    end
  rescue
    # The table has just gone.
    ArgumentError -> 0
  end

  # The process -------------------------------------------------------------------------------------------------------

  @impl true
  def init(nil) do
    table = :ets.new(__MODULE__, [:bag, :protected, :named_table, read_concurrency: true])
    {:ok, %{table: table, open: %{}}}
  end

  @impl true
  def handle_call({:begun, name, pid, reply_to, of_batch}, _from, state) do
    ref = Process.monitor(pid)
    :ets.insert(state.table, {name, ref, pid, reply_to, of_batch})
    {:reply, {state.table, ref}, put_in(state.open[ref], name)}
  end

  @impl true
  def handle_cast({:ended, ref}, state) do
    Process.demonitor(ref, [:flush])
    {:noreply, removed(state, ref)}
  end

  @impl true
  def handle_info({:DOWN, ref, :process, _pid, _reason}, state),
    do: {:noreply, removed(state, ref)}

  def handle_info(_other, state), do: {:noreply, state}

  defp removed(state, ref) do
    {name, open} = Map.pop(state.open, ref)
    if name, do: :ets.match_delete(state.table, {name, ref, :_, :_, :_})
    %{state | open: open}
  end
end
