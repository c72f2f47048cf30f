defmodule DSPex.Python.Cluster.Remote do
  @moduledoc false

  # Asks another node for something, and waits for the answer.

  alias DSPex.Python.Cluster.{Exchange, Loads}
  alias DSPex.Python.Wire.Timeout

  # The other node ends the work at the deadline, and its answer takes a moment to come.
  @grace_ms 90

  @typedoc """
  `{:answer, result}`; `{:refused, reason}`: the other node has not begun it; `:lost`: the node went down meanwhile, and what it has done
  nobody knows; `:late`: no answer came until the deadline.
  """
  @type outcome :: {:answer, term()} | {:refused, term()} | :lost | :late

  @doc """
  Makes a request of another node.
  """
  @spec ask(node(), Exchange.kind(), map(), Timeout.deadline()) :: outcome()
  def ask(node, kind, request, deadline) do
    {outcome, nil} = ask(node, kind, request, deadline, nil, fn _reply, nil -> nil end)
    outcome
  end

  @doc """
  Makes a request. `told` is called with each event and with the number of the worker, in the calling process, and with what it
  returned before, at first `told_before`.
  """
  @spec ask(node(), Exchange.kind(), map(), Timeout.deadline(), told, told_function) ::
          {outcome(), told}
        when told: term(), told_function: (Exchange.reply(), told -> told)
  def ask(node, kind, request, deadline, told_before, told) do
    reply_to = :erlang.alias([:explicit_unalias])
    message = Exchange.request(reply_to, kind, request)
    # The id of the request is the monitor of the process too.
    id = :erlang.spawn_request(node, :dspex_cluster, :serve, [message], [:monitor])

    asked = %{
      id: id,
      reply_to: reply_to,
      keeper: nil,
      deadline: deadline,
      told: told,
      so_far: told_before
    }

    {outcome, %{keeper: keeper, so_far: so_far}} = wait(asked)

    :erlang.unalias(reply_to)
    Process.demonitor(id, [:flush])
    # It would find the calling process alive.
    if keeper && outcome == :late, do: send(keeper, {:dspex_cancel, reply_to})
    discard(id, reply_to)
    {read(outcome, node, kind, request), so_far}
  end

  defp wait(%{id: id, reply_to: reply_to} = asked) do
    receive do
      {:spawn_reply, ^id, :ok, keeper} ->
        wait(%{asked | keeper: keeper})

      {^reply_to, {:answer, _result, _load} = answer} ->
        {answer, asked}

      {^reply_to, reply} ->
        wait(%{asked | so_far: asked.told.(reply, asked.so_far)})

      # The process may have been spawned nevertheless.
      {:spawn_reply, ^id, :error, :noconnection} ->
        {:lost, asked}

      {:spawn_reply, ^id, :error, reason} ->
        {{:refused, reason}, asked}

      {:DOWN, ^id, :process, _keeper, :noconnection} ->
        {:lost, asked}

      {:DOWN, ^id, :process, _keeper, {:shutdown, {:dspex_refused, versions}}} ->
        {{:refused, {:versions, versions}}, asked}

      {:DOWN, ^id, :process, _keeper, {:undef, _stacktrace}} ->
        {{:refused, :no_such_module}, asked}

      # The keeper was killed.
      {:DOWN, ^id, :process, _keeper, _reason} ->
        {:lost, asked}
    after
      Timeout.remaining(asked.deadline, @grace_ms) -> {:late, asked}
    end
  end

  defp discard(id, reply_to) do
    receive do
      {:spawn_reply, ^id, :ok, keeper} ->
        send(keeper, {:dspex_cancel, reply_to})
        discard(id, reply_to)

      {:spawn_reply, ^id, :error, _reason} ->
        discard(id, reply_to)

      {^reply_to, _late} ->
        discard(id, reply_to)
    after
      0 -> _abandoned? = :erlang.spawn_request_abandon(id)
    end
  end

  defp read({:answer, result, load}, node, kind, request) do
    if load != nil, do: Loads.learn(request[:pool], node, load, if(kind == :call, do: 1, else: 0))
    {:answer, Exchange.to_result(result)}
  end

  defp read(outcome, _node, _kind, _request), do: outcome
end
