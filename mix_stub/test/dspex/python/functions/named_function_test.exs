defmodule DSPex.Python.Functions.NamedFunctionTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Functions.NamedFunction

  doctest NamedFunction

  test "functions of Erlang, and those of the runtime itself, are there too" do
    assert NamedFunction.check(:lists, :reverse, 1) == :ok
    assert NamedFunction.check(:erlang, :abs, 1) == :ok

    assert NamedFunction.check(:lists, :revers, 1) ==
             {:error, "there is no public function :lists.revers/1 (did you mean :reverse?)"}
  end

  test "what is private, or no name, is not there" do
    assert {:error, sentence} = NamedFunction.check(__MODULE__, :of_this_module, 0)
    assert sentence == "there is no public function #{inspect(__MODULE__)}.of_this_module/0"
    assert of_this_module() == :private
    assert NamedFunction.check(true, true, 1) == {:error, "this node has no module true"}
  end

  defp of_this_module, do: :private
end
