# Compares calls from Elixir with an echo program in C: `mix run load.exs ECHO all|small [CORE OTHER_CORE]` in mix_stub.
# Writes one line for each comparison: its name, our value, the echo's value, and whether more is better, separated by
# tabs. `small` makes small calls only. With cores, the BEAM runs on the first one, Python and the echo on the other one.

defmodule Echo do
  @moduledoc false
  # The smallest possible port owner for many callers: echoed frames arrive in the order in which they were sent.
  use GenServer

  # High limits, so that a binary of 64 MiB does not make the port busy.
  @low 100_000_000
  @high 200_000_000

  def start_link(program), do: GenServer.start_link(__MODULE__, program)
  def round_trip(echo, data), do: GenServer.call(echo, {:round_trip, data}, :infinity)

  def os_pid(echo), do: GenServer.call(echo, :os_pid)

  @impl true
  def init(program) do
    options = [:binary, :nouse_stdio, {:packet, 4}, {:busy_limits_port, {@low, @high}}]
    {:ok, {Port.open({:spawn_executable, program}, options), :queue.new()}}
  end

  @impl true
  def handle_call(:os_pid, _from, {port, _waiting} = state) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {:reply, os_pid, state}
  end

  def handle_call({:round_trip, data}, from, {port, waiting}) do
    Port.command(port, data)
    {:noreply, {port, :queue.in(from, waiting)}}
  end

  @impl true
  def handle_info({port, {:data, data}}, {port, waiting}) do
    {{:value, from}, waiting} = :queue.out(waiting)
    GenServer.reply(from, data)
    {:noreply, {port, waiting}}
  end
end

defmodule Load do
  @moduledoc false

  # Runs both in turn, so that a machine whose speed drifts is fair to both.
  def compare(what, rounds, ours, theirs, better) do
    {ours, theirs} = Enum.unzip(for _ <- 1..rounds, do: {ours.(), theirs.()})
    IO.puts(Enum.join([what, median(ours), median(theirs), better], "\t"))
  end

  def median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  def latency(count, call) do
    median(for _ <- 1..count, do: elem(:timer.tc(call), 0)) / 1.0e6
  end

  def rate(callers, each, call) do
    started = System.monotonic_time(:microsecond)

    1..callers
    |> Enum.map(fn _ -> Task.async(fn -> for _ <- 1..each, do: call.() end) end)
    |> Task.await_many(:infinity)

    callers * each / (System.monotonic_time(:microsecond) - started) * 1.0e6
  end
end

[program, calls | cores] = System.argv()
{:ok, echo} = Echo.start_link(program)

ping = fn payload -> {:ok, %{"payload" => _echo}} = DSPex.Python.ping(payload, timeout: 60_000) end
# The smallest operation: an acknowledgement for no stream does nothing. The answer of `ping` has seven entries, and
# decoding them takes longer than the rest of the call.
small = fn -> {:ok, false} = DSPex.Python.call(:stream_ack, [nil, 1]) end
# The same call as it is sent over the port.
frame = :erlang.term_to_binary({:C, 1, :dspy_bridge, :stream_ack, [nil, 1]})
result = Map.new(1..30, &{"field_#{&1}", String.duplicate("some words of an answer. ", 12)})
result_frame = :erlang.term_to_binary(result)

for _ <- 1..500, do: {ping.(nil), small.()}

with [beam_core, other_core] <- cores do
  {:ok, %{"pid" => python}} = DSPex.Python.ping()

  for {pid, core} <- [{System.pid(), beam_core}, {python, other_core}, {Echo.os_pid(echo), other_core}] do
    {_done, 0} = System.cmd("taskset", ["--all-tasks", "--pid", "--cpu-list", core, to_string(pid)])
  end
end

Load.compare(
  "a small call, one caller",
  15,
  fn -> Load.latency(500, small) end,
  fn -> Load.latency(500, fn -> Echo.round_trip(echo, frame) end) end,
  "less"
)

Load.compare(
  "a small call, 64 callers, calls a second",
  15,
  fn -> Load.rate(64, 300, small) end,
  fn -> Load.rate(64, 300, fn -> Echo.round_trip(echo, frame) end) end,
  "more"
)

# The rest takes long, and depends less on where the processes run.
if calls == "small", do: System.halt(0)

Load.compare(
  "`ping` with a map of #{div(byte_size(result_frame), 1000)} kB, 64 callers, calls a second",
  15,
  fn -> Load.rate(64, 40, fn -> ping.(result) end) end,
  fn -> Load.rate(64, 40, fn -> Echo.round_trip(echo, result_frame) end) end,
  "more"
)

for mebibytes <- [1, 16, 64] do
  binary = :binary.copy("x", mebibytes * 1_048_576)

  Load.compare(
    "`ping` with a binary of #{mebibytes} MiB",
    15,
    fn -> Load.latency(1, fn -> ping.(binary) end) end,
    fn -> Load.latency(1, fn -> Echo.round_trip(echo, binary) end) end,
    "less"
  )
end
