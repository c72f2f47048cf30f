defmodule DSPex.Python.Port.PoolOptionsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Pool
  alias DSPex.Python.Port.PoolOptions

  test "have defaults, except the name" do
    options = PoolOptions.new!(name: :reports)
    assert {options.python, options.python_path, options.preload} == {"python3", [], []}
    assert options.model.() == nil
  end

  test "by another name raise an error with the name that they have here" do
    for {wrong, right} <- [
          lm: :model,
          workers: :size,
          interpreter: :python,
          timeout: :start_timeout
        ] do
      assert_raise ArgumentError,
                   ~r/^unknown option :#{wrong} of pool :p \(did you mean :#{right}\?\); known are /,
                   fn -> PoolOptions.new!([{:name, :p}, {wrong, 1}]) end
    end
  end

  test "raise an error that names the mistake, the pool and the known options" do
    for {options, message} <- [
          {[name: :p, modle: 1],
           "unknown option :modle of pool :p (did you mean :model?); known are :name, :python, :python_path, :env, :cd, :model, :modules, :preload, :start_timeout, :heartbeat, :max_threads, :max_stuck, :lost_after, :max_request_bytes, :max_answer_bytes, :drain_timeout, :stop_timeout, :strict, :size, :standby, :template, :max_in_flight, :max_queue, :max_memory, :max_calls, :max_age, :retry, :store, :programs, :session_ttl, :budgets, :log_metadata, :history, :redact, :otlp"},
          {[name: :p, zzz: 1], ~r/^unknown option :zzz of pool :p; known are/},
          {[name: :p, strict: 1], "expected a boolean for the option :strict of pool :p, got 1"},
          {[name: :p, max_stuck: -1],
           "expected 0 or a positive integer for the option :max_stuck of pool :p, got -1"},
          {[name: :p, max_threads: 0],
           "expected 1 to 1024 for the option :max_threads of pool :p, got 0"},
          {[name: :p, lost_after: 0],
           "expected 1 to 4294967295 ms for the option :lost_after of pool :p, got 0"},
          {[name: :p, max_request_bytes: 65_535],
           "expected at least 65536 bytes for the option :max_request_bytes of pool :p, got 65535"},
          {[name: :p, max_answer_bytes: :infinity],
           "expected at least 65536 bytes for the option :max_answer_bytes of pool :p, got :infinity"},
          {[name: :p, drain_timeout: :infinity],
           "expected 0 to 4294967295 ms for the option :drain_timeout of pool :p, got :infinity"},
          {[name: :p, stop_timeout: -1],
           "expected 0 to 4294967295 ms for the option :stop_timeout of pool :p, got -1"},
          {[python: "python3"], "expected the option :name of a pool to be an atom, got nil"},
          {[name: :p, python: 3], "expected a path for the option :python of pool :p, got 3"},
          {[name: :p, python: "a\0b"],
           "expected UTF-8 text without zero bytes for the option :python of pool :p, got <<97, 0, 98>>"},
          {[name: :p, cd: "/tmp\0"],
           "expected a folder that exists for the option :cd of pool :p, got <<47, 116, 109, 112, 0>>"},
          {[name: :p, modules: [""]],
           ~S|expected names of modules, none of them empty, for the option :modules of pool :p, got [""]|},
          {[name: :p, preload: ["\xff"]],
           "expected UTF-8 text without zero bytes for the option :preload of pool :p, got [<<255>>]"},
          {[name: :p, store: "sqlite:///:memory:"],
           "expected a file, since each Python would have a database of its own in its memory; give :run or false for " <>
             "the option :store of pool :p"},
          {[name: :p, preload: "tools"],
           ~S|expected a list of strings for the option :preload of pool :p, got "tools"|},
          {[name: :p, python_path: ["/tools" | "/more"]],
           ~r/^expected a list of strings for the option :python_path of pool :p/},
          {[name: :p, modules: ["a.B" | "c.D"]], ~r/^expected a list of strings for the option/},
          {[name: :p, preload: ["a" | :b]], ~r/^expected a list of strings for the option/},
          {[name: :p, log_metadata: [:a | :b]], ~r/^expected a list of keys such as/},
          {[name: :p, modules: [""]], ~r/^expected names of modules, none of them empty/},
          {[name: :p, preload: ["tools", " "]], ~r/^expected names of modules, none of them/},
          {[name: :p, python: <<"/usr/bin/python", 0>>],
           ~r/^expected UTF-8 text without zero bytes for the option :python of pool :p/},
          {[name: :p, python: <<255, 254>>], ~r/^expected UTF-8 text without zero bytes/},
          {[name: :p, python_path: [<<255>>]], ~r/^expected UTF-8 text without zero bytes/},
          {[name: :p, python_path: ["a\0b"]], ~r/^expected UTF-8 text without zero bytes/},
          {[name: :p, modules: ["a\0b"]], ~r/^expected UTF-8 text without zero bytes/},
          {[name: :p, preload: [<<255>>]], ~r/^expected UTF-8 text without zero bytes/},
          {[name: :p, python_path: ["/tools", ""]],
           ~r/^expected folders whose names are not empty and have no colon for the option :python_path of pool :p/},
          {[name: :p, python_path: ["/a:/b"]], ~r/got \["\/a:\/b"\]; the current folder is "."/},
          {[name: :p, start_timeout: 0],
           "expected 1 to 4294967295 ms for the option :start_timeout of pool :p, got 0"},
          # Longer than Erlang's timers: it would crash the owner of the port at each start.
          {[name: :p, start_timeout: 10_000_000_000_000],
           "expected 1 to 4294967295 ms for the option :start_timeout of pool :p, got 10000000000000"},
          # These seemed to contradict themselves: "expected a number of calls, got 1.5".
          {[name: :p, max_age: 4_294_967_296],
           "expected 1 to 4294967295 ms for the option :max_age of pool :p, got 4294967296"},
          {[name: :p, max_queue: 1.5],
           "expected 0 or a positive integer for the option :max_queue of pool :p, got 1.5"},
          {[name: :p, max_in_flight: 1.5],
           "expected a positive integer for the option :max_in_flight of pool :p, got 1.5"},
          {[name: :p, max_calls: 1.5],
           "expected a positive integer for the option :max_calls of pool :p, got 1.5"},
          {[name: :p, store: :run, session_ttl: 1],
           "expected 1000 to 31557600000000 ms for the option :session_ttl of pool :p, got 1"},
          {[name: :p, store: false, session_ttl: 1_000],
           "the option :session_ttl of pool :p is about the store of the pool, which has none; give it the option :store too"},
          {[name: :p, modules: Stream.map(["a.B"], & &1)],
           ~r/^expected a list of strings for the option :modules .*; Enum.to_list\/1 makes a list of it$/},
          {[name: :p, log_metadata: MapSet.new([:a])], ~r/; Enum.to_list\/1 makes a list of it$/},
          {%{name: :p},
           "expected the options of a pool as a keyword list, got a map; Map.to_list/1 makes a list of it"},
          {[{"name", :p}],
           "expected the options of a pool as a keyword list, got a list with what is no pair of an atom and a value"},
          {nil, "expected the options of a pool as a keyword list, got nil"}
        ] do
      assert_raise ArgumentError, message, fn -> PoolOptions.new!(options) end
      assert_raise ArgumentError, message, fn -> Pool.child_spec(options) end
    end
  end

  test "that have keys of their own name the key, what it takes, and what came" do
    # Each of these was one sentence about the whole option, and `[stopped: 1, stopped: 2]` was asked "did you mean :stopped?".
    for {option, value, message} <- [
          {:heartbeat, [stopped: 1, stopped: 2],
           "expected the key :stopped once at heartbeat, got it 2 times"},
          {:heartbeat, [intervl: 1],
           "unknown key :intervl at heartbeat (did you mean :interval?); known are :interval, :limit, :stopped"},
          {:heartbeat, [interval: 0], "expected 1 to 4294967295 ms at heartbeat.interval, got 0"},
          {:heartbeat, [interval: "5"],
           ~S|expected 1 to 4294967295 ms at heartbeat.interval, got "5"|},
          {:heartbeat, [limit: -1],
           "expected 5000 (the interval) to 4294967295 ms at heartbeat.limit, got -1"},
          {:heartbeat, [limit: nil],
           "expected 5000 (the interval) to 4294967295 ms at heartbeat.limit, got nil"},
          {:heartbeat, [interval: 60_000],
           "expected a limit too, 60000 (the interval) to 4294967295 ms, at heartbeat.limit, got its default, 30000"},
          {:heartbeat, [stopped: true],
           "expected 1 to 4294967295 ms, or false, at heartbeat.stopped, got true"},
          {:heartbeat, %{interval: 1},
           "expected false or [interval: ms, limit: ms, stopped: ms or false], got %{interval: 1}"},
          {:heartbeat, nil,
           "expected false or [interval: ms, limit: ms, stopped: ms or false], got nil"},
          {:otlp, [content: :full, content: :metadata],
           "expected the key :content once at otlp, got it 2 times"},
          {:otlp, [endpoint: nil],
           ~S|expected an address such as "http://localhost:4318", or true, at otlp.endpoint|},
          {:otlp, [content: :all], "expected :metadata or :full at otlp.content"},
          {:otlp, [zzz: 1], "unknown key :zzz at otlp; known are :endpoint, :content"},
          {:env, [A: "1", A: "2"], "expected the variable A once"},
          {:programs, [a: "x", a: "y"],
           "expected the key :a once at the programs, got it 2 times"}
        ] do
      message =
        if is_binary(message),
          do: "#{message} for the option #{inspect(option)} of pool :p",
          else: message

      options = [{:name, :p}, {option, value}]
      assert_raise ArgumentError, message, fn -> PoolOptions.new!(options) end
      assert_raise ArgumentError, message, fn -> Pool.child_spec(options) end
      assert_raise ArgumentError, message, fn -> DSPex.Python.start_pool(:p, options) end
    end
  end

  test "name a function that exists" do
    # No text was kept, each call was logged as an error, and nothing said so at the start.
    for {redact, message} <- [
          {{Nope, :clean}, "this node has no module Nope"},
          {{nil, nil}, "this node has no module nil"},
          {{String, :upcas},
           "there is no public function String.upcas/1 (did you mean :upcase?)"},
          {{String, :zzz}, "there is no public function String.zzz/1"},
          {{Enum, :map}, "there is no public function Enum.map/1 (there is map/2)"},
          {{__MODULE__, :private}, "there is no public function #{inspect(__MODULE__)}.private/1"}
        ] do
      message = "#{message} for the option :redact of pool :p"

      assert_raise ArgumentError, message, fn ->
        DSPex.Python.start_pool(:p, redact: redact)
      end

      assert_raise ArgumentError, message, fn -> Pool.child_spec(name: :p, redact: redact) end
    end

    # Also one that is not loaded yet.
    module = DSPex.RedactNotLoaded
    folder = Path.join(System.tmp_dir!(), "redact-#{System.unique_integer([:positive])}")
    File.mkdir_p!(folder)
    on_exit(fn -> File.rm_rf!(folder) end)

    quote do
      defmodule unquote(module), do: def(clean(texts), do: texts)
    end
    |> Code.compile_quoted()
    |> then(fn [{^module, code}] -> File.write!(Path.join(folder, "#{module}.beam"), code) end)

    :code.purge(module)
    :code.delete(module)
    Code.prepend_path(folder)
    refute :erlang.module_loaded(module)
    assert PoolOptions.new!(name: :p, redact: {module, :clean}).redact == {module, :clean}
    Code.delete_path(folder)
  end

  test "have the name that start_pool/2 and the configuration give the pool" do
    # The option was ignored without a word.
    message = "expected the option :name of pool :p to be left out, got :other"

    assert_raise ArgumentError, message, fn -> DSPex.Python.start_pool(:p, name: :other) end

    assert_raise ArgumentError, message, fn ->
      DSPex.Python.Pool.PoolSupervisor.init(p: [name: :other])
    end

    assert {:ok, _children} = DSPex.Python.Pool.PoolSupervisor.init(p: [name: :p])
  end

  test "take every form of the export of spans, and refuse others without showing them" do
    for {given, read} <- [
          {false, nil},
          {true, %{endpoint: true, content: :metadata}},
          {"http://c:4318", %{endpoint: "http://c:4318", content: :metadata}},
          {[content: :full], %{endpoint: true, content: :full}},
          {[endpoint: "https://c", content: :full], %{endpoint: "https://c", content: :full}}
        ] do
      assert PoolOptions.new!(name: :p, otlp: given).otlp == read
    end

    for given <- ["collector:4318", :on, [content: :all], [endpoint: "secret"], [1], %{}] do
      error = assert_raise ArgumentError, fn -> PoolOptions.new!(name: :p, otlp: given) end
      assert error.message =~ "for the option :otlp of pool :p"
      refute error.message =~ "secret"
    end

    assert_raise ArgumentError, ~r/did you mean :endpoint\?/, fn ->
      PoolOptions.new!(name: :p, otlp: [endpint: "http://c"])
    end
  end

  test "take every form of a model" do
    for model <- [nil, :embedded, "openai", {:openai, model: "m"}, {"openai", %{model: "m"}}] do
      assert PoolOptions.new!(name: :p, model: model).model.() == model
    end
  end

  test "refuse a wrong model without showing it" do
    for model <- [true, 1, {:openai, "sk-secret-1"}, {1, model: "m"}, ["sk-secret-1"]] do
      error = assert_raise ArgumentError, fn -> PoolOptions.new!(name: :p, model: model) end
      assert error.message =~ "in the option :model of pool :p"
      refute error.message =~ "secret"
    end
  end

  test "hide the model's key from all that prints" do
    specification =
      Pool.child_spec(name: :p, model: {:openai, model: "m", api_key: "sk-secret-1"})

    refute inspect(specification, limit: :infinity, structs: false) =~ "secret"
    refute :io_lib.format("~tp", [specification]) |> to_string() =~ "secret"
  end
end
