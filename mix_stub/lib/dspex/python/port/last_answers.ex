defmodule DSPex.Python.Port.LastAnswers do
  @moduledoc false

  # Answers the pending calls of a Python that cannot answer them any more, and says what had been done for each: whether it
  # was sent, whether it had asked a model, and whether others have seen something of it.

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{AskedNotes, Connection, PendingCalls, Quarantine}

  @doc """
  Answers all calls with `error`. `asked_notes` are the notes of a Python that was ready; `nil`: it was not, and has seen none
  of the calls.
  """
  @spec all(PendingCalls.t(), Error.t(), {:ready, AskedNotes.t() | nil} | nil) :: :ok
  def all(calls, error, notes),
    do:
      Enum.each(
        PendingCalls.take_all(calls),
        &answer(&1, error, notes, fn error -> {:error, error} end)
      )

  @doc """
  Answers all calls of a Python that has died, with the number of its death.
  """
  @spec of_dead(
          PendingCalls.t(),
          Error.t(),
          {:ready, AskedNotes.t() | nil} | nil,
          Quarantine.t() | nil
        ) ::
          :ok
  def of_dead(calls, error, notes, quarantine) do
    calls = PendingCalls.take_all(calls)
    death = if Enum.any?(calls, & &1.sent?), do: Quarantine.died(quarantine)
    Enum.each(calls, &answer(&1, error, notes, fn error -> {:died, death, error} end))
  end

  defp answer(%{sent?: true} = call, error, {:ready, notes}, answer) do
    facts = Map.put(AskedNotes.noted(notes, call.id), "sent", true)
    Connection.answer(call, answer.(with_facts(error, facts)))
  end

  defp answer(call, error, _notes, _answer), do: Connection.answer(call, {:error, unsent(error)})

  @doc """
  Says in the error of a closed port that its call was not sent.
  """
  @spec unsent(Error.t()) :: Error.t()
  def unsent(error),
    do: with_facts(error, %{"sent" => false, "asked" => false, "called" => false})

  defp with_facts(%Error{kind: kind, details: details} = error, facts)
       when kind in [:port_closed, :worker_died],
       do: %{error | details: Map.merge(details, facts)}

  defp with_facts(error, _facts), do: error
end
