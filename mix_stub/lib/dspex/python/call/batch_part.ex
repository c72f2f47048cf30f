defmodule DSPex.Python.Call.BatchPart do
  @moduledoc false

  # Runs a part of a batch in one worker, and again in another one if that dies: the items that have no result yet, but for those
  # that may have been in flight if a function was called, since a tool must not act twice. What was in flight at a second death
  # is run item by item, so that an item that kills Python is the only one that fails.

  alias DSPex.Python.Call.Traces
  alias DSPex.Python.Error

  @typep item :: {index :: non_neg_integer(), inputs :: term()}

  @doc """
  Runs items, each `{index, inputs}`, as many at the same time as `concurrency` says (Python refuses a wrong one), by `run`, and gives each element to `hand_over`:

      {index, result}
      {:ended, value}              as it came
      {:failed, error, not_begun}  the part has failed as a whole, and the items of these indexes had not begun

  Returns `:go_on`, `:failed` if the part has failed as a whole, or `{:cancelled, error}` if it was cancelled.
  """
  @spec run([item()], term(), ([item()], term() -> Enumerable.t()), (term() -> term())) ::
          :go_on | :failed | {:cancelled, Error.t()}
  def run(items, concurrency, run, hand_over),
    do: run_part(items, concurrency, run, hand_over, 1)

  defp run_part(items, concurrency, run, hand_over, attempt) do
    start = %{
      left: Map.new(Enum.with_index(items), fn {item, at} -> {at, item} end),
      failure: nil,
      ended: :go_on
    }

    part = items |> run.(concurrency) |> Enum.reduce(start, &part_element(&1, &2, hand_over))

    case part.failure do
      nil ->
        part.ended

      %Error{kind: :worker_died} = error ->
        died(error, Enum.sort(part.left), concurrency, run, hand_over, attempt)

      error ->
        hand_over.({:failed, error, not_begun(error, Enum.sort(part.left))})
        :failed
    end
  end

  defp part_element({:error, error}, part, _hand_over), do: %{part | failure: error}

  defp part_element({:ended, _value} = ended, part, hand_over) do
    hand_over.(ended)
    part
  end

  defp part_element({position, result}, part, hand_over) do
    {{index, _inputs}, left} = Map.pop!(part.left, position)
    hand_over.({index, renumbered(result, position, index)})

    case result do
      {:error, %Error{kind: :cancelled} = error} ->
        %{part | left: left, ended: {:cancelled, error}}

      _other ->
        %{part | left: left}
    end
  end

  defp died(%Error{details: %{"called" => false}}, left, concurrency, run, hand_over, 1),
    do: left |> items() |> run_part(concurrency, run, hand_over, 2)

  defp died(%Error{details: %{"called" => false}} = error, left, concurrency, run, hand_over, 2) do
    # One of them may be what kills Python: the others first, and then each of these alone.
    {suspects, others} = split_begun(left, error, concurrency)
    # It may have been killed by something else twice.
    attempt = if match?([_only], suspects), do: 3, else: 1

    others
    |> run_others(concurrency, run, hand_over)
    |> and_then(suspects, hand_over, &run_part([&1], 1, run, hand_over, attempt))
  end

  defp died(%Error{details: details} = error, left, concurrency, run, hand_over, _attempt) do
    # With a function, none is run again of those that were in flight, or had just ended.
    {begun, others} =
      if details["called"] == false,
        do: {items(left), []},
        else: split_begun(left, error, 2 * concurrency)

    for {index, _inputs} <- begun, do: hand_over.({index, {:error, of_item(error)}})
    run_others(others, concurrency, run, hand_over)
  end

  # Returns the indexes of the items that Python has not seen, or had not begun. Without its note, what holds for the part holds
  # for each of them: an item that may have called a tool must not seem to be untouched.
  defp not_begun(%Error{kind: :pool_not_found}, left), do: indexes(items(left))

  defp not_begun(%Error{kind: :port_closed, details: details} = error, left) do
    case details do
      %{"sent" => false} ->
        indexes(items(left))

      %{"begun" => _count} ->
        {_begun, others} = split_begun(left, error, 0)
        indexes(others)

      %{"asked" => false, "called" => false} ->
        indexes(items(left))

      _not_known ->
        []
    end
  end

  defp not_begun(_error, _left), do: []

  defp indexes(items), do: Enum.map(items, &elem(&1, 0))

  @doc """
  Returns the error of a part for one of its items: how many items of the part had begun says nothing about that.
  """
  @spec of_item(Error.t()) :: Error.t()
  def of_item(%Error{details: details} = error),
    do: %{error | details: Map.delete(details, "begun")}

  # Items begin in their order. Python has noted how many have begun; if the note is lost, `count` of those without a result.
  defp split_begun(left, %Error{details: %{"begun" => begun}}, _count) do
    {begun, others} = Enum.split_while(left, fn {position, _item} -> position < begun end)
    {items(begun), items(others)}
  end

  defp split_begun(left, _error, count), do: left |> items() |> Enum.split(count)

  defp items(left), do: Enum.map(left, &elem(&1, 1))

  defp run_others([], _concurrency, _run, _hand_over), do: :go_on

  defp run_others(items, concurrency, run, hand_over),
    do: run_part(items, concurrency, run, hand_over, 1)

  # Runs each item, unless the part has ended meanwhile.
  defp and_then(ended, items, hand_over, run_one) do
    Enum.reduce(items, ended, fn
      item, :go_on ->
        run_one.(item)

      _item, :failed ->
        :failed

      {index, _inputs}, {:cancelled, error} = cancelled ->
        hand_over.({index, {:error, error}})
        cancelled
    end)
  end

  # What names an item by its place in the part: its span, and the error of an example.
  defp renumbered(result, index, index), do: result

  defp renumbered(result, position, index),
    do: result |> renumbered_error(position, index) |> Traces.renumbered(index)

  defp renumbered_error({:error, %Error{path: "examples[" <> _rest} = error}, position, index) do
    {there, here} = {"examples[#{position}]", "examples[#{index}]"}
    own = &String.replace(&1, there, here)
    details = for name <- ["path", "message"], text = error.details[name], do: {name, own.(text)}

    {:error,
     %{
       error
       | path: own.(error.path),
         message: own.(error.message),
         details: Map.merge(error.details, Map.new(details))
     }}
  end

  defp renumbered_error(result, _position, _index), do: result
end
