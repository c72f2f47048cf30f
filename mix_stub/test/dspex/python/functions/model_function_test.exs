defmodule DSPex.Python.Functions.ModelFunctionTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  doctest DSPex.Python.ModelFunction

  @signature "question -> answer"

  defp ask(function, options \\ []) do
    Python.execute_module(
      "dspy.Predict",
      @signature,
      "Why?",
      [lm: {:elixir, function}] ++ options
    )
  end

  defp answering(text), do: fn _request -> ScriptedModel.written(answer: text) end

  def named(_request), do: ScriptedModel.written(answer: "by name")

  describe "a function as the model of a call" do
    test "takes DSPy's request and returns the model's answer" do
      test = self()

      function = fn request ->
        send(test, {:request, request})
        ScriptedModel.written(answer: "because")
      end

      options = [function: function, model: "mine", temperature: 0.5]
      assert {:ok, prediction} = ask(options, max_tokens: 50)
      assert prediction[:answer] == "because"
      assert prediction.model == "elixir/mine"
      assert_received {:request, request}
      assert request.model == "elixir/mine"
      assert request.settings == %{temperature: 0.5, max_tokens: 50}
      refute request.stream

      assert [%{role: "system", content: system}, %{role: "user", content: user}] =
               request.messages

      assert system =~ "question"
      assert user =~ "Why?"
    end

    test "may be {module, name}, and written in other forms" do
      for model <- [
            {:elixir, {__MODULE__, :named}},
            {:elixir, function: {__MODULE__, :named}},
            {:elixir, %{"function" => &__MODULE__.named/1}},
            %{provider: :elixir, function: &__MODULE__.named/1}
          ] do
        assert {:ok, prediction} =
                 Python.execute_module("dspy.Predict", @signature, "Why?", lm: model)

        assert prediction[:answer] == "by name"
      end
    end

    test "can be a fallback model" do
      busy = fn _request -> {:error, {:rate_limit, retry_after: 3}} end
      models = [{:elixir, function: busy, model: "busy"}, {:elixir, answering("second")}]

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", @signature, "Why?", lm: models)

      assert prediction[:answer] == "second"
      assert prediction.model == "elixir/function"

      assert [%{"model" => "elixir/busy", "kind" => "rate_limit", "retry_after" => 3.0}] =
               prediction.meta["failed_models"]

      options = [function: busy, fallbacks: [elixir: answering("third")]]
      assert {:ok, %{fields: %{"answer" => "third"}}} = ask(options)
    end

    test "can be the extraction model of an adapter" do
      writes = fn _request -> "It is so because of that." end
      adapter = %{name: "two_step", extraction_model: {:elixir, answering("that")}}
      assert {:ok, %{fields: %{"answer" => "that"}}} = ask(writes, adapter: adapter)
    end

    test "returns its usage" do
      function = fn _request ->
        %{
          text: ScriptedModel.written(answer: "a"),
          usage: %{input_tokens: 12, output_tokens: 3},
          finish_reason: :stop
        }
      end

      assert {:ok, prediction} = ask(function)
      assert %{"elixir/function" => usage} = prediction.usage
      assert %{"prompt_tokens" => 12, "completion_tokens" => 3, "total_tokens" => 15} = usage
    end

    test "serves concurrent calls, and may call the same pool" do
      inner = fn _request ->
        {:ok, prediction} = ask(answering("from within"))
        ScriptedModel.written(answer: prediction[:answer])
      end

      results =
        1..20
        |> Enum.map(fn _call -> Task.async(fn -> ask(inner) end) end)
        |> Task.await_many(30_000)

      assert Enum.all?(results, &match?({:ok, %{fields: %{"answer" => "from within"}}}, &1))
    end

    test "is the model of batches, programs and every stage of a pipeline" do
      model =
        start_supervised!({ScriptedModel, fn _ -> ScriptedModel.written(answer: "same") end})

      lm = ScriptedModel.lm(model)

      assert {:ok, results} =
               Python.execute_batch("dspy.Predict", @signature, ["a", "b", "c"], lm: lm)

      assert Enum.map(results, fn {:ok, prediction} -> prediction[:answer] end) ==
               ["same", "same", "same"]

      {:ok, program} =
        Python.create_program(
          signature: @signature,
          modules: ["dspy.Predict", "dspy.Predict"]
        )

      assert {:ok, prediction} = Python.execute_program(program, "Why?", lm: lm)
      assert prediction[:answer] == "same"
      assert length(ScriptedModel.requests(model)) == 5
    end

    test "answers modules that run in threads" do
      model =
        start_supervised!(
          {ScriptedModel,
           fn request ->
             if ScriptedModel.text(request) =~ "final_generated_code",
               do: ScriptedModel.written(reasoning: "r", answer: "42"),
               else:
                 ScriptedModel.written(
                   reasoning: "r",
                   generated_code: "```python\nSUBMIT({'answer': 6 * 7})\n```"
                 )
           end}
        )

      assert {:ok, prediction} =
               Python.execute_module("dspy.ProgramOfThought", @signature, "6 * 7?",
                 lm: ScriptedModel.lm(model),
                 timeout: 60_000
               )

      assert prediction[:answer] == "42"
    end
  end

  describe "errors of a function" do
    test "have the kind that the function names" do
      for {reason, kind, retryable} <- [
            {:rate_limit, :rate_limit, true},
            {{:server, "down for a moment"}, :server, true},
            {{:auth, "no such key"}, :auth, false},
            {{:context_window, message: "too long"}, :context_window, false},
            {"no idea", :provider, false},
            {%RuntimeError{message: "broken"}, :provider, false},
            {:whatever, :provider, false}
          ] do
        assert {:error, %Error{} = error} = ask(fn _request -> {:error, reason} end)
        assert {error.kind, error.retryable} == {kind, retryable}
      end
    end

    test "name the kind that a misspelt one may be meant for" do
      for reason <- [:rate_limt, {:rate_limt, "slow down"}, {:rate_limt, retry_after: 3}] do
        assert {:error, %Error{kind: :provider} = error} =
                 ask(fn _request -> {:error, reason} end)

        assert error.message =~ "#{inspect(reason)} (did you mean the kind :rate_limit?)"
      end
    end

    test "have the time to wait before the next attempt" do
      assert {:error, error} = ask(fn _ -> {:error, {:rate_limit, retry_after: 2.5}} end)
      assert error.details["retry_after"] == 2.5
    end

    test "are one sentence, whatever the function does" do
      for {function, part} <- [
            {fn _ -> raise "it broke" end, "it broke"},
            {fn _ -> exit(:gone) end, ":gone"},
            {fn _ -> throw(:ball) end, ":ball"},
            {fn _ -> Process.exit(self(), :kill) end, "killed"},
            {fn _ -> 42 end, "expected text"},
            {fn _ -> self() end, "expected text"},
            {fn _ -> %{txt: "typo"} end, "known are :text"},
            {fn _ -> %{text: 42} end, "cannot be read"},
            {fn _ -> %{text: "a", usage: %{tokens: 1}} end, "cannot be read"},
            {fn _ -> %{text: "a", finish_reason: :done} end, "known are :stop"},
            {fn _ -> ["a", :b] end, "the model function gave :b"}
          ] do
        assert {:error, %Error{kind: :provider} = error} = ask(function)
        assert error.message =~ part
        assert error.message =~ "model function"
      end
    end

    test "occur when an answer takes longer than its timeout" do
      options = [function: fn _ -> Process.sleep(:infinity) end, timeout: 50]
      assert {:error, %Error{kind: :provider} = error} = ask(options)
      assert error.message =~ "no answer within 50 ms"
    end

    test "occur for wrong options before the model is asked" do
      assert {:error, %Error{kind: :input} = error} = ask("no function")

      assert error.message =~
               "expected a function of one argument, the request, as in {:elixir, function}"

      assert {:error, error} = ask(function: fn -> "none" end)
      assert error.message =~ "expected a function of one argument"

      assert {:error, error} = ask(function: answering("a"), timeout: -1)
      assert error.message =~ "expected a time limit"

      assert {:error, error} = ask(function: answering("a"), temprature: 1)
      assert error.message =~ "temprature"

      for {options, message} <- [
            {[functon: answering("a")],
             ~s|unknown option "functon" of the model :elixir (did you mean :function?)|},
            {[function: answering("a"), timeot: 1],
             ~s|unknown option "timeot" of the model :elixir (did you mean :timeout?)|}
          ] do
        assert {:error, %Error{kind: :input, message: ^message}} = ask(options)
      end
    end

    test "about an unknown option offer what a caller writes" do
      # They offered `callback`, the name of the function on the wire.
      assert {:error, %Error{kind: :input} = error} = ask(function: answering("a"), zzzz: 1)
      [_message, offered] = String.split(error.message, "known here: ")
      offered = String.split(offered, ", ")
      assert ["function", "model", "timeout", "num_retries"] -- offered == []
      refute "callback" in offered
    end

    test "occur for an answer with a key that comes twice, of which the last one counted" do
      for answer <- [
            [text: "first", text: "second"],
            {:ok, [text: "first", text: "second"]},
            {:error, {:rate_limit, message: "first", message: "second"}}
          ] do
        assert {:error, %Error{kind: :provider} = error} = ask(fn _request -> answer end)

        assert error.message =~
                 ~r/expected the key :(text|message) once at the answer of the model function, got it 2 times/
      end
    end

    test "occur for a function in the spec of a program" do
      spec = %{signature: @signature, lm: {:elixir, answering("a")}}
      assert {:error, %Error{kind: :input} = error} = Python.create_program(spec)
      assert error.message =~ "spec.lm"
      assert error.message =~ "session_id"
    end
  end

  describe "the end of a call" do
    test "ends the function: at the deadline, with the caller, and on cancellation" do
      test = self()

      endless = fn _request ->
        send(test, {:running, self()})
        Process.sleep(:infinity)
      end

      attempt = fn timeout -> {ask(endless, timeout: timeout), take_message(:running)} end
      in_time? = fn {result, running} -> running != nil and python_answered?(result) end
      {{result, {:running, function}}, _timeout} = at_deadline(300, attempt, in_time?)
      assert {:error, %Error{kind: :timeout} = error} = result
      assert error.details["stage"] == "model"
      assert_ended(function)

      caller = spawn(fn -> ask(endless) end)
      assert_receive {:running, function}, 20_000
      Process.exit(caller, :kill)
      assert_ended(function)

      id = "cancelled-#{System.unique_integer()}"
      call = Task.async(fn -> ask(endless, request_id: id) end)
      assert_receive {:running, function}, 20_000
      assert {:ok, 1} = Python.cancel(id)
      assert {:error, %Error{kind: :cancelled}} = Task.await(call, 30_000)
      assert_ended(function)
    end

    test "leaves nothing registered" do
      pool = start_pool!()
      test = self()

      asked = fn _request ->
        send(test, {:registered, length(registered_by(test))})
        ScriptedModel.written(answer: "a")
      end

      {:ok, _prediction} = ask(asked, pool: pool)
      assert_received {:registered, 1}
      for _ <- 1..20, do: {:error, _error} = ask(fn _ -> raise "no" end, pool: pool)
      assert registered_by(test) == []
    end
  end

  describe "streams" do
    defp pieces(text),
      do: text |> String.graphemes() |> Enum.chunk_every(3) |> Enum.map(&Enum.join/1)

    test "are passed on while the function makes them" do
      test = self()

      function = fn %{stream: true} ->
        Stream.map(
          pieces(ScriptedModel.written(answer: "one two three four five six")),
          fn piece ->
            send(test, {:made, piece})
            piece
          end
        )
      end

      elements =
        "dspy.Predict"
        |> Python.stream(@signature, "Why?", lm: {:elixir, function})
        |> Enum.to_list()

      chunks = for {:chunk, "answer", text} <- elements, do: text
      assert length(chunks) > 3
      assert Enum.join(chunks) == "one two three four five six"
      assert {:prediction, prediction} = List.last(elements)
      assert prediction[:answer] == "one two three four five six"
    end

    test "may end with the usage" do
      last = %{usage: %{input_tokens: 5, output_tokens: 7}, finish_reason: :stop}
      function = fn _ -> pieces(ScriptedModel.written(answer: "short")) ++ [last] end
      stream = Python.stream("dspy.Predict", @signature, "Why?", lm: {:elixir, function})
      assert {:prediction, prediction} = stream |> Enum.to_list() |> List.last()
      assert %{"elixir/function" => %{"total_tokens" => 12}} = prediction.usage
    end

    test "are joined if the caller does not read pieces" do
      assert {:ok, prediction} = ask(fn _ -> pieces(ScriptedModel.written(answer: "joined")) end)
      assert prediction[:answer] == "joined"
    end

    test "have back-pressure, and end when the reader stops" do
      test = self()

      function = fn _request ->
        Stream.resource(
          fn -> 0 end,
          fn
            0 -> {["[[ ## answer ## ]]\n"], 1}
            n -> {[made(test, n)], n + 1}
          end,
          fn _n -> send(test, :closed) end
        )
      end

      stream =
        Python.stream("dspy.Predict", @signature, "Why?",
          lm: {:elixir, function},
          buffer: 4
        )

      assert [{:chunk, "answer", _text}] =
               stream |> Stream.filter(&match?({:chunk, _, _}, &1)) |> Enum.take(1)

      eventually(fn -> registered_by(self()) == [] end)
      made = for _ <- Stream.repeatedly(fn -> nil end) |> Enum.take(1_000), do: receive_made()
      # 4 events, and the pieces that Python reads ahead to tell a header from text.
      assert Enum.count(made, & &1) < 40
    end

    defp receive_made do
      receive do
        {:made, n} -> n
      after
        0 -> nil
      end
    end

    test "that end with an exception are an error" do
      function = fn _ ->
        Stream.map(pieces(ScriptedModel.written(answer: "never complete")), fn piece ->
          if piece =~ "]]", do: raise("broke off"), else: piece
        end)
      end

      stream = Python.stream("dspy.Predict", @signature, "Why?", lm: {:elixir, function})
      assert {:error, %Error{} = error} = stream |> Enum.to_list() |> List.last()
      assert error.message =~ "broke off"
    end
  end

  describe "a function as the model of a pool" do
    test "is used from the start, and after a restart of Python" do
      pool = start_pool!(model: {:elixir, answering("the pool's")})

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", @signature, "?", pool: pool)

      assert prediction[:answer] == "the pool's"
      client = client(pool)
      signal(pool, "KILL")
      eventually(fn -> client(pool) != client end)

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", @signature, "?", pool: pool)

      assert prediction[:answer] == "the pool's"
    end

    test "can be configured later, and replaced" do
      pool = start_pool!(model: nil)

      assert {:ok, described} =
               Python.configure_lm(:elixir, [function: answering("first")], pool: pool)

      assert described["provider"] == "elixir"
      assert answer(pool) == "first"
      assert kept(pool) == 1
      assert {:ok, _model} = Python.configure_lm({:elixir, answering("second")}, %{}, pool: pool)
      assert answer(pool) == "second"
      assert kept(pool) == 1
      assert {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: pool)
      assert kept(pool) == 0
    end

    test "outlives the process that configured it" do
      pool = start_pool!(model: nil)

      fn -> Python.configure_lm(:elixir, [function: answering("still here")], pool: pool) end
      |> Task.async()
      |> Task.await(30_000)

      assert answer(pool) == "still here"
    end

    test "may belong to a session, until the session is closed" do
      pool = start_pool!()

      assert {:ok, _model} =
               Python.configure_lm(:elixir, [function: answering("the session's")],
                 pool: pool,
                 session_id: "s"
               )

      assert answer(pool, session_id: "s") == "the session's"
      refute answer(pool) == "the session's"
      assert kept(pool) == 1
      assert {:ok, _session} = Python.close_session("s", pool: pool)
      assert kept(pool) == 0
    end

    # The function was killed, and each call that ran was an error of kind `provider`.
    test "answers the calls that run when the model is changed, or the session closed" do
      pool = start_pool!(model: nil)
      test = self()

      held = fn _request ->
        send(test, {:asked, self()})
        receive do: (:go_on -> ScriptedModel.written(answer: "old"))
      end

      change = fn provider, config, session ->
        {:ok, _model} = Python.configure_lm(provider, config, [pool: pool] ++ session)
      end

      for {session, changes} <- [
            {[], [fn -> change.(:embedded, [], []) end]},
            {[], [fn -> change.(:elixir, [function: held], []) end]},
            {[session_id: "s"], [fn -> change.(:embedded, [], session_id: "s") end]},
            {[session_id: "s"], [fn -> {:ok, _} = Python.close_session("s", pool: pool) end]},
            {[], for(_ <- 1..3, do: fn -> change.(:elixir, [function: answering("new")], []) end)}
          ] do
        change.(:elixir, [function: held], session)
        calls = for _ <- 1..2, do: Task.async(fn -> answer(pool, session) end)
        asked = for _ <- calls, do: assert_receive({:asked, _function}, 30_000)
        for change <- changes, do: change.()
        for {:asked, function} <- asked, do: send(function, :go_on)
        assert Task.await_many(calls, 30_000) == ["old", "old"]
      end

      assert answer(pool) == "new"
      eventually(fn -> replaced(pool) == [] end)
      assert kept(pool) == 1
    end

    # Python has the call when it goes on, and had a model whose function was not there any more.
    for ends <- [:timeout, :kill] do
      test "of a session can be called after a configure_lm that ends early by #{ends}" do
        pool = start_pool!(heartbeat: [stopped: false])
        options = [pool: pool, session_id: "s"]
        configure = &Python.configure_lm(:elixir, [function: answering(&1)], options ++ &2)
        {:ok, _model} = configure.("first", [])
        {:ok, %{"pid" => pid}} = Python.ping(nil, pool: pool)
        signal_process(pid, "STOP")

        case unquote(ends) do
          :timeout ->
            assert {:error, %Error{kind: :timeout}} = configure.("second", timeout: 300)

          :kill ->
            caller = spawn(fn -> configure.("second", []) end)
            Process.sleep(300)
            Process.exit(caller, :kill)
        end

        signal_process(pid, "CONT")
        for _ <- 1..5, do: assert(answer(pool, session_id: "s") in ["first", "second"])
        {:ok, _model} = configure.("third", [])
        assert answer(pool, session_id: "s") == "third"
        {:ok, _session} = Python.close_session("s", pool: pool)
        eventually(fn -> {kept(pool), replaced(pool)} == {0, []} end)
      end
    end

    test "is killed when its request is cancelled" do
      test = self()

      endless = fn _request ->
        send(test, {:running, self()})
        Process.sleep(:infinity)
      end

      pool = start_pool!(model: {:elixir, endless})
      {:ok, _pong} = Python.ping(nil, pool: pool)

      attempt = fn timeout ->
        options = [pool: pool, timeout: timeout]
        result = Python.execute_module("dspy.Predict", @signature, "?", options)
        {result, take_message(:running)}
      end

      in_time? = fn {_result, running} -> running != nil end
      {{result, {:running, function}}, _timeout} = at_deadline(300, attempt, in_time?)
      assert {:error, %Error{kind: :timeout}} = result
      assert_ended(function)
    end

    defp kept(pool), do: map_size(functions(pool).registered)
    defp replaced(pool), do: functions(pool).replaced
    defp functions(pool), do: :sys.get_state(client(pool)).model.functions

    defp answer(pool, options \\ []) do
      {:ok, prediction} =
        Python.execute_module("dspy.Predict", @signature, "?", [pool: pool] ++ options)

      prediction[:answer]
    end
  end

  defp made(test, number) do
    send(test, {:made, number})
    "word#{number} "
  end

  defp assert_ended(pid) do
    monitor = Process.monitor(pid)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 30_000
  end
end
