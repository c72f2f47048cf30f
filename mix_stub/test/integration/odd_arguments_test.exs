defmodule DSPex.OddArgumentsTest do
  # Arguments of a wrong type are errors of the call or of the caller, and never of the code of this library.
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error

  @qa "question -> answer"

  setup_all do
    pool = start_pool!(model: :embedded)
    assert Python.await_pools([pool]) == :ok
    {:ok, pool: pool}
  end

  test "an improper list in place of inputs or examples is an error of kind input", %{pool: pool} do
    {:ok, program} = Python.create_program(%{signature: @qa}, pool: pool)
    inputs = [%{question: "?"} | :more]
    options = [pool: pool, metric: "exact_match"]
    compiled = [{:optimizer, "dspy.BootstrapFewShot"} | options]

    for result <- [
          Python.execute_batch("dspy.Predict", @qa, inputs, pool: pool),
          Python.execute_program_batch(program.id, inputs, pool: pool),
          Python.evaluate_program(program.id, inputs, "exact_match", pool: pool),
          Python.compile_program(program.id, inputs, compiled)
        ] do
      assert {:error, %Error{kind: :input}} = result
    end
  end

  test "the option on_error of a batch may be anything, which is refused", %{pool: pool} do
    for value <- [%{}, {}, {:a, :b}, self(), [1_114_112], 1..2] do
      options = [pool: pool, on_error: value]

      assert {:error, %Error{kind: :input} = error} =
               Python.execute_batch("dspy.Predict", @qa, ["?"], options)

      assert Exception.message(error) =~ "on_error"
    end
  end

  test "a struct in place of the options of a model is an error of kind input", %{pool: pool} do
    for value <- [1..3, MapSet.new([1]), ~D[2024-01-01], %ArgumentError{}] do
      assert {:error, %Error{kind: :input}} = Python.configure_lm(:openai, value, pool: pool)
    end
  end

  test "an improper list of options is named" do
    assert_raise ArgumentError, ~r/keyword list or a map with atom keys, got an improper/, fn ->
      Python.execute_module("dspy.Predict", @qa, "?", [{:timeout, 5} | :more])
    end
  end
end
