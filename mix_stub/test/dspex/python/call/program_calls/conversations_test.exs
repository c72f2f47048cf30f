defmodule DSPex.Python.Call.ProgramCalls.ConversationsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.Error

  @spec_with_history %{signature: "question -> answer", history: true}

  setup do
    {:ok, program} = Python.create_program(@spec_with_history)
    %{program: program}
  end

  # Answers with everything that the model was shown.
  defp showing(program, question, options) do
    test = self()

    answer = fn request ->
      send(test, {:shown, inspect(request, limit: :infinity, printable_limit: :infinity)})
      "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
    end

    options = [lm: {:elixir, function: answer}] ++ options
    assert {:ok, _prediction} = Python.execute_program(program, question, options)
    assert_receive {:shown, shown}
    shown
  end

  test "two users of one program do not see each other's text", %{program: program} do
    showing(program, "My PIN is 1234", conversation: "user-42")
    refute showing(program, "My PIN?", conversation: "user-43") =~ "1234"
    assert showing(program, "My PIN?", conversation: "user-42") =~ "1234"
  end

  test "a call that does not say whose conversation it is says what to write", %{program: program} do
    for called <- [program, program.id] do
      assert {:error, %Error{kind: :input, path: "opts.conversation"} = error} =
               Python.execute_program(called, "Why?")

      assert error.message =~ ~s(conversation: "user-42")
    end
  end

  test "the session of a user is a conversation", %{program: program} do
    users = for _user <- 1..2, do: "session-#{System.unique_integer([:positive])}"
    for user <- users, do: {:ok, _model} = Python.configure_lm(:embedded, [], session_id: user)
    [first, second] = users

    showing(program, "My PIN is 1234", session_id: first)
    refute showing(program, "My PIN?", session_id: second) =~ "1234"

    for called <- [program, program.id],
        do: assert(showing(called, "My PIN?", session_id: first) =~ "1234")

    for user <- users, do: {:ok, _closed} = Python.close_session(user)
    assert {:ok, []} = Python.list_conversations(program)
  end

  test "turns are given back as they can be given in, also by JSON", %{program: program} do
    messages = [%{role: "user", content: "Hi"}, %{role: :assistant, content: "Hello"}]

    for {format, id} <- [native: "a", json: "b"] do
      options = [serialization_format: format]

      assert {:ok, %{"turn_count" => 1}} =
               Python.seed_conversation(program, id, messages, options)

      assert {:ok, %{"turns" => turns}} = Python.conversation(program, id, options)
      assert turns == [%{"question" => "Hi", "answer" => "Hello"}]
      assert {:ok, _again} = Python.seed_conversation(program, id <> "2", turns, options)
      assert {:ok, %{"turns" => ^turns}} = Python.conversation(program, id <> "2", options)
    end

    assert {:ok, listed} = Python.list_conversations(program)
    assert Enum.map(listed, & &1["id"]) == ["a", "a2", "b", "b2"]
  end

  test "a conversation is cut and deleted", %{program: program} do
    turns = for number <- 1..3, do: %{question: "Q#{number}", answer: "A#{number}"}
    {:ok, _seeded} = Python.seed_conversation(program, "user-42", turns)
    assert {:ok, %{"turn_count" => 1}} = Python.cut_conversation(program, "user-42", 1)
    assert {:ok, %{"turns" => [%{"question" => "Q3"}]}} = Python.conversation(program, "user-42")
    assert {:ok, %{"id" => "user-42"}} = Python.delete_conversation(program, "user-42")

    assert {:error, %Error{kind: :input, path: "conversation_id"}} =
             Python.conversation(program, "user-42")
  end

  test "wrong turns are refused with their path", %{program: program} do
    for {turn, path} <- [
          {%{qestion: "x"}, "turns[0].qestion"},
          {%{role: "system", content: "x"}, "turns[0].role"}
        ] do
      assert {:error, %Error{kind: :input, path: ^path}} =
               Python.seed_conversation(program, "user-42", [turn])
    end
  end

  test "an unknown session is told with the start of Python" do
    assert {:error, %Error{kind: :session_not_found, message: message}} =
             Python.session_info("session-none")

    assert message =~ ~r/Python was started at \d{4}-\d\d-\d\d /
  end
end
