# The BEAM as a peer: keeps terms, and times its own codec on them. beam.py starts this script and explains it.

defmodule Benchmarks.Beam do
  def serve(port, terms) do
    receive do
      {^port, {:data, message}} ->
        {answer, terms} = answer(:erlang.binary_to_term(message), terms)
        Port.command(port, :erlang.term_to_binary(answer))
        serve(port, terms)

      {^port, :eof} ->
        System.halt(0)
    end
  end

  # The BEAM's own form of a term: maps in its own order of keys.
  defp answer({:load, name, data}, terms) do
    term = :erlang.binary_to_term(data)
    data = to_binary(term)
    {data, Map.put(terms, name, {new_worker(data, term), data, term})}
  end

  defp answer({:time, name, operation, count, process}, terms) do
    {worker, data, term} = Map.fetch!(terms, name)
    worker = if process == :fresh, do: new_worker(data, term), else: worker
    send(worker, {self(), operation, count})

    receive do
      {^worker, nanoseconds} ->
        if process == :fresh, do: Process.exit(worker, :kill)
        {nanoseconds, terms}
    end
  end

  # A worker process gets its own copy of the term at its start, and does not copy it again for a batch.
  defp new_worker(data, term) do
    owner = self()
    worker = spawn_link(fn -> work(owner, data, term) end)
    Process.unlink(worker)
    worker
  end

  defp work(owner, data, term) do
    receive do
      {^owner, operation, count} ->
        started_at = :erlang.monotonic_time(:nanosecond)
        repeat(operation, data, term, count)
        send(owner, {self(), :erlang.monotonic_time(:nanosecond) - started_at})
        work(owner, data, term)
    end
  end

  defp repeat(:decode, data, _term, count), do: repeat(&:erlang.binary_to_term/1, data, count)
  defp repeat(:encode, _data, term, count), do: repeat(&to_binary/1, term, count)

  defp repeat(_function, _argument, 0), do: :ok

  defp repeat(function, argument, count) do
    function.(argument)
    repeat(function, argument, count - 1)
  end

  # The default of OTP 26 and newer.
  defp to_binary(term), do: :erlang.term_to_binary(term, minor_version: 2)
end

port = Port.open({:fd, 0, 1}, [:binary, :eof, packet: 4])
Benchmarks.Beam.serve(port, %{})
