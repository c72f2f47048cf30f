defmodule DSPex.Python.Port.RunStoreTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias DSPex.Python.Port.RunStore
  alias DSPex.Python.Pool
  alias DSPex.Python.Pool.Routing
  alias DSPex.Python.ScriptedModel
  alias DSPex.{TestEnvironment, TestPython}

  @moduletag timeout: 120_000

  defp kill_python(pool) do
    owner = TestPython.client(pool)
    TestPython.signal(pool, "KILL")
    TestPython.eventually(fn -> not Process.alive?(owner) end)
    # Calls wait for the next one.
    assert {:ok, _pong} = DSPex.Python.ping(nil, pool: pool)
  end

  @tag :tmp_dir
  test "sessions, programs and conversations survive their Python", %{tmp_dir: tmp_dir} do
    # The default.
    pool = TestPython.start_pool!()
    spec = %{signature: "question -> answer", history: true}
    {:ok, program} = DSPex.Python.create_program(spec, pool: pool, session_id: "mine")

    ask =
      &DSPex.Python.execute_program(program, %{question: &1}, pool: pool, conversation: "user")

    {:ok, _first} = ask.("Where is Rome?")
    folder = pool |> RunStore.path() |> Path.dirname()
    assert Bitwise.band(File.stat!(folder).mode, 0o777) == 0o700
    assert Bitwise.band(File.stat!(RunStore.path(pool)).mode, 0o777) == 0o600

    kill_python(pool)
    assert {:ok, prediction} = ask.("And Paris?")
    assert prediction[:answer]

    {:ok, %{"turns" => turns}} = DSPex.Python.conversation(program, "user")

    assert Enum.map(turns, & &1["question"]) == ["Where is Rome?", "And Paris?"]

    backup = Path.join(tmp_dir, "store.jsonl")

    assert {:ok, %{"session" => 1, "program" => 1, "turn" => 2}} =
             DSPex.Python.export_store(backup, pool: pool)

    assert {:error, %{kind: :input, message: message}} =
             DSPex.Python.import_store(backup, pool: pool)

    assert message =~ "line 2: session 'mine' is in the store"
    {:ok, _closed} = DSPex.Python.close_session("mine", pool: pool)
    assert {:ok, %{"turn" => 2}} = DSPex.Python.import_store(backup, pool: pool)
    {:ok, %{"turns" => ^turns}} = DSPex.Python.conversation(program, "user")

    stop_supervised!(pool)
    TestPython.eventually(fn -> not File.exists?(folder) end)
  end

  test "a compilation goes on from what models had answered to one whose Python was killed" do
    pool = TestPython.start_pool!(store: :run)
    {:ok, program} = DSPex.Python.create_program("question -> answer", pool: pool)
    examples = for number <- 1..6, do: %{question: "Q#{number}", answer: "A"}
    test = self()

    # The model is a function of Elixir, another one in each call.
    compile = fn options, answers ->
      given = :counters.new(1, [])

      model = fn _request ->
        send(test, :asked)
        if :counters.get(given, 1) == answers, do: Process.sleep(:infinity)
        :counters.add(given, 1, 1)
        DSPex.Python.ScriptedModel.written(answer: "A")
      end

      options = [optimizer: "dspy.BootstrapFewShotWithRandomSearch", num_threads: 1] ++ options
      options = [metric: "equals", num_candidate_programs: 1, lm: {:elixir, model}] ++ options
      DSPex.Python.compile_program(program, examples, options)
    end

    assert {:ok, whole} = compile.([], :all)
    needed = asked()
    refute Map.has_key?(whole.compiled, :kept_answers)

    log =
      capture_log(fn ->
        # The tenth request is not answered.
        call = Task.async(fn -> compile.([request_id: "tune"], 9) end)
        for _ <- 1..10, do: assert_receive(:asked, 60_000)
        kill_python(pool)
        assert {:error, %{kind: :worker_died}} = Task.await(call, 60_000)
      end)

    assert log =~ "killed by signal 9"
    asked()
    assert {:ok, again} = compile.([request_id: "tune"], :all)
    assert again.compiled.kept_answers == 9
    assert asked() == needed - again.compiled.kept_answers
    assert {again.version, again.compiled.score} == {3, whole.compiled.score}
    assert {:ok, %{version: 3}} = compile.([request_id: "tune"], :all)
    assert asked() == 0
  end

  defp asked(count \\ 0) do
    receive do
      :asked -> asked(count + 1)
    after
      0 -> count
    end
  end

  test "workers of a pool have one store: a spare knows the sessions of the worker whose place it takes" do
    pool = TestPython.start_pool!(size: 2, standby: 1, store: :run)
    assert DSPex.Python.await_pools([pool]) == :ok
    spec = %{signature: "question -> answer", history: true}

    programs =
      for number <- 1..4 do
        session = "session #{number}"
        {:ok, program} = DSPex.Python.create_program(spec, pool: pool, session_id: session)
        program
      end

    ask = fn program, question ->
      {:ok, prediction} =
        DSPex.Python.execute_program(program, %{question: question}, conversation: "user")

      prediction.meta
    end

    for program <- programs, do: ask.(program, "one")
    {:ok, sessions} = DSPex.Python.list_sessions(pool: pool)
    assert Enum.sort(Enum.map(sessions, & &1["id"])) == for(n <- 1..4, do: "session #{n}")
    {:ok, all} = DSPex.Python.list_programs(nil, pool: pool)
    assert Enum.map(all, & &1["calls"]) == [1, 1, 1, 1]

    kept = hd(programs)
    before = ask.(kept, "two")
    TestPython.signal_process(before["pid"], "KILL")

    TestPython.eventually(fn ->
      match?({:ok, _session}, DSPex.Python.session_info("session 1", pool: pool))
    end)

    later = ask.(kept, "three")
    assert later["pid"] != before["pid"]
    assert later["rehydrated"]
    {:ok, %{"turns" => turns}} = DSPex.Python.conversation(kept, "user")
    assert Enum.map(turns, & &1["question"]) == ["one", "two", "three"]
    {:ok, all} = DSPex.Python.list_programs(nil, pool: pool)
    assert length(all) == 4
  end

  test "a pool without a session has no file, and one without a store loses its sessions" do
    pool = TestPython.start_pool!(store: false)
    {:ok, program} = DSPex.Python.create_program("question -> answer", pool: pool)
    kill_python(pool)
    assert {:error, error} = DSPex.Python.execute_program(program, %{question: "x"}, pool: pool)
    assert error.kind in [:program_not_found, :session_not_found]

    unused = TestPython.start_pool!(store: :run, session_ttl: 2_000)

    {:ok, _prediction} =
      DSPex.Python.execute_module("dspy.Predict", "question -> answer", %{question: "x"},
        pool: unused
      )

    refute unused |> RunStore.path() |> Path.dirname() |> File.exists?()

    # Nobody uses the session, so it is removed.
    {:ok, _model} = DSPex.Python.configure_lm(:embedded, [], session_id: "mine", pool: unused)
    {:ok, [%{"id" => "mine"}]} = DSPex.Python.list_sessions(pool: unused)
    TestPython.eventually(fn -> DSPex.Python.list_sessions(pool: unused) == {:ok, []} end)
  end

  # Two containers that shared a folder for temporary files did not see each other's processes, and removed each other's stores.
  test "folders of BEAMs that have ended are removed, and those of others stay" do
    random = Base.encode16(:rand.bytes(12), case: :lower)
    [beam] = Regex.run(~r/dspex-run-[0-9a-f]+-[0-9]+-[0-9A-Za-z]+/, RunStore.path(:some_pool))
    ["dspex", "run", namespace, _pid, _started] = String.split(beam, "-")

    make = fn name ->
      folder = Path.join(System.tmp_dir!(), name <> "-" <> random)
      File.mkdir!(folder)
      on_exit(fn -> File.rm_rf(folder) end)
      folder
    end

    age = fn folder, days ->
      touched = System.os_time(:second) - days * 24 * 60 * 60
      File.touch!(folder, touched)
      folder
    end

    with_file = fn folder ->
      File.write!(Path.join(folder, "dspex.db"), "")
      age.(folder, 31)
    end

    gone = [
      make.("dspex-run-#{namespace}-4194999-123"),
      make.("dspex-run-#{namespace}-#{System.pid()}-1"),
      age.(make.("dspex-run-0000000000ab-1-123"), 31)
    ]

    stay = [
      make.(beam),
      make.("dspex-run-0000000000aa-4194999-123"),
      age.(make.("dspex-run-0000000000ac-1-123"), 29),
      with_file.(make.("dspex-run-0000000000ad-1-123"))
    ]

    {:ok, server} = GenServer.start_link(RunStore, nil)
    GenServer.stop(server)
    for folder <- stay, do: assert(File.exists?(folder), folder)
    for folder <- gone, do: refute(File.exists?(folder), folder)
  end

  test "files of a running BEAM are touched, so that no other one takes them for abandoned" do
    pool = TestPython.start_pool!(store: :run)
    {:ok, _program} = DSPex.Python.create_program("question -> answer", pool: pool)
    path = RunStore.path(pool)
    File.touch!(path, 1_000_000_000)
    send(RunStore, :touch)
    assert RunStore.path(pool) == path
    assert System.os_time(:second) - File.stat!(path, time: :posix).mtime < 600
  end

  test "calls are refused when the files were removed, until the pool is restarted" do
    pool = TestPython.start_pool!(store: :run)
    spec = %{signature: "question -> answer", history: true}
    {:ok, program} = DSPex.Python.create_program(spec, pool: pool)
    options = [pool: pool, conversation: "user"]
    {:ok, _first} = DSPex.Python.execute_program(program, %{question: "one"}, options)
    File.rm_rf!(Path.dirname(RunStore.path(pool)))

    assert {:error, %{kind: :store, retryable: false, message: message}} =
             DSPex.Python.execute_program(program, %{question: "two"}, options)

    assert message =~ "was removed or replaced"
    assert {:ok, %{"store" => %{"ready" => false}}} = DSPex.Python.ping(nil, pool: pool)
    assert DSPex.Python.restart_pool(pool) == :ok
    {:ok, program} = DSPex.Python.create_program(spec, pool: pool)
    assert {:ok, _first} = DSPex.Python.execute_program(program, %{question: "one"}, options)
    assert {:ok, %{"store" => %{"ready" => true}}} = DSPex.Python.ping(nil, pool: pool)
  end

  # A BEAM that is killed may still hold what it printed: it writes to a file what it has to say.
  defp said_by_beam(script, folder, variables) do
    said = Path.join(folder, "said")
    beams = Path.join(Application.app_dir(:dspex), "ebin")
    args = ["-pa", beams, "-e", script, "--", TestPython.interpreter(), said]
    {output, _status} = System.cmd("elixir", args, stderr_to_stdout: true, env: variables)
    assert File.exists?(said), output
    File.read!(said)
  end

  # They stayed until another BEAM started, with the text of the conversations.
  @ends %{
    "System.halt(0)" => "System.halt(0)",
    "the end of the script" => "",
    "SIGKILL" => ~S|System.cmd("kill", ["-KILL", System.pid()])|
  }
  for {name, code} <- @ends do
    # The file in which Python notes its requests stayed for an hour, and longer if no other BEAM started; the folder of a template
    # process for ever.
    @tag :tmp_dir
    test "nothing is left of a BEAM that ends by #{name} while its Python starts", %{
      tmp_dir: folder
    } do
      script = """
      [python, said] = System.argv()
      {:ok, _started} = Application.ensure_all_started(:dspex)
      {:ok, _pid} = DSPex.Python.start_pool(:ended, python: python, store: false, size: 2)
      files = fn -> Path.wildcard(System.tmp_dir!() <> "/**/*asked-*") end
      File.write!(said, "begun \#{Enum.find(Stream.repeatedly(files), &(&1 != []))}")
      #{unquote(code)}
      """

      temporary = Path.join(folder, "temporary")
      File.mkdir!(temporary)
      assert said_by_beam(script, folder, [{"TMPDIR", temporary}]) =~ "begun " <> temporary
      TestPython.eventually(fn -> File.ls!(temporary) == [] end)
    end

    @tag :tmp_dir
    test "the folder is removed after #{name}", %{tmp_dir: folder} do
      script = """
      [python, said] = System.argv()
      {:ok, _started} = Application.ensure_all_started(:dspex)
      {:ok, _pid} = DSPex.Python.start_pool(:ended, python: python)
      {:ok, _program} = DSPex.Python.create_program("question -> answer", pool: :ended)
      path = DSPex.Python.Port.RunStore.path(:ended)
      File.write!(said, "store \#{File.exists?(path)} \#{path}")
      #{unquote(code)}
      """

      assert "store true " <> path = said_by_beam(script, folder, [])
      TestPython.eventually(fn -> not File.exists?(Path.dirname(path)) end)
    end
  end

  test "a list is an error if a worker has lost the store, and not what the others have" do
    pool = TestPython.start_pool!(size: 2)
    assert DSPex.Python.await_pools([pool]) == :ok
    # One of them has opened the file, and the other opens a new one.
    {:ok, _program} = DSPex.Python.create_program([signature: "question -> answer"], pool: pool)
    File.rm_rf!(Path.dirname(RunStore.path(pool)))
    # Reads look once a second whether the file is there.
    failed? = fn -> match?({:error, _error}, DSPex.Python.list_sessions(pool: pool)) end
    TestPython.eventually(failed?)
    assert {:error, error} = DSPex.Python.list_sessions(pool: pool)
    assert error.kind == :store
    assert error.message =~ "was removed or replaced"
  end

  test "a variable says what the option would: false, run, or an address" do
    for {text, about} <- [{"false", nil}, {"run", "sqlite:///"}] do
      variable = TestEnvironment.variable(text)
      # With `session_ttl:`, which is about a store that there may be.
      pool = TestPython.start_pool!(store: {:system, variable}, session_ttl: 60_000, size: 2)
      {:ok, ping} = DSPex.Python.ping(nil, pool: pool)
      assert if(about, do: ping["store"]["address"] =~ about, else: ping["store"] == nil)
      assert Routing.shares_sessions?(pool) == (about != nil)
      # Found in each worker, or only where it is.
      {:ok, program} = DSPex.Python.create_program([signature: "question -> answer"], pool: pool)
      model = {:elixir, fn _request -> %{text: ScriptedModel.written(answer: "A")} end}
      inputs = for number <- 1..40, do: "Q#{number}"
      {:ok, results} = DSPex.Python.execute_program_batch(program, inputs, lm: model)
      for result <- results, do: assert({:ok, _prediction} = result)
      DSPex.Python.stop_pool(pool)
    end

    for {text, said} <- [
          {" ", "is not set, or empty"},
          {"mysql://app:hunter2pass@db", "expected run, false, or"}
        ] do
      variable = TestEnvironment.variable(text)

      log =
        capture_log(fn ->
          pool = TestPython.start_pool!(store: {:system, variable})
          assert {:error, error} = DSPex.Python.ping(nil, pool: pool)
          assert error.message =~ said
          assert error.message =~ variable
        end)

      refute log =~ "hunter2pass"
    end
  end

  test "a variable that is not set is named, and no message shows an address" do
    log =
      capture_log(fn ->
        pool = TestPython.start_pool!(store: {:system, TestEnvironment.unset()})
        assert {:error, error} = DSPex.Python.ping(nil, pool: pool)
        assert error.message =~ "#{TestEnvironment.unset()} is not set"
      end)

    assert log =~ "#{TestEnvironment.unset()} is not set"

    address = "mysql://app:hunter2pass@db/x"
    error = assert_raise ArgumentError, fn -> Pool.child_spec(name: :wrong, store: address) end
    assert error.message =~ "expected :run, false, {:system, variable}, or an address"

    for store <- [{:system, "A=B"}, {:system, "A\0B"}, {:system, :a}, "sqlite:////tmp/a\0b"] do
      assert_raise ArgumentError, ~r/expected :run, false/, fn ->
        Pool.child_spec(name: :wrong, store: store)
      end
    end

    refute error.message =~ "hunter2pass"

    address = "postgresql://app:hunter2pass@db/x"
    refute inspect(Pool.child_spec(name: :right, store: address)) =~ "hunter2pass"
  end

  test "an address that Python refuses is named as the user has written it" do
    for {address, problem} <- [
          {"postgresql://app:hunter2pass@host", "it names no database"},
          {"sqlite:////tmp/dspex-none.db?sync=OFF", "it has the unknown parameter 'sync'"}
        ],
        variable = TestEnvironment.variable(address),
        store <- [address, {:system, variable}] do
      capture_log(fn ->
        pool = TestPython.start_pool!(store: store)
        assert {:error, error} = DSPex.Python.ping(nil, pool: pool)
        option = "store: of pool #{inspect(pool)}"

        place =
          if store == address, do: option, else: "the environment variable #{variable}, #{option}"

        assert error.message =~ "expected the address of a store at #{place}, such as"
        assert error.message =~ problem
        refute error.message =~ "hunter2pass"
        DSPex.Python.stop_pool(pool)
      end)
    end
  end

  test "a pool without a store is told that it has none" do
    pool = TestPython.start_pool!(store: false)

    for function <- [:export_store, :import_store] do
      assert {:error, %{kind: :input, message: message}} =
               apply(DSPex.Python, function, ["/tmp/store.jsonl", [pool: pool]])

      assert message =~
               "there is no store to read or to write: the pool has store: false; give it"
    end
  end

  test "what is no path of a store is an error that says so" do
    fun = fn -> :ok end

    for path <- [nil, 1, %{}, {:a, 1}, :atom, fun, [1 | 2], [1.0], <<255>>],
        function <- [:export_store, :import_store] do
      assert {:error, %{kind: kind, path: "path", message: message}} =
               apply(DSPex.Python, function, [path])

      assert {function, path, kind} == {function, path, :input}
      assert message =~ "expected"
    end

    for function <- [:export_store, :import_store] do
      assert {:error, %{kind: :input, message: message}} = apply(DSPex.Python, function, [~c"."])
      assert message =~ "the directory #{inspect(File.cwd!()) |> String.replace("\"", "'")}"
    end
  end
end
