defmodule DSPex.Overload do
  @moduledoc """
  Offers calls at a fixed rate, whether earlier ones have been answered or not: what a pool does with more than it can take.
  """

  # So many processes offer calls, each in a rhythm of its own.
  @pacers 16

  @doc """
  Offers `rate` calls a second for `ms`, each by `call` in a process of its own; returns `{began_at, took, result}` of each, in
  ms.
  """
  @spec offer(number(), number(), (... -> result)) :: [{float(), float(), result}]
        when result: term()
  def offer(rate, ms, call) do
    interval = @pacers * 1_000 / rate
    begins = now()
    ends = begins + ms
    ref = make_ref()
    collector = self()

    offered =
      1..@pacers
      |> Enum.map(fn number ->
        first = begins + number * interval / @pacers
        Task.async(fn -> pace(first, interval, ends, {collector, ref, call}, 0) end)
      end)
      |> Task.await_many(:infinity)
      |> Enum.sum()

    for _ <- 1..offered//1, do: receive(do: ({^ref, outcome} -> outcome))
  end

  defp pace(at, _interval, ends, _call, offered) when at >= ends, do: offered

  defp pace(at, interval, ends, {collector, ref, call} = calls, offered) do
    Process.sleep(max(ceil(at - now()), 0))

    spawn_link(fn ->
      began = now()
      result = call.()
      send(collector, {ref, {began, now() - began, result}})
    end)

    pace(at + interval, interval, ends, calls, offered + 1)
  end

  @doc """
  Returns the value that this share of the values does not exceed.
  """
  @spec quantile([number()], float()) :: number()
  def quantile(values, share) do
    sorted = Enum.sort(values)
    Enum.at(sorted, min(trunc(length(sorted) * share), length(sorted) - 1))
  end

  defp now, do: System.monotonic_time(:microsecond) / 1_000
end
