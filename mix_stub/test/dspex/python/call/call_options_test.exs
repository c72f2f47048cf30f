defmodule DSPex.Python.Call.CallOptionsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Call.CallOptions
  alias DSPex.Python.Cluster
  alias DSPex.Python.Functions.CallerContext
  alias DSPex.Python.Wire.Timeout

  test "are a keyword list or a map with atom keys" do
    for options <- [[timeout: 5, n: 2], %{timeout: 5, n: 2}] do
      assert CallOptions.to_map!(options) == %{timeout: 5, n: 2}
      assert CallOptions.new!(options) == %CallOptions{timeout: 5, python: %{n: 2}}
    end

    assert CallOptions.new!([]) == CallOptions.new!(%{})
  end

  test "raise in any other form, and the message shows no value, which may be a key" do
    for {options, got} <- [
          {%{"timeout" => "sk-1"}, ~s|the key "timeout"|},
          {[{"timeout", "sk-1"}], ~s|the key "timeout"|},
          {[1], "a list with an element that is no option"},
          {:fast, ":fast"},
          {"dspy.Predict", ~s|"dspy.Predict"|},
          {nil, "nil"},
          {1..2, "1..2"}
        ] do
      for read <- [&CallOptions.new!/1, &CallOptions.to_map!/1] do
        error = assert_raise ArgumentError, fn -> read.(options) end

        assert error.message ==
                 "expected options as a keyword list or a map with atom keys, got " <> got
      end
    end
  end

  test "have a timeout that Erlang's timers take" do
    # A longer timeout once crashed the owner of the port, and with it all calls.
    for timeout <- [0, -1, 1.5, "5", nil, 4_294_967_296, 10_000_000_000_000] do
      refute Timeout.valid?(timeout)
      assert_raise ArgumentError, ~r/timeout/, fn -> CallOptions.new!(%{timeout: timeout}) end
    end

    for timeout <- [1, 4_294_967_295, :infinity] do
      assert CallOptions.new!(%{timeout: timeout}).timeout == timeout
    end

    assert CallOptions.new!([]).timeout == 30_000
    assert CallOptions.new!([], :infinity).timeout == :infinity
    assert CallOptions.new!([timeout: 5], :infinity).timeout == 5
  end

  test "name a pool by an atom" do
    assert CallOptions.new!([]).pool == :general

    for pool <- [nil, "p", 1],
        do: assert_raise(ArgumentError, ~r/:pool/, fn -> CallOptions.new!(pool: pool) end)
  end

  test "are sent to Python without those that Elixir uses" do
    options = CallOptions.new!(%{pool: :p, serialization_format: :json, timeout: 5, n: 2})
    # Callers take turns in Python: without the option, each process is a caller.
    caller = inspect(self())

    assert for_execution(options) == {:ok, %{timeout: 5, n: 2, caller: caller}, []}

    assert for_execution(%{options | timeout: :infinity}) == {:ok, %{n: 2, caller: caller}, []}

    named = CallOptions.new!(pool: :p, timeout: :infinity, caller: "user-42")
    assert for_execution(named) == {:ok, %{caller: "user-42"}, []}
    assert options.python == %{n: 2}
  end

  # Without what tells Elixir for whom Python works.
  defp for_execution(options) do
    context = CallerContext.current()

    settings = Cluster.settings(options.pool)

    with {:ok, python, callbacks} <- CallOptions.for_execution(options, settings, context) do
      {text, python} = Map.pop!(python, :caller_context)
      assert CallerContext.from_text(text) == {context.callers, %{}}
      {:ok, python, callbacks}
    end
  end

  test "are all refused that are not taken, where they may say what is meant" do
    refuse = fn options ->
      options |> CallOptions.new!() |> CallOptions.refuse_others([:n, :request_id, :session_id])
    end

    assert refuse.(pool: :p, timeout: 5, strict: false, n: 1, session_id: "s") == :ok

    for {name, hint} <- [
          {:request, " (did you mean :request_id?)"},
          {:session, " (did you mean :session_id?)"},
          {:timout, " (did you mean :timeout?)"},
          {:pol, " (did you mean :pool?)"},
          {:strct, " (did you mean :strict?)"},
          {:temperature, ""}
        ] do
      assert {:error, error} = refuse.([{name, "x"}])
      assert {error.kind, error.path} == {:input, "opts.#{name}"}
      assert error.message =~ "unknown option #{inspect(name)} at opts#{hint}; taken here: :pool,"
    end
  end

  test "that Python does not see are checked by name" do
    check = fn options, taken ->
      options |> CallOptions.new!() |> CallOptions.check_names(taken)
    end

    assert check.([pool: :p, timeout: 5, strict: true, version: 1], [:version]) == :ok
    # Another word may belong to another operation.
    assert check.([request_id: "r", lm: :embedded], []) == :ok
    every = ":pool, :timeout, :serialization_format, :strict, :retry, :metadata, :version"

    for {options, hint} <- [
          {[timout: 5], " (did you mean :timeout?)"},
          {[pol: :p], " (did you mean :pool?)"},
          {[strct: true], " (did you mean :strict?)"},
          {[verson: 1], " (did you mean :version?)"},
          {[request_id: "r", strict: true], ""}
        ] do
      [name | _strict] = Keyword.keys(options)
      assert {:error, error} = check.(options, [:version])
      assert {error.kind, error.path} == {:input, "opts.#{name}"}

      assert error.message ==
               "unknown option #{inspect(name)} at opts#{hint}; taken here: #{every}"
    end
  end

  # These two said "unknown option … known here: session_id" of `timout:`.
  test "of create_program/2 and configure_lm/3 are suggested and listed as those of the others" do
    create = &DSPex.Python.create_program("question -> answer", &1)
    configure = &DSPex.Python.configure_lm(:embedded, [], &1)
    every = ":pool, :timeout, :serialization_format, :strict, :retry, :metadata"

    for call <- [create, configure],
        {wrong, right} <- [timout: :timeout, sesion_id: :session_id] do
      assert {:error, error} = call.([{wrong, 5}])
      assert {error.kind, error.path} == {:input, "opts.#{wrong}"}

      assert error.message ==
               "unknown option #{inspect(wrong)} at opts (did you mean #{inspect(right)}?); taken here: #{every}, :session_id"
    end

    assert {:error, error} = configure.(zzz: 5)
    assert error.message == "unknown option :zzz at opts; taken here: #{every}, :session_id"

    # Python knows what belongs to the spec.
    assert {:error, error} = create.(zzz: 5)
    assert error.message =~ ~s|option "zzz" at opts; known here: session_id, beside #{every}|
    assert {:error, error} = create.(max_cost: 5)

    assert {error.path, error.message} ==
             {"opts.max_cost",
              ~s|unknown option "max_cost" at opts; it belongs to the spec, the first argument: | <>
                "%{signature: …, max_cost: …}; known here: session_id, beside #{every}"}
  end

  test "stand after the settings of a model" do
    for {settings, written} <- [
          {[session_id: "x"], ~S|[temperature: 0.5], session_id: "x")|},
          {[model: "m", pool: :two], "[temperature: 0.5], pool: :two)"}
        ] do
      error = catch_error(DSPex.Python.configure_lm(:embedded, settings))
      assert %ArgumentError{message: message} = error
      assert message =~ "write configure_lm(provider, #{written}"
    end
  end

  test "stand after the limits of a session" do
    assert_raise ArgumentError, ~r/expected limits as a keyword list .*got 5/, fn ->
      DSPex.Python.open_session("a", 5)
    end

    assert_raise ArgumentError, ~r/write open_session\(session_id, \[max_cost/, fn ->
      DSPex.Python.open_session("a", pool: :two)
    end
  end

  test "are strict if the pool is, unless they say otherwise" do
    pool = DSPex.TestPython.start_pool!(strict: true, python: "/no/python")

    strict = fn options ->
      [pool: pool, timeout: :infinity] |> Keyword.merge(options) |> CallOptions.new!()
    end

    assert {:ok, %{strict: true}, []} = for_execution(strict.([]))
    assert {:ok, %{strict: false}, []} = for_execution(strict.(strict: false))
    assert {:error, %{kind: :input}} = CallOptions.check_names(strict.(lm: :embedded), [])
    assert CallOptions.check_names(strict.(lm: :embedded, strict: false), []) == :ok
  end
end
