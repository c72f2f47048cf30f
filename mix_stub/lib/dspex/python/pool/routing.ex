defmodule DSPex.Python.Pool.Routing do
  @moduledoc false

  # Decides which worker of a pool gets a call, and which calls count as work.
  #
  #     :any              the worker with the fewest calls in flight; one that is silent only if all are
  #     {:home, key}      always the same slot for the same key: that of a session, which is its checksum
  #     {:worker, number} this worker: what the call is about runs there
  #     {:slot, slot}     this slot

  alias DSPex.Python.Pool.Settings
  alias DSPex.Python.Port.{Connection, Names}
  alias DSPex.Python.Wire.UniqueId

  @type t :: :any | {:home, term()} | {:worker, pos_integer()} | {:slot, pos_integer()}

  # Operations that may ask a model. Only these wait for a worker that has room.
  @work ~w(execute_module execute_batch execute_program execute_program_batch stream_module stream_program
           stream_batch stream_program_batch stream_evaluate stream_compile evaluate_program compile_program)a

  # The position of the session among the arguments, and that of the program.
  @of_program %{
    execute_program: {0, 1},
    execute_program_batch: {0, 1},
    evaluate_program: {0, 1},
    compile_program: {0, 1},
    describe_program: {0, 1},
    delete_program: {0, 1},
    dump_program: {0, 1},
    stream_program: {2, 3},
    stream_program_batch: {2, 3},
    stream_evaluate: {2, 3},
    stream_compile: {2, 3},
    list_conversations: {0, 1},
    conversation: {0, 1},
    seed_conversation: {0, 1},
    cut_conversation: {0, 1},
    delete_conversation: {0, 1}
  }
  @of_conversations ~w(list_conversations conversation seed_conversation cut_conversation delete_conversation)a
  @of_session [:open_session, :session_info, :close_session, :list_programs]
  # Operations whose session is an option.
  @by_option ~w(execute_module execute_batch stream_module stream_batch create_program load_program configure_lm
                validate_module)a
  # More calls than any worker has in flight.
  @of_silence 1_000_000_000
  @of_every_worker ~w(cancel metrics reset_metrics list_sessions history running_calls)a

  @doc """
  Tells whether a call of the operation may ask a model.
  """
  @spec work?(atom()) :: boolean()
  def work?(operation), do: operation in @work

  @doc """
  Tells whether the operation is about all workers of a pool.
  """
  @spec every_worker?(atom(), [term()]) :: boolean()
  def every_worker?(:list_programs, args), do: List.first(args) == nil
  def every_worker?(operation, _args), do: operation in @of_every_worker

  @doc """
  Returns where a call goes.
  """
  @spec route(atom(), [term()]) :: t()
  def route(operation, args) when is_map_key(@of_program, operation) do
    {session, program} = Map.fetch!(@of_program, operation)
    {session, program} = {Enum.at(args, session) || option(args), Enum.at(args, program)}

    # Each worker has the programs of the pool's configuration, which atoms name. A conversation has a home.
    if session == nil and is_atom(program) and operation not in @of_conversations and
         not conversation?(args),
       do: :any,
       else: of_session(program) || home(session || program)
  end

  def route(operation, [session_id | _rest]) when operation in @of_session, do: home(session_id)
  def route(operation, args) when operation in @by_option, do: home(option(args))

  # The token of a model's request begins with the number of the worker that has made it.
  def route(:model_piece, [token | _rest]) when is_binary(token) do
    case Integer.parse(token) do
      {number, "-" <> _random} -> {:worker, number}
      _other -> :any
    end
  end

  def route(_operation, _args), do: :any

  @doc """
  Names a session for a program that is created without one.

  Python would name it, but a worker cannot find a name that its calls are routed to it by.
  """
  @spec with_session(atom(), [term()]) :: [term()]
  def with_session(operation, [_program, options] = args)
      when operation in [:create_program, :load_program] and is_map(options) and
             not is_struct(options) do
    if option(args) == nil,
      do: [hd(args), options |> Map.delete("session_id") |> Map.put(:session_id, new_session())],
      else: args
  end

  def with_session(_operation, args), do: args

  defp new_session, do: "session-" <> UniqueId.new(6)

  defp home(nil), do: :any
  defp home(id), do: {:home, key(id)}

  # Python puts the checksum of the session into the ids of its programs.
  defp of_session("program-" <> <<checksum::binary-size(8), ?-, _random::binary>>) do
    with {key, ""} <- Integer.parse(checksum, 16), do: {:home, key}, else: (_other -> nil)
  end

  defp of_session(_id), do: nil

  @doc """
  Returns the key of a session, the same whichever way its name is written.
  """
  @spec key(term()) :: term()
  def key(session_id) when is_binary(session_id), do: :erlang.crc32(session_id)
  def key(session_id) when is_atom(session_id), do: session_id |> Atom.to_string() |> key()
  def key(other), do: other

  defp conversation?(args) do
    case List.last(args) do
      %{conversation: _id} -> true
      %{"conversation" => _id} -> true
      _none -> false
    end
  end

  defp option(args) do
    case List.last(args) do
      %{session_id: session_id} -> session_id
      %{"session_id" => session_id} -> session_id
      _no_session -> nil
    end
  end

  @doc """
  Returns the connection to which a call goes; `nil` while there is none.
  """
  @spec connection(atom(), t()) :: Connection.t() | nil
  def connection(pool, {:worker, number}) do
    with {_owner, worker} <- Names.lookup(:worker, {pool, number}), do: worker.connection
  end

  def connection(pool, {:slot, slot}), do: Connection.of(pool, slot)

  def connection(pool, route) do
    case Connection.of(pool, 1) do
      %Connection{size: 1} = only ->
        only

      %Connection{size: size} ->
        choose(pool, route, size)

      nil ->
        with size when size > 1 <- size(pool), do: choose(pool, route, size), else: (_one -> nil)
    end
  end

  @doc """
  Returns how many slots a pool has; 0 if there is no pool of this name.
  """
  @spec size(atom()) :: non_neg_integer()
  def size(pool) do
    case Settings.find(pool) do
      %{size: size} -> size
      nil -> 0
    end
  end

  @doc """
  Tells whether each worker of a pool finds the sessions of the others: whether they have a store.
  """
  @spec shares_sessions?(atom()) :: boolean()
  def shares_sessions?(pool) do
    case Settings.find(pool) do
      %{store?: store?} -> store?
      nil -> false
    end
  end

  defp choose(pool, {:home, key}, size), do: Connection.of(pool, slot_of(key, size))

  defp choose(pool, :any, size) do
    # Callers begin at different slots, so that not all of them choose the first of several idle workers.
    first = :erlang.phash2(self(), size)

    {_load, connection} =
      Enum.reduce(0..(size - 1), {:none, nil}, fn step, {least, _chosen} = best ->
        connection = Connection.of(pool, rem(first + step, size) + 1)
        load = load(connection)
        # Every number is less than an atom.
        if load < least, do: {load, connection}, else: best
      end)

    connection || any(pool, size)
  end

  defp load(nil), do: :none
  defp load(%{port: nil}), do: :none

  # A stopped worker has the fewest calls in flight, because they run out.
  defp load(connection) do
    calls = Connection.in_flight(connection) || :none
    if calls != :none and Connection.silent?(connection), do: @of_silence + calls, else: calls
  end

  # No worker is ready: the call waits at one that is being started.
  defp any(pool, size), do: Enum.find_value(1..size, &Connection.of(pool, &1))

  @doc """
  Returns the slot of a session or its key, in a pool of this size.
  """
  @spec slot_of(term(), pos_integer()) :: pos_integer()
  def slot_of(key, size), do: :erlang.phash2(key(key), size) + 1
end
