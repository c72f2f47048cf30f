defmodule ClosedLoop do
  @moduledoc false
  # Callers that ask again as soon as they have an answer.

  # Calls `call` from each of `callers` processes for `ms`. Returns the calls a second, until the last one has been answered.
  def rate(callers, ms, call) do
    {count, took} = counted(callers, ms, call)
    count / took * 1_000
  end

  # Returns the rate, and the CPU time in µs that the BEAM and that the Pythons of `pool` took for each call.
  def rate_and_cpu(pool, callers, ms, call) do
    {:ok, %{"workers" => workers}} = DSPex.Python.metrics(pool: pool)
    pids = [String.to_integer(System.pid()) | for(%{"pid" => pid} <- workers, do: pid)]
    before = Enum.map(pids, &cpu_us/1)
    {count, took} = counted(callers, ms, call)
    [beam | pythons] = for {pid, used} <- Enum.zip(pids, before), do: cpu_us(pid) - used
    {count / took * 1_000, beam / count, Enum.sum(pythons) / count}
  end

  defp counted(callers, ms, call) do
    began = now()
    tasks = for _ <- 1..callers, do: Task.async(fn -> count_until(began + ms, call, 0) end)
    count = tasks |> Task.await_many(:infinity) |> Enum.sum()
    {count, now() - began}
  end

  defp count_until(ends, call, count) do
    if now() >= ends do
      count
    else
      call.()
      count_until(ends, call, count + 1)
    end
  end

  defp cpu_us(pid) do
    times = for thread <- File.ls!("/proc/#{pid}/task"), do: File.read("/proc/#{pid}/task/#{thread}/schedstat")
    nanoseconds = for {:ok, text} <- times, do: text |> String.split() |> hd() |> String.to_integer()
    Enum.sum(nanoseconds) / 1_000
  end

  defp now, do: System.monotonic_time(:microsecond) / 1_000
end
