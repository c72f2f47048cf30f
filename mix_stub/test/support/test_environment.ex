defmodule DSPex.TestEnvironment do
  @moduledoc """
  Variables of the environment for tests.

  A worker that starts while another test changes the environment of the node is not forked by its pool's template
  process, which has the one of before. So the variables are set once, before any test, each with one text.
  """

  @texts ~w(false FALSE true TRUE run 0.7 1 123 no k) ++
           [
             " ",
             " 100\n",
             "2 times",
             "mysql://app:hunter2pass@db",
             "postgresql://app:hunter2pass@host",
             "sqlite:////tmp/dspex-none.db?sync=OFF"
           ]

  @doc """
  Sets the variables.
  """
  @spec set() :: :ok
  def set, do: System.put_env(for text <- @texts, do: {variable(text), text})

  @doc """
  Returns the name of the variable that has a text.
  """
  @spec variable(String.t()) :: String.t()
  def variable(text) when text in @texts,
    do: "DSPEX_TEST_#{Enum.find_index(@texts, &(&1 == text))}"

  @doc """
  Returns the name of a variable that is not set.
  """
  @spec unset() :: String.t()
  def unset, do: "DSPEX_TEST_UNSET"
end
