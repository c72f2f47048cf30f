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

  # `delete_program(program, version: 1)` deleted all versions, and another session was looked up in none of these.
  test "what shows, changes or deletes takes the options that it uses, of their types, and refuses others" do
    {:ok, program} = Python.create_program(%{signature: "question -> answer", history: true})
    {:ok, text} = Python.dump_program(program)
    every = [:pool, :timeout, :serialization_format, :strict, :retry, :metadata]
    path = Path.join(System.tmp_dir!(), "refused-#{System.unique_integer([:positive])}.jsonl")

    for {call, taken} <- [
          {&Python.configure_lm(:embedded, [], &1), [:session_id]},
          {&Python.dump_program(program, &1), [:session_id, :version]},
          {&Python.load_program(text, &1), [:session_id, :lm, :lms, :allow_urls]},
          {&Python.list_programs(nil, &1), []},
          {&Python.describe_program(program, &1), [:session_id, :version]},
          {&Python.delete_program(program, &1), [:session_id]},
          {&Python.list_conversations(program, &1), [:session_id]},
          {&Python.conversation(program, "c", &1), [:session_id]},
          {&Python.seed_conversation(program, "c", [], &1), [:session_id]},
          {&Python.cut_conversation(program, "c", 1, &1), [:session_id]},
          {&Python.delete_conversation(program, "c", &1), [:session_id]},
          {&Python.open_session("s", [], &1), []},
          {&Python.list_budgets/1, []},
          {&Python.reset_budget(:tenant, "acme", &1), []},
          {&Python.list_sessions/1, []},
          {&Python.session_info(program.session_id, &1), []},
          {&Python.export_store(path, &1), []},
          {&Python.import_store(path, &1), []},
          {&Python.close_session(program.session_id, &1), []},
          {&Python.cancel("none", &1), []},
          {&Python.running_calls/1, [:n]},
          {&Python.metrics/1, []},
          {&Python.reset_metrics/1, []},
          {&Python.history/1, [:n, :request_id, :session_id]},
          {&Python.inspect_history/1, [:n, :request_id, :session_id]}
        ] do
      listed = Enum.map_join(every ++ taken, ", ", &inspect/1)

      for {name, value} <- [version: 1, version: "x", user: "acme"], name not in taken do
        assert {:error, error} = call.([{name, value}])
        assert {error.kind, error.path} == {:input, "opts.#{name}"}
        assert error.message == "unknown option :#{name} at opts; taken here: #{listed}"
        assert {:error, %Error{path: "opts." <> _name}} = call.([{name, value}, strict: true])
      end

      for name <- taken, name in [:session_id, :version, :request_id, :n] do
        assert {:error, error} = call.([{name, 1.5}])
        assert {name, error.kind, error.path} == {name, :input, "opts.#{name}"}
        assert error.message =~ ~r/^expected .* at opts\.#{name}, got 1\.5/
      end
    end

    refute File.exists?(path)
    assert {:ok, %{"id" => _all_of_it}} = Python.describe_program(program)
  end

  test "a session that is not the program's is an error of what shows or deletes" do
    {:ok, program} = Python.create_program(%{signature: "question -> answer", history: true})
    %{session_id: session_id} = program

    for call <- [&Python.describe_program/2, &Python.dump_program/2, &Python.list_conversations/2] do
      assert {:error, error} = call.(program, session_id: "another")
      assert {error.kind, error.path} == {:input, "opts.session_id"}

      assert error.message ==
               "expected session #{inspect(session_id)} at opts.session_id, of which the program is, got \"another\": " <>
                 "leave the option out, or give the program's id in place of the program"

      assert {:error, %Error{kind: :input, path: "opts.session_id"}} =
               call.(program.id, session_id: 5)

      for given <- [session_id, nil, String.to_charlist(session_id)],
          target <- [program, program.id],
          do: assert({:ok, _shown} = call.(target, session_id: given))
    end
  end

  defp first_error(stream) do
    case Enum.to_list(stream) do
      [{:error, _error} = error | _rest] -> error
      [{0, error} | _rest] -> error
      [{:done, error}] -> error
    end
  end
end
