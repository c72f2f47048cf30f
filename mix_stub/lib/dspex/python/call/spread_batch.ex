defmodule DSPex.Python.Call.SpreadBatch do
  @moduledoc false

  # Runs a batch in all workers of a pool: in parts, a few for each worker at the same time, so that a worker that is slower
  # gets fewer. The results come one by one, as they are there.
  #
  # What a part does when its worker dies is in DSPex.Python.Call.BatchPart.
  #
  # A part whose pool is stopped, or whose Python is replaced, is not run again: each of its items is told whether it had begun.
  # As long as no part has a result, such an error may be that of the whole batch, and waits until a result comes or all parts
  # have ended.
  #
  # Each part has a process of its own, which enumerates the part's stream of events on behalf of the reader, and hands over
  # one result at a time. It ends with the reader.

  alias DSPex.Python.Call.{BatchPart, CallOptions, EventStream, Observation}
  alias DSPex.Python.{Cluster, Error}
  alias DSPex.Python.Functions.CallerContext
  alias DSPex.Python.Pool.{OpenBatches, Stopping}
  alias DSPex.Python.Port.LastAnswers
  alias DSPex.Python.Wire.Timeout
  alias DSPex.Suggestion

  # As in Python, for one worker.
  @default_concurrency 16
  @most_concurrency 256
  # A worker has two parts at the same time, so that it is not idle at the end of one.
  @lanes_each 2
  # Items of a part for each that runs at the same time. More would be begun again when a worker dies.
  @rounds 4
  # Items of a part that has its worker for itself. The spans of many more would not all be kept.
  @most_at_once 500
  @cancel_ms 5_000
  # After a cancellation, how often the parts that run are cancelled again: one may have begun at that moment.
  @cancel_again_ms 50
  # How long a part may take to hand over what it has when nobody reads it any more.
  @unread_ms 1_000
  # The errors of a part whose pool is stopped, or is gone, or whose Python is replaced.
  @closed_kinds [:port_closed, :pool_not_found]

  @typedoc """
  Runs a list of inputs in one worker, with options that have its share of the time and of the concurrency.

  Returns the stream of `{position, result}`, the position counted from 0 in the list, and at last `{:error, error}` if they
  have failed as a whole. `{:ended, value}` may come before the end, and is handed on.
  """
  @type run :: ([term()], CallOptions.t() -> Enumerable.t())

  defstruct [
    :pool,
    :request_id,
    :ref,
    :run,
    :context,
    :concurrency,
    :batch,
    :open,
    :within,
    parts: [],
    running: %{},
    closed: [],
    one_worker?: false,
    fail_fast?: false,
    answered?: false,
    cancelled?: false,
    failed: nil
  ]

  @doc """
  Returns how many workers a batch of a module is spread over; `nil`: it is one call.
  """
  @spec workers(term(), CallOptions.t()) :: pos_integer() | nil
  def workers(inputs_list, %CallOptions{pool: pool, python: python} = options) do
    cond do
      not is_list(inputs_list) or inputs_list == [] or List.improper?(inputs_list) -> nil
      # The batch of a session stays where the session is.
      python[:session_id] != nil -> nil
      true -> of_pool(max(Cluster.size(pool), 1), options)
    end
  end

  defp of_pool(size, options), do: if(size > 1 or not fail_fast?(options), do: size)

  @doc """
  Tells whether the first error ends the batch. In one worker it is one call then, which can say what the items that it cancels
  have spent.
  """
  @spec fail_fast?(CallOptions.t()) :: boolean()
  def fail_fast?(%CallOptions{python: python}),
    do: python[:on_error] in [:fail_fast, "fail_fast"]

  @doc """
  Returns the stream of `{index, result}`, the index counted from `offset`, and `{:error, error}` if the batch has failed as a
  whole.
  """
  @spec stream([term()], non_neg_integer(), pos_integer(), CallOptions.t(), run()) ::
          Enumerable.t()
  def stream(inputs_list, offset, workers, options, run) do
    # A wrong one is told here, and not by each part.
    _right = EventStream.buffer!(options.python)

    with :ok <- check_concurrency(options.python[:max_concurrency], workers),
         do: in_parts(inputs_list, offset, workers, options, run)
  end

  # A part has its share, of which Python could not tell what was too much. It refuses what is no such number.
  defp check_concurrency(together, workers)
       when is_integer(together) and together > workers * @most_concurrency do
    most = "#{workers * @most_concurrency} (#{@most_concurrency} for each worker)"
    message = "expected an integer from 1 to #{most} at opts.max_concurrency, got #{together}"
    [{:error, Error.new(:input, message, %{"path" => "opts.max_concurrency"})}]
  end

  defp check_concurrency(_together, _workers), do: :ok

  defp in_parts(inputs_list, offset, workers, options, run) do
    # The budget is that of the whole batch.
    deadline = Timeout.deadline(options.timeout)

    run = fn items, concurrency, part?, options ->
      left = with ms when is_integer(ms) <- Timeout.remaining(deadline, 0), do: max(ms, 1)
      route = Cluster.route_of_part(options.pool) || options.route

      options =
        CallOptions.put(%{options | timeout: left, route: route}, :max_concurrency, concurrency)

      options = %{options | part?: options.part? or part?}

      if OpenBatches.cancelled?(options.batch),
        do: cancelled_results(items),
        else: items |> Enum.map(&elem(&1, 1)) |> run.(%{options | counted?: false})
    end

    items =
      inputs_list |> Enum.with_index(offset) |> Enum.map(fn {inputs, at} -> {at, inputs} end)

    Stream.resource(
      fn ->
        # The one who has begun the batch before ends it.
        open =
          if options.batch == nil,
            do: OpenBatches.begun(options.pool, options.python[:request_id])

        options = %{options | batch: options.batch || open}
        {start(items, workers, options, &run.(&1, &2, &3, options)), open}
      end,
      fn {state, open} ->
        {elements, state} = next(state)
        {elements, {state, open}}
      end,
      fn {state, open} ->
        halt(state)
        OpenBatches.ended(open)
      end
    )
  end

  @doc """
  Returns the error of what was cancelled before it began.
  """
  @spec cancelled_error() :: Error.t()
  def cancelled_error, do: Error.new(:cancelled, "the call was cancelled")

  defp cancelled_results(items) do
    error = cancelled_error()
    for {_item, position} <- Enum.with_index(items), do: {position, {:error, error}}
  end

  @doc """
  Returns the stream of what `chunk` returns for each part of `chunk_size` inputs, with the number of inputs before it. All
  parts have the options of `begin`, which is called when the stream is read, and are one batch for a pool that is stopped meanwhile.
  """
  @spec chunks(
          Enumerable.t(),
          pos_integer(),
          (... -> CallOptions.t()),
          ([term()], non_neg_integer(), CallOptions.t() -> Enumerable.t())
        ) :: Enumerable.t()
  def chunks(inputs, chunk_size, begin, chunk) do
    if (is_list(inputs) and not List.improper?(inputs)) or Suggestion.enumerable?(inputs),
      do: read_in_chunks(inputs, chunk_size, begin, chunk),
      else: [{:error, no_inputs(inputs)}]
  end

  # A map is an enumerable too, of pairs.
  defp no_inputs(inputs) do
    got = inspect(inputs, limit: 5, printable_limit: 100)
    message = "expected a list or a stream of maps or texts at inputs, got #{got}"
    Error.new(:input, message, %{"path" => "inputs"})
  end

  defp read_in_chunks(inputs, chunk_size, begin, chunk) do
    start = fn ->
      options = begin.()
      batch = Stopping.batch_begun(options.pool)
      open = OpenBatches.begun(options.pool, options.python[:request_id])
      {0, %{options | part?: batch != nil, batch: open}, batch}
    end

    inputs
    |> Stream.chunk_every(chunk_size)
    |> Stream.transform(
      start,
      fn inputs, {offset, options, batch} ->
        elements =
          if OpenBatches.cancelled?(options.batch),
            do: inputs |> cancelled_results() |> Enum.map(fn {at, one} -> {offset + at, one} end),
            else: chunk.(inputs, offset, options)

        {elements, {offset + length(inputs), options, batch}}
      end,
      fn {_count, options, batch} ->
        Stopping.batch_ended(batch)
        OpenBatches.ended(options.batch)
      end
    )
  end

  @doc """
  Returns the results in the order of the inputs, or the error of the whole batch.
  """
  @spec collected(Enumerable.t()) :: {:ok, [term()]} | {:error, Error.t()}
  def collected(elements) do
    elements
    |> Enum.reduce_while({:ok, []}, fn
      {:error, error}, _results -> {:halt, {:error, error}}
      element, {:ok, results} -> {:cont, {:ok, [element | results]}}
    end)
    |> case do
      {:ok, results} -> {:ok, results |> List.keysort(0) |> Enum.map(&elem(&1, 1))}
      error -> error
    end
  end

  defp start(items, workers, %CallOptions{pool: pool, python: python} = options, run) do
    batch = Stopping.batch_begun(pool)
    # One worker gets all at once, and is never idle.
    lanes = if workers == 1, do: 1, else: workers * @lanes_each
    together = Map.get(python, :max_concurrency, workers * @default_concurrency)
    # Python refuses a wrong one.
    concurrency = if right?(together), do: div(together + lanes - 1, lanes), else: together
    size = part_size(length(items), lanes, concurrency)

    %__MODULE__{
      pool: pool,
      request_id: python[:request_id],
      ref: make_ref(),
      run: &run.(&1, &2, batch != nil),
      batch: batch,
      open: options.batch,
      within: options.within,
      context: CallerContext.current(),
      concurrency: concurrency,
      parts: Enum.chunk_every(items, size),
      one_worker?: workers == 1,
      fail_fast?: fail_fast?(options)
    }
    |> begin_parts(lanes)
  end

  defp right?(concurrency), do: is_integer(concurrency) and concurrency > 0

  defp part_size(count, 1, _concurrency), do: min(count, @most_at_once)

  defp part_size(count, lanes, concurrency) when is_integer(concurrency) and concurrency > 0,
    do: min(div(count + lanes - 1, lanes), concurrency * @rounds)

  defp part_size(_count, _lanes, _refused), do: 1

  defp begin_parts(%{parts: []} = state, _lanes), do: state

  defp begin_parts(%{parts: [items | parts]} = state, lanes) do
    if map_size(state.running) < lanes,
      do: begin_parts(begin(%{state | parts: parts}, items), lanes),
      else: state
  end

  defp begin(%{ref: ref, run: run, context: context, concurrency: concurrency} = state, items) do
    reader = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        CallerContext.stand_in(context)
        watch(reader)
        hand_over = &hand_over(reader, ref, &1)
        BatchPart.run(items, concurrency, run, hand_over)
      end)

    %{state | running: Map.put(state.running, monitor, {pid, items})}
  end

  # A process that has no other messages to receive than those it waits for cannot see the end of the reader. So another one
  # does, and ends it.
  defp watch(reader) do
    part = self()

    spawn(fn ->
      monitors = {Process.monitor(reader), Process.monitor(part)}

      receive do
        {:DOWN, monitor, :process, _pid, _reason} when monitor == elem(monitors, 0) ->
          Process.exit(part, :kill)

        {:DOWN, _part, :process, _pid, _reason} ->
          :ok
      end
    end)
  end

  defp hand_over(reader, ref, element) do
    send(reader, {ref, self(), element})

    receive do
      {^ref, :go_on} -> :ok
    end
  end

  defp next(%{running: running, parts: [], closed: []} = state) when map_size(running) == 0,
    do: {:halt, state}

  # The pool has stopped before anything was answered.
  defp next(%{running: running, parts: []} = state) when map_size(running) == 0,
    do: {[{:error, whole_error(state)}], %{state | closed: []}}

  defp next(%{cancelled?: false, open: open} = state) when open != nil do
    if OpenBatches.cancelled?(open) do
      {rest, state} = without_rest(%{state | cancelled?: true}, cancelled_error())
      cancel_again(state)
      {rest, state}
    else
      next_element(state)
    end
  end

  defp next(state), do: next_element(state)

  defp next_element(%{ref: ref, open: open} = state) do
    cancelled = if open, do: open.ref, else: ref
    again = if state.cancelled?, do: @cancel_again_ms, else: :infinity

    receive do
      {:dspex_batch_cancelled, ^cancelled} ->
        {[], state}

      {^ref, pid, {:failed, %Error{kind: kind} = error, not_begun}} when kind in @closed_kinds ->
        send(pid, {ref, :go_on})
        state |> closed_part(pid, error, not_begun) |> without_gone(error) |> told_closed()

      {^ref, pid, {:failed, %Error{} = error, _not_begun}}
      when state.answered? and not state.fail_fast? ->
        # What was answered was paid, and stays.
        send(pid, {ref, :go_on})
        {items, state} = items_left(state, pid)
        {rest, state} = without_rest(state, error)
        {for({index, _inputs} <- items, do: {index, {:error, error}}) ++ rest, state}

      {^ref, pid, {:failed, error, _not_begun}} ->
        # The batch as a whole is wrong: its module, an option.
        {[{:error, error}], %{stopped(state) | parts: [], running: %{}, failed: pid}}

      {^ref, pid, {:ended, _value} = ended} ->
        send(pid, {ref, :go_on})
        {[ended], state}

      {^ref, pid, {index, result}} ->
        send(pid, {ref, :go_on})
        state = finished(%{state | answered?: true}, pid, index)

        case result do
          {:error, _error} when state.fail_fast? ->
            ended_fast([{index, result}], state)

          {:error, error} ->
            {rest, state} = without_rest(state, error)
            with_closed([{index, result} | rest], state)

          {:ok, _value} ->
            with_closed([{index, result}], state)
        end

      {:DOWN, monitor, :process, _pid, reason} when is_map_key(state.running, monitor) ->
        {{_pid, items}, running} = Map.pop!(state.running, monitor)
        lanes = map_size(state.running)
        {ended(items, reason), begin_parts(%{state | running: running}, lanes)}
    after
      again ->
        cancel_again(state)
        {[], state}
    end
  end

  # Notes the items of a part that has ended with its pool or its Python.
  defp closed_part(state, pid, error, not_begun) do
    {items, state} = items_left(state, pid)
    not_begun = MapSet.new(not_begun)

    elements =
      for {index, _inputs} <- items do
        if MapSet.member?(not_begun, index),
          do: {index, {:error, unsent(error, state)}},
          else: {index, {:error, BatchPart.of_item(error)}}
      end

    noted_closed(state, error, elements)
  end

  defp noted_closed(state, _error, []), do: state

  defp noted_closed(state, error, elements),
    do: %{state | closed: state.closed ++ [{error, elements}]}

  # No further part begins in a pool that is gone, nor in its last worker, which ends too. A pool whose Python was replaced goes on.
  defp without_gone(%{pool: pool, parts: parts} = state, error) do
    if error.kind == :pool_not_found or Stopping.over?(pool) do
      rest =
        for {index, _inputs} <- Enum.concat(parts), do: {index, {:error, unsent(error, state)}}

      noted_closed(%{state | parts: []}, error, rest)
    else
      state
    end
  end

  # The same kind for all that is left, whether or not its part had begun.
  defp unsent(%Error{kind: :pool_not_found}, %{pool: pool}) do
    message = "pool #{inspect(pool)} was stopped before the item began"
    LastAnswers.unsent(Error.new(:port_closed, message))
  end

  defp unsent(error, _state), do: error |> BatchPart.of_item() |> LastAnswers.unsent()

  # Hands out the items of stopped parts; not yet if their error may be that of the whole batch.
  defp told_closed(%{answered?: false, cancelled?: false} = state), do: {[], state}
  defp told_closed(state), do: with_closed([], state)

  defp with_closed(elements, %{closed: []} = state), do: {elements, state}

  defp with_closed(elements, %{fail_fast?: true} = state), do: ended_fast(elements, state)

  defp with_closed(elements, %{closed: closed} = state),
    do: {elements ++ elements_of(closed), %{state | closed: []}}

  defp elements_of(closed), do: Enum.flat_map(closed, &elem(&1, 1))

  # An item has failed, which ends the batch.
  defp ended_fast(elements, state) do
    {unread, state} = unread(state)
    closed = elements_of(state.closed)
    {failed, _result} = Enum.find(elements ++ closed, &match?({_index, {:error, _error}}, &1))

    {elements ++ unread ++ closed ++ cancelled(state, failed),
     %{stopped(state) | parts: [], running: %{}, closed: []}}
  end

  # What was done for any part was done for the batch.
  defp whole_error(%{closed: parts, one_worker?: one_worker?}) do
    errors = for {error, _elements} <- parts, do: error

    case Enum.filter(errors, &(&1.kind == :port_closed)) do
      [] ->
        hd(errors)

      [first | _others] = closed ->
        facts = for fact <- ["sent", "asked", "called"], do: {fact, of_any(closed, fact)}
        details = Map.merge(first.details, Map.new(facts))
        # The first items are those of the first part, if there is one at a time.
        if one_worker?,
          do: %{first | details: details},
          else: %{first | details: Map.delete(details, "begun")}
    end
  end

  defp of_any(errors, fact) do
    known = for error <- errors, do: error.details[fact]

    cond do
      true in known -> true
      nil in known -> nil
      true -> false
    end
  end

  defp finished(state, pid, index) do
    running =
      Map.new(state.running, fn
        {monitor, {^pid, items}} -> {monitor, {pid, List.keydelete(items, index, 0)}}
        other -> other
      end)

    %{state | running: running}
  end

  # Takes what a part has not answered.
  defp items_left(state, pid) do
    {monitor, {^pid, items}} = Enum.find(state.running, &match?({_monitor, {^pid, _items}}, &1))
    {items, %{state | running: Map.put(state.running, monitor, {pid, []})}}
  end

  defp cancelled(state, failed) do
    message = "not done, since item #{failed} failed and on_error is fail_fast"
    error = Error.new(:cancelled, message)
    left = Enum.flat_map(state.running, fn {_monitor, {_pid, items}} -> items end)
    for {index, _inputs} <- left ++ Enum.concat(state.parts), do: {index, {:error, error}}
  end

  # After the call was cancelled no further part begins. One may have begun at that moment.
  defp without_rest(%{parts: [_part | _rest]} = state, %Error{kind: :cancelled} = error) do
    cancel_again(state)
    rest = for {index, _inputs} <- Enum.concat(state.parts), do: {index, {:error, error}}
    {rest, %{state | parts: []}}
  end

  defp without_rest(state, _error), do: {[], state}

  defp cancel_again(%{request_id: nil}), do: :ok

  defp cancel_again(%{pool: pool, request_id: request_id}) do
    for worker <- Cluster.workers(pool),
        do: Cluster.call(pool, :cancel, [request_id], @cancel_ms, route: {:worker, worker})
  end

  # A part that has ended by a fault of its process leaves no item without a result.
  defp ended(items, reason) do
    error = Error.new(:internal, "the batch has ended: #{Exception.format_exit(reason)}")
    for {index, _inputs} <- items, do: {index, {:error, error}}
  end

  defp halt(%{within: within} = state) do
    Stopping.batch_ended(state.batch)

    if within == nil do
      stopped(state)
    else
      {elements, state} = unread(state)
      for {_index, result} <- elements, do: Observation.unread(within, result)
      stopped(state)
    end
  end

  # Ends the parts, and takes what Python had answered them: it was paid, although nobody has read it.
  defp unread(%{running: running} = state) do
    for {_monitor, {pid, _items}} <- running, do: EventStream.shut_down(pid)
    until = System.monotonic_time(:millisecond) + @unread_ms
    unread(state, Map.keys(running), until, [])
  end

  defp unread(state, [], _until, elements), do: {elements, state}

  defp unread(%{ref: ref} = state, monitors, until, elements) do
    receive do
      {^ref, pid, {index, _result} = element} when is_integer(index) ->
        send(pid, {ref, :go_on})
        unread(finished(state, pid, index), monitors, until, [element | elements])

      {^ref, pid, {:failed, %Error{kind: kind} = error, not_begun}} when kind in @closed_kinds ->
        send(pid, {ref, :go_on})
        unread(closed_part(state, pid, error, not_begun), monitors, until, elements)

      {^ref, pid, _other} ->
        send(pid, {ref, :go_on})
        unread(state, monitors, until, elements)

      {:DOWN, monitor, :process, _pid, _reason} when is_map_key(state.running, monitor) ->
        unread(state, List.delete(monitors, monitor), until, elements)
    after
      max(until - System.monotonic_time(:millisecond), 0) -> {elements, state}
    end
  end

  defp stopped(%{ref: ref} = state) do
    for {monitor, {pid, _items}} <- state.running do
      Process.exit(pid, :kill)
      # It may have ended before.
      Process.demonitor(monitor, [:flush])
      ended = Process.monitor(pid)

      receive do
        {:DOWN, ^ended, :process, _pid, _reason} -> :ok
      end
    end

    flush(ref)
    state
  end

  defp flush(ref) do
    receive do
      {^ref, _pid, _element} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
