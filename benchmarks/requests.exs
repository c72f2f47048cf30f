# Measures requests from Elixir, as lines on stdin ask for it: `mix run requests.exs` in mix_stub. Writes `ready`, and
# then for each line a line with the measured values, in ms.

defmodule Requests do
  @moduledoc false

  @qa "question -> answer"

  # Starts a pool of one worker, which imports `module` of `benchmarks` for its model, and waits until it is ready.
  def start(name, module) do
    [general: options] = Application.fetch_env!(:dspex, DSPex.Python)[:pools]
    root = Path.expand("..", __DIR__)
    {:ok, _pool} = DSPex.Python.start_pool(name, options ++ [python_path: [root], preload: [module]])
    :ok = DSPex.Python.await_pools([name])
  end

  # Returns the time of `count` predictions, one after the other.
  def one_after_another(count, signature, inputs) do
    started = now()
    for _ <- 1..count, do: predict(:at_once, signature, inputs)
    now() - started
  end

  # Returns the predictions a second of `callers` that ask again at once, for `ms`, and the CPU time in µs that the BEAM and
  # Python took for each.
  def closed_loop(pool, callers, ms, signature, inputs),
    do: ClosedLoop.rate_and_cpu(pool, callers, ms, fn -> predict(pool, signature, inputs) end)

  defp predict(pool, signature, inputs) do
    {:ok, _prediction} = DSPex.Python.execute_module("dspy.Predict", signature, inputs, pool: pool)
  end

  # Returns the time of a prediction: the lowest decile of `count`, because events cost less than the noise of a shared machine.
  # With the library `telemetry` and handlers of all events (`:handled`) or none (`:unhandled`), or without it.
  def observed(:unobserved, count, signature, inputs) do
    durations =
      for _ <- 1..count do
        started = now()
        one_after_another(1, signature, inputs)
        now() - started
      end

    durations |> Enum.sort() |> Enum.at(div(count, 10))
  end

  def observed(how, count, signature, inputs) do
    unload = DSPex.TestTelemetry.load()
    ignore = fn _event, _measurements, _metadata, _config -> :ok end

    if how == :handled,
      do: apply(:telemetry, :attach_many, [:bench, DSPex.Telemetry.events(), ignore, nil])

    found = observed(:unobserved, count, signature, inputs)
    unload.()
    found
  end

  # Returns the time to the first chunk of a field. The stream is read to its end, as in plain Python: a halted stream
  # closes its connection, and the next stream would have to open another.
  def first_chunk(url) do
    started = now()

    "dspy.Predict"
    |> DSPex.Python.stream(@qa, "?", lm: model(url, "slow-1"))
    |> Enum.reduce(nil, fn
      {:chunk, _field, _text}, nil -> now() - started
      _event, found -> found
    end)
  end

  # Returns how much later than its timeout a caller gets its answer, and the stage of the error; "refused" if the call could
  # not begin in time.
  def overrun(url, timeout) do
    started = now()

    {:error, error} =
      DSPex.Python.execute_module("dspy.Predict", @qa, "?",
        lm: model(url, "delay-20000"),
        timeout: timeout
      )

    late = now() - started - timeout

    case error.kind do
      :timeout -> {late, error.stage}
      :overloaded -> {late, "refused"}
    end
  end

  def busy(count) do
    for _ <- 1..count, do: spawn_link(&keep_busy/0)
  end

  defp keep_busy do
    {:ok, _prediction} = DSPex.Python.execute_module("dspy.Predict", @qa, "?", timeout: 60_000)
    keep_busy()
  end

  def end_busy(pids) do
    for pid <- pids do
      monitor = Process.monitor(pid)
      Process.unlink(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok)
    end
  end

  defp model(url, name),
    do: {:openai, model: name, api_base: url, api_key: "none", num_retries: 0}

  defp now, do: System.monotonic_time(:microsecond) / 1_000
end

Code.require_file("../mix_stub/test/support/test_telemetry.ex", __DIR__)
Code.require_file("closed_loop.exs", __DIR__)
Code.compiler_options(ignore_module_conflict: true)
Requests.start(:at_once, "benchmarks.at_once")
Requests.start(:fifty_ms, "benchmarks.fifty_ms")
{:ok, _pong} = DSPex.Python.ping(nil, timeout: 60_000)
IO.puts("ready")

for line <- IO.stream(:stdio, :line) do
  case String.split(line) do
    ["one_after_another", count, signature, context, question] ->
      inputs = %{"context" => URI.decode(context), "question" => URI.decode(question)}
      count = String.to_integer(count)
      IO.puts(Requests.one_after_another(count, URI.decode(signature), inputs))

    ["closed_loop", pool, callers, ms, signature, context, question] ->
      inputs = %{"context" => URI.decode(context), "question" => URI.decode(question)}
      [callers, ms] = Enum.map([callers, ms], &String.to_integer/1)
      pool = String.to_existing_atom(pool)

      {rate, beam, python} =
        Requests.closed_loop(pool, callers, ms, URI.decode(signature), inputs)

      IO.puts("#{rate} #{beam} #{python}")

    ["observed", how, count, signature, context, question] ->
      inputs = %{"context" => URI.decode(context), "question" => URI.decode(question)}

      how =
        Map.fetch!(
          %{"plain" => :unobserved, "unhandled" => :unhandled, "handled" => :handled},
          how
        )

      IO.puts(Requests.observed(how, String.to_integer(count), URI.decode(signature), inputs))

    ["first_chunk", url] ->
      IO.puts(Requests.first_chunk(url))

    ["overrun", url, busy, timeout, count] ->
      pids = Requests.busy(String.to_integer(busy))
      # Wait until the queue has its full length.
      Process.sleep(1_000)
      timeout = String.to_integer(timeout)
      found = for _ <- 1..String.to_integer(count), do: Requests.overrun(url, timeout)
      Requests.end_busy(pids)
      IO.puts(Enum.map_join(found, " ", fn {late, stage} -> "#{late}:#{stage}" end))
  end
end
