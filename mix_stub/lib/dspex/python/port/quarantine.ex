defmodule DSPex.Python.Port.Quarantine do
  @moduledoc false

  # Remembers the calls that were in flight when a pool's Python died. One that is made again, and is in flight at the next
  # death too, may be what kills Python: it is not `retryable`, or its retries would cost every other call too.
  #
  # Two calls are the same if they have the same `request_id`, or the same operation and arguments. What differs from
  # attempt to attempt does not count: ids of functions, processes, references, who calls.
  #
  # The table belongs to the supervisor of the pool, which outlives the owners of the port. Its rows are
  # {{identity, death}, death, when it was noted}, {{:logged, death}, death, lines of the log} and {:deaths, :infinity, deaths}. Of earlier deaths
  # than the last two none are kept, so it has at most four rows for each call that may be in flight.

  require Logger

  alias DSPex.Python.{Error, JSON}

  # Lines of the log for one death.
  @most_lines 5
  # Operations that work on what callers bring. The others are alike for many callers, such as `ping`, and kill nothing.
  @suspects ~w(execute_ stream_ compile_ evaluate_ create_ load_)
  # The options that say who calls, in which trace, and by which functions of this attempt.
  @differing_names ~w(request_id repetition caller caller_context trace traceparent begins_trace called_at_us redact budgets resolver)
  @differing Enum.map(@differing_names, &String.to_atom/1) ++ @differing_names

  @type t :: :ets.tid()

  @doc """
  Makes an empty table, which ends with the calling process.
  """
  @spec new() :: t()
  def new, do: :ets.new(__MODULE__, [:public, write_concurrency: true])

  @doc """
  Counts a death of Python, and returns its number; `nil` without a table.
  """
  @spec died(t() | nil) :: pos_integer() | nil
  def died(nil), do: nil

  def died(table) do
    death = :ets.update_counter(table, :deaths, {3, 1}, {:deaths, :infinity, 0})
    :ets.select_delete(table, [{{:_, :"$1", :_}, [{:<, :"$1", death - 1}], [true]}])
    death
  end

  @doc """
  Returns the error of a call that was in flight at the death of this number: not `retryable`, and logged, if it was in
  flight at the death before too.

  `began_at` is the monotonic time at which it was made. One that was in flight in two workers, both of which were killed, is
  not to blame: it counts from the death on that it was made after.
  """
  @spec judge(t() | nil, pos_integer() | nil, {atom(), atom(), [term()]}, Error.t(), integer()) ::
          Error.t()
  def judge(table, death, call, error, began_at \\ System.monotonic_time())

  def judge(table, death, _call, error, _began_at) when table == nil or death == nil, do: error

  def judge(table, death, {pool, operation, args}, error, began_at) do
    {operation, args} = named(operation, args)

    if String.starts_with?(operation, @suspects),
      do: judge_named(table, death, {pool, operation, args}, error, began_at),
      else: error
  end

  defp judge_named(table, death, {pool, operation, args}, error, began_at) do
    identities = identities(operation, args)
    again? = Enum.any?(identities, &in_flight_at?(table, &1, death - 1, began_at))
    # Of several alike the first one counts.
    for identity <- identities,
        do: :ets.insert_new(table, {{identity, death}, death, System.monotonic_time()})

    if again? do
      log(table, death, {pool, operation, args})
      refused(error)
    else
      error
    end
  rescue
    # The pool has been stopped.
    ArgumentError -> error
  end

  @doc """
  Forgets a call that has its answer: it does not kill Python.
  """
  @spec answered(t() | nil, atom(), [term()]) :: :ok
  def answered(nil, _operation, _args), do: :ok

  def answered(table, operation, args) do
    # The row that counts is the only one until Python has died.
    case :ets.info(table, :size) do
      rows when is_integer(rows) and rows > 1 ->
        {operation, args} = named(operation, args)

        for identity <- identities(operation, args),
            death <- [deaths(table) - 1, deaths(table)] do
          :ets.delete(table, {identity, death})
        end

        :ok

      _nothing_or_no_table ->
        :ok
    end
  rescue
    ArgumentError -> :ok
  end

  defp deaths(table), do: :ets.lookup_element(table, :deaths, 3)

  # Several callers may make the same call: the first of them may have noted this death already.
  defp in_flight_at?(table, identity, death, began_at) do
    case :ets.lookup(table, {identity, death}) do
      [{_key, _death, noted_at}] -> noted_at <= began_at
      [] -> false
    end
  end

  defp refused(error) do
    message =
      error.message <>
        "; this call was in flight at two deaths of python in a row, and may be what ends it, so it is not retryable"

    details = Map.merge(error.details, %{"message" => message, "retryable" => false})
    %{error | message: message, retryable: false, details: details}
  end

  defp log(table, death, {pool, operation, args}) do
    row = {{:logged, death}, death, 0}

    if :ets.update_counter(table, {:logged, death}, {3, 1}, row) <= @most_lines do
      Logger.error(
        "python of pool #{inspect(pool)} died twice in a row during one call, which is not retryable: " <>
          "#{operation}#{called(operation, args)}#{of_request(request_id(args))}"
      )
    end
  end

  # The operation that is called as JSON.
  defp named(:handle_json, [name, text]) do
    case JSON.decode(text) do
      {:ok, args} when is_list(args) -> {name, args}
      _no_list -> {name, [text]}
    end
  end

  defp named(operation, args), do: {Atom.to_string(operation), args}

  defp identities(operation, args) do
    same = args |> without_differing_options() |> without_functions()
    size = :erlang.external_size(same)
    by_arguments = {:arguments, operation, size, :erlang.phash2(same, 4_294_967_296)}

    case request_id(args) do
      nil -> [by_arguments]
      request_id -> [by_arguments, {:request, operation, request_id}]
    end
  end

  # The options are last. An input of such a name is not an option.
  defp without_differing_options(args) do
    case Enum.split(args, -1) do
      {before, [%{} = options]} when not is_struct(options) ->
        before ++ [Map.drop(options, @differing)]

      _no_options ->
        args
    end
  end

  defp without_functions(%_struct{} = value), do: value

  defp without_functions(%{} = map) do
    for {key, value} <- map,
        key not in [:callback, "callback"],
        into: %{},
        do: {key, without_functions(value)}
  end

  defp without_functions([head | tail]), do: [without_functions(head) | without_functions(tail)]

  defp without_functions(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> without_functions() |> List.to_tuple()

  defp without_functions(value) when is_pid(value) or is_reference(value) or is_function(value),
    do: nil

  defp without_functions(value), do: value

  defp request_id(args) do
    case List.last(args) do
      %{request_id: request_id} -> request_id
      %{"request_id" => request_id} -> request_id
      _no_options -> nil
    end
  end

  defp of_request(nil), do: ""
  defp of_request(request_id), do: ", request_id #{inspect(request_id, printable_limit: 200)}"

  # The name of the module, or the id of the program: never an input.
  defp called(operation, args) do
    place = if operation =~ ~r/program|compile|evaluate|conversation/, do: 1, else: 0
    args = Enum.reject(args, &(is_pid(&1) or is_reference(&1)))

    case Enum.at(args, place) do
      %{module: name} when is_binary(name) -> " of #{shown(name)}"
      %{"module" => name} when is_binary(name) -> " of #{shown(name)}"
      name when is_binary(name) -> if length(args) > place + 1, do: " of #{shown(name)}", else: ""
      _no_name -> ""
    end
  end

  defp shown(name), do: inspect(name, printable_limit: 200)
end
