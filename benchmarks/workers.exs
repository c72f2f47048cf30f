# Measures pools of one and of several workers: `mix run workers.exs` in mix_stub. Writes one line for each measured
# value: its name and the value, separated by a tab.

Code.require_file("../mix_stub/test/support/overload.ex", __DIR__)
Code.require_file("closed_loop.exs", __DIR__)

defmodule Workers do
  @moduledoc false

  @qa "question -> answer"

  # Starts a pool whose model answers at once, and waits until it is ready.
  def start(name, options) do
    [general: general] = Application.fetch_env!(:dspex, DSPex.Python)[:pools]
    root = Path.expand("..", __DIR__)
    at_once = [python_path: [root], preload: ["benchmarks.at_once"]]
    {:ok, _pool} = DSPex.Python.start_pool(name, general |> Keyword.merge(at_once) |> Keyword.merge(options))
    :ok = DSPex.Python.await_pools([name])
  end

  def tell(what, value), do: IO.puts("#{what}\t#{value}")

  def predict(pool, options \\ []),
    do: DSPex.Python.execute_module("dspy.Predict", @qa, "Why?", [pool: pool] ++ options)

  # Tells the predictions a second of `callers`, and the CPU time in µs that the BEAM and the Pythons take for each.
  def tell_rate(what, pool, callers, ms) do
    {rate, beam, pythons} = ClosedLoop.rate_and_cpu(pool, callers, ms, predicted(pool))
    tell("#{what}, #{callers} callers", rate)
    tell("#{what}, #{callers} callers, beam", beam)
    tell("#{what}, #{callers} callers, python", pythons)
  end

  # The bytes of the Pythons and of the BEAM.
  def memory(pool) do
    {:ok, %{"workers" => workers}} = DSPex.Python.metrics(pool: pool)
    (workers |> Enum.map(& &1["memory_bytes"]) |> Enum.sum()) + :erlang.memory(:total)
  end

  # Returns predictions a second of `callers`, in `ms`.
  def rate(pool, callers, ms), do: ClosedLoop.rate(callers, ms, predicted(pool))

  defp predicted(pool), do: fn -> {:ok, _prediction} = predict(pool) end

  # Kills a worker under 64 callers. Returns the longest time from the kill until the next answer of a caller whose call
  # was in flight there, the longest until such a caller had its error, how many these are, and the median of a call before:
  # 64 callers of a model that answers at once wait for each other.
  def killed(pool) do
    stop = :atomics.new(1, [])
    callers = for _ <- 1..64, do: Task.async(fn -> outcomes(pool, stop, []) end)
    Process.sleep(1_000)
    {:ok, %{"pid" => pid}} = DSPex.Python.ping(nil, pool: pool)
    killed_at = kill(pid)
    Process.sleep(1_500)
    :atomics.put(stop, 1, 1)
    outcomes = Task.await_many(callers, :infinity)

    waits =
      for calls <- outcomes,
          {:error, failed_at, _took} <- calls,
          {:ok, at, _took} = Enum.find(Enum.reverse(calls), fn {result, at, _took} -> result == :ok and at > failed_at end),
          do: {at - killed_at, failed_at - killed_at}

    usual = for calls <- outcomes, {:ok, at, took} <- calls, at < killed_at, do: took
    {answers, errors} = Enum.unzip(waits)
    {Enum.max(answers, fn -> 0 end), Enum.max(errors, fn -> 0 end), length(waits), median(usual)}
  end

  # Stops a worker (SIGSTOP) under 16 callers. Returns the answers a second before, those until the worker is
  # killed, and how long that took.
  def stopped(pool) do
    {stop, answers} = {:atomics.new(1, []), :counters.new(1, [])}
    callers = for _ <- 1..16, do: Task.async(fn -> answer_until(pool, stop, answers) end)
    Process.sleep(500)
    before = answers_a_second(answers, fn -> Process.sleep(1_500) end)
    {:ok, %{"pid" => pid}} = DSPex.Python.ping(nil, pool: pool)
    began = now()
    {_output, 0} = System.cmd("/bin/sh", ["-c", "kill -STOP #{pid}"])
    meanwhile = answers_a_second(answers, fn -> wait_for_end(pid) end)
    took = now() - began
    :atomics.put(stop, 1, 1)
    Task.await_many(callers, :infinity)
    {before, meanwhile, took}
  end

  defp answer_until(pool, stop, answers) do
    if :atomics.get(stop, 1) == 0 do
      if match?({:ok, _prediction}, predict(pool)), do: :counters.add(answers, 1, 1)
      answer_until(pool, stop, answers)
    end
  end

  defp answers_a_second(answers, wait) do
    {from, began} = {:counters.get(answers, 1), now()}
    wait.()
    (:counters.get(answers, 1) - from) / (now() - began) * 1_000
  end

  defp wait_for_end(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} ->
        if not (stat |> String.split(")") |> List.last() |> String.starts_with?(" Z")) do
          Process.sleep(10)
          wait_for_end(pid)
        end

      {:error, _gone} ->
        :ok
    end
  end

  # A shell that has been started already kills, and tells when: starting a program takes some milliseconds.
  defp kill(pid) do
    command = "read pid; at=$EPOCHREALTIME; kill -KILL $pid; echo $at; read end"
    shell = Port.open({:spawn_executable, System.find_executable("bash")}, [:binary, {:line, 100}, args: ["-c", command]])
    Process.sleep(200)
    since = System.os_time(:microsecond) / 1_000 - now()
    Port.command(shell, "#{pid}\n")
    at = receive do: ({^shell, {:data, {:eol, text}}} -> text)
    Port.close(shell)
    String.to_float(at) * 1_000 - since
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  # The outcomes of calls, the last one first.
  defp outcomes(pool, stop, calls) do
    if :atomics.get(stop, 1) == 1 do
      calls
    else
      began_at = now()
      {status, _value} = predict(pool)
      outcomes(pool, stop, [{status, now(), now() - began_at} | calls])
    end
  end

  # Offers three times the calls that the pool has answered at its peak; returns the answers a second, and the durations of
  # the refusals.
  def overloaded(pool, peak, ms) do
    # No answer is kept: the memory is measured.
    call = fn ->
      case predict(pool, timeout: 20_000) do
        {:ok, _prediction} -> :ok
        {:error, error} -> error.kind
      end
    end

    calls = DSPex.Overload.offer(3 * peak, ms, call)
    answered = Enum.count(calls, &match?({_began, _took, :ok}, &1))
    {answered / ms * 1_000, for({_began, took, :overloaded} <- calls, do: took)}
  end

  def now, do: System.monotonic_time(:microsecond) / 1_000
end

Workers.start(:one, [])
Workers.start(:two, size: 2, standby: 1)
for pool <- [:one, :two], do: Workers.rate(pool, 16, 500)

for _ <- 1..3, callers <- [1, 16] do
  Workers.tell_rate("one worker", :one, callers, 2_000)
  Workers.tell_rate("two workers", :two, callers, 2_000)
end

Logger.configure(level: :critical)

for _ <- 1..3 do
  {wait, noticed, failed, usual} = Workers.killed(:two)
  Workers.tell("killed, wait", wait)
  Workers.tell("killed, noticed", noticed)
  Workers.tell("killed, usual", usual)
  Workers.tell("killed, failed", failed)
  :ok = DSPex.Python.await_pools([:two])
  Process.sleep(1_500)
end

Workers.start(:watched, size: 2, standby: 1)

for _ <- 1..3 do
  {before, meanwhile, took} = Workers.stopped(:watched)
  Workers.tell("stopped, share", meanwhile / before)
  Workers.tell("stopped, killed", took)
  :ok = DSPex.Python.await_pools([:watched])
  Process.sleep(1_500)
end

# A model that takes 100 ms: the places of the workers are scarce, not the cores, which the callers need too.
bounded = [size: 2, standby: 0, max_in_flight: 8, max_queue: 16, preload: ["benchmarks.hundred_ms"]]
Workers.start(:bounded, bounded)
Workers.rate(:bounded, 16, 1_000)
peak = Workers.rate(:bounded, 16, 5_000)
Workers.tell("peak", peak)
memory = Workers.memory(:bounded)
{rate, refusals} = Workers.overloaded(:bounded, peak, 30_000)
Workers.tell("grown", Workers.memory(:bounded) - memory)
Workers.tell("overloaded", rate)
for share <- [0.5, 0.99, 1.0], do: Workers.tell("refusal", DSPex.Overload.quantile(refusals, share))
