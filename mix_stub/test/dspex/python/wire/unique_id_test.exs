defmodule DSPex.Python.Wire.UniqueIdTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.ScriptedModel
  alias DSPex.Python.Wire.UniqueId

  defp in_seeded_process(work) do
    Task.async(fn ->
      :rand.seed(:exsss, {1, 2, 3})
      work.()
    end)
  end

  test "an id is text of the digits of its bytes" do
    assert UniqueId.new(12) =~ ~r/\A[0-9a-f]{24}\z/
  end

  test "processes that have seeded :rand alike have functions and sessions of their own" do
    # Each of them got what the function of the last one answered, and the two programs were of one session.
    pool = start_pool!()

    answers =
      for number <- 1..10 do
        model = fn _request ->
          Process.sleep(50)
          ScriptedModel.written(answer: "#{number}")
        end

        in_seeded_process(fn ->
          {:ok, prediction} =
            Python.execute_module("dspy.Predict", "question -> answer", "Q",
              lm: {:elixir, model},
              pool: pool
            )

          {number, prediction[:answer]}
        end)
      end

    for {number, answer} <- Task.await_many(answers, 60_000), do: assert(answer == "#{number}")

    sessions =
      for _ <- 1..2 do
        in_seeded_process(fn ->
          {:ok, program} = Python.create_program([signature: "question -> answer"], pool: pool)
          program.session_id
        end)
      end

    [first, second] = Task.await_many(sessions, 60_000)
    assert first != second
  end
end
