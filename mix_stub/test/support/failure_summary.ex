defmodule DSPex.FailureSummary do
  @moduledoc """
  Prints the failures once more at the end of a run, without their logs.

  The failure of one test among a thousand stands before minutes of dots, and its log may be longer than what continuous
  integration keeps of the output.
  """

  use GenServer

  @width 120

  @impl true
  def init(_options), do: {:ok, []}

  @impl true
  def handle_cast({:test_finished, %{state: {:failed, failures}} = test}, failed),
    do: {:noreply, [{test, failures} | failed]}

  def handle_cast({:module_finished, %{state: {:failed, failures}} = module}, failed),
    do: {:noreply, [{module, failures} | failed]}

  def handle_cast({:suite_finished, _times}, failed) do
    failed |> Enum.reverse() |> write() |> IO.write()
    {:noreply, failed}
  end

  def handle_cast(_event, failed), do: {:noreply, failed}

  @doc """
  Returns the text of what failed: tests, and modules whose `setup_all` failed.
  """
  @spec write([{ExUnit.Test.t() | ExUnit.TestModule.t(), ExUnit.failed()}]) :: iodata()
  def write([]), do: []

  def write(failed) do
    texts =
      for {{failed, failures}, number} <- Enum.with_index(failed, 1),
          do: text(failed, failures, number)

    ["\nWhat failed, without logs:\n", texts]
  end

  defp text(%ExUnit.Test{} = test, failures, number),
    do: ExUnit.Formatter.format_test_failure(test, failures, number, @width, &plain/2)

  defp text(%ExUnit.TestModule{} = module, failures, number),
    do: ExUnit.Formatter.format_test_all_failure(module, failures, number, @width, &plain/2)

  defp plain(:diff_enabled?, _default), do: false
  defp plain(_part, text), do: text
end
