defmodule DSPex.Python.Call.MetricsSum do
  @moduledoc false

  # Adds the counters of several workers. Counts are added. Percentiles are those of all durations together: each worker sends
  # the middles of its buckets with their counts.

  @percentiles %{"p50" => 50, "p95" => 95, "p99" => 99}
  # Of these the largest counts: the workers run side by side.
  @largest ["uptime_ms", "counted_ms"]

  @doc """
  Returns the sum of the reports, with the report of each worker at `"workers"`.
  """
  @spec of([map()]) :: map()
  def of(reports) do
    workers = for report <- reports, do: without_buckets(report)
    sum = reports |> Enum.map(&Map.drop(&1, ["worker", "pid", "node"])) |> Enum.reduce(&add/2)
    sum |> without_buckets() |> Map.put("workers", workers)
  end

  defp add(%{"buckets" => more} = added, %{"buckets" => buckets} = durations) do
    buckets =
      Map.merge(Map.new(buckets, &pair/1), Map.new(more, &pair/1), fn _middle, one, other ->
        one + other
      end)

    percentiles(buckets, total(durations) + total(added), max(durations["max"], added["max"]))
  end

  defp add(%{} = added, %{} = sum),
    do: Map.merge(sum, added, fn key, one, other -> add(key, other, one) end)

  defp add(added, sum) when is_number(added) and is_number(sum), do: added + sum
  defp add(nil, sum), do: sum
  defp add(added, nil), do: added
  defp add(_text, sum), do: sum

  defp add(key, added, sum) when key in @largest, do: max(added, sum)
  defp add(_key, added, sum), do: add(added, sum)

  # JSON has lists for pairs.
  defp pair([middle, count]), do: {middle, count}
  defp pair({middle, count}), do: {middle, count}

  defp total(durations),
    do: durations["mean"] * (durations["buckets"] |> Enum.map(&elem(pair(&1), 1)) |> Enum.sum())

  defp percentiles(buckets, total, longest) do
    sorted = Enum.sort(buckets)
    count = sorted |> Enum.map(&elem(&1, 1)) |> Enum.sum()

    @percentiles
    |> Map.new(fn {name, percentile} ->
      {name, min(at(sorted, ceil(count * percentile / 100)), longest)}
    end)
    |> Map.merge(%{"mean" => total / count, "max" => longest, "buckets" => sorted})
  end

  # The middle of the bucket that has the duration of this rank.
  defp at([{middle, count} | rest], rank) when rank <= count or rest == [], do: middle
  defp at([{_middle, count} | rest], rank), do: at(rest, rank - count)

  defp without_buckets(%{} = report) do
    for {key, value} <- report, key != "buckets", into: %{}, do: {key, without_buckets(value)}
  end

  defp without_buckets(value), do: value
end
