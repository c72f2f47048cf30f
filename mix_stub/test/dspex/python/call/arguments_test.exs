defmodule DSPex.Python.Call.ArgumentsTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error

  # It ran in its own pool without a word, also if the other one did not exist, and with `strict: true`.
  test "a program whose pool is another one than the option names is an error of every function" do
    pool = start_pool!()
    other = start_pool!()
    {:ok, program} = Python.create_program("question -> answer", pool: pool)
    examples = [%{question: "Why?", answer: "x"}]
    inputs = ["Why?"]

    for given <- [other, :nope, {:cluster, pool}],
        call <- [
          &Python.execute_program(program, "Why?", &1),
          &Python.execute_program_batch(program, inputs, &1),
          &Python.evaluate_program(program, examples, "exact_match", &1),
          &Python.compile_program(program, examples, [optimizer: "dspy.LabeledFewShot"] ++ &1),
          &Python.dump_program(program, &1),
          &Python.describe_program(program, &1),
          &Python.delete_program(program, &1),
          &Python.conversation(program, "c", &1),
          &Python.list_conversations(program, &1),
          &first_error(Python.stream_program(program, "Why?", &1)),
          &first_error(Python.stream_program_batch(program, inputs, &1)),
          &first_error(Python.stream_evaluate(program, examples, "exact_match", &1)),
          &first_error(
            Python.stream_compile(program, examples, [optimizer: "dspy.LabeledFewShot"] ++ &1)
          )
        ] do
      assert {:error, %Error{kind: :input, path: "opts.pool"} = error} = call.(pool: given)

      assert error.message =~
               "expected pool #{inspect(pool)} at opts.pool, of which the program is, got #{inspect(given)}"
    end

    assert {:ok, _prediction} = Python.execute_program(program, "Why?", pool: pool)
    assert {:ok, _prediction} = Python.execute_program(program, "Why?")
    assert {:ok, [{:ok, _result}]} = Python.execute_program_batch(program, inputs, pool: pool)
  end

  # The last one counted without a word: of `inspect_history/1` because it made a map first, as of the limits of a session.
  test "a key that comes twice is an error of the functions that read it as a map" do
    for {call, path} <- [
          {fn -> Python.inspect_history(n: 1, n: 5) end, "opts.n"},
          {fn -> Python.inspect_history(strict: true, strict: true) end, "opts.strict"},
          {fn -> Python.open_session("twice", max_cost: 1, max_cost: 5) end, "limits.max_cost"},
          {fn -> Python.configure_lm(:embedded, [], strict: true, strict: true) end,
           "opts.strict"}
        ] do
      assert {:error, %Error{kind: :input, path: ^path} = error} = call.()
      [place, key] = String.split(path, ".")
      assert error.message == "expected the key :#{key} once at #{place}, got it 2 times"
    end

    assert {:error, %Error{kind: :session_not_found}} = Python.session_info("twice")
  end

  defp first_error(stream) do
    case Enum.to_list(stream) do
      [{:error, _error} = error | _rest] -> error
      [{0, error} | _rest] -> error
      [{:done, error}] -> error
    end
  end
end
