defmodule DSPex.ClusterLoad do
  @moduledoc """
  Loads the pools of several nodes with turns of conversations, records what was asked and answered, and checks the record
  against the conversations as they are in the store.
  """

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  # A conversation keeps 50 turns, and each session has one client on each of two nodes.
  @turns_each 15
  @attempts 8

  @doc """
  Starts a process on this node that asks for each session, one turn after the other, until `stop/0`.
  """
  def start(programs, pause_ms) do
    starter = self()

    spawn(fn ->
      Process.register(self(), __MODULE__)

      clients =
        for program <- programs, do: Task.async(fn -> client(program, pause_ms, 0, []) end)

      send(starter, {:started, self()})

      receive do
        {:stop, from} ->
          for client <- clients, do: send(client.pid, :stop)
          send(from, {:history, clients |> Task.await_many(120_000) |> Enum.concat()})
      end
    end)

    receive do: ({:started, _pid} -> :ok)
  end

  @doc """
  Ends the clients of this node; returns what they have recorded.
  """
  def stop do
    send(__MODULE__, {:stop, self()})
    receive do: ({:history, history} -> history)
  end

  defp client(program, pause_ms, number, history) do
    receive do
      :stop -> history
    after
      pause_ms ->
        conversation = "c#{div(number, @turns_each)}"
        turn = turn(program, conversation, "#{program.session_id} #{number} #{node()}")
        client(program, pause_ms, number + 1, [turn | history])
    end
  end

  @doc """
  Asks one question, again after an error that says so, each time with the same `request_id`.
  """
  def turn(program, conversation, question) do
    started = System.monotonic_time(:millisecond)
    {outcome, errors} = attempt(program, conversation, question, @attempts, [])

    %{
      session: program.session_id,
      conversation: conversation,
      question: question,
      outcome: outcome,
      errors: errors,
      at: System.system_time(:millisecond),
      ms: System.monotonic_time(:millisecond) - started
    }
  end

  defp attempt(program, conversation, question, attempts, errors) do
    options = [
      conversation: conversation,
      request_id: question,
      lm: {:elixir, {__MODULE__, :answer}},
      timeout: 10_000
    ]

    case Python.execute_program(program, %{question: question}, options) do
      {:ok, prediction} ->
        {{:ok, prediction.meta["node"]}, errors}

      {:error, %Error{kind: kind, retryable: true}} when attempts > 1 ->
        Process.sleep(50)
        attempt(program, conversation, question, attempts - 1, [kind | errors])

      {:error, %Error{kind: kind}} ->
        {{:error, kind}, [kind | errors]}
    end
  end

  @doc """
  Is the model of all calls.
  """
  def answer(_request), do: ScriptedModel.written(answer: "yes")

  @doc """
  Returns what is wrong: `{:lost, turn}` for a turn that was acknowledged and is not in the store, `{:doubled, question}`, and
  `{:invented, question}` for one that nobody has asked. `turns` has the questions of each `{session, conversation}`.
  """
  def check(history, turns) do
    stored = for {where, questions} <- turns, question <- questions, do: {where, question}
    counts = Enum.frequencies(stored)
    asked = MapSet.new(history, &{{&1.session, &1.conversation}, &1.question})

    lost =
      for %{outcome: {:ok, _node}} = turn <- history,
          not is_map_key(counts, {{turn.session, turn.conversation}, turn.question}),
          do: {:lost, turn}

    doubled = for {{_where, question}, count} <- counts, count > 1, do: {:doubled, question}

    invented =
      for {{_where, question} = one, _count} <- counts,
          one not in asked,
          do: {:invented, question}

    lost ++ doubled ++ invented
  end
end
