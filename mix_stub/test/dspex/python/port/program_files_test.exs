defmodule DSPex.Python.Port.ProgramFilesTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.{Error, Pool}
  alias DSPex.TestPython

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  # Writes a program as an application does that has compiled one.
  defp write!(path, spec) do
    {:ok, program} = Python.create_program(spec)
    {:ok, json} = Python.dump_program(program)
    {:ok, _deleted} = Python.delete_program(program)
    File.write!(path, json)
    path
  end

  test "programs are called by name in every worker, after its end, and as their files are now",
       %{
         tmp_dir: folder
       } do
    triage = write!(Path.join(folder, "triage.json"), "question -> answer")

    chat =
      write!(Path.join(folder, "chat.json"), %{signature: "question -> answer", history: true})

    pool =
      TestPython.start_pool!(
        size: 2,
        standby: 0,
        store: :run,
        programs: [triage: triage, chat: chat]
      )

    assert Python.await_pools([pool]) == :ok
    ask = &Python.execute_program(&1, %{question: "Where is Rome?"}, [pool: pool] ++ &2)

    # Both workers have it, and a call without a conversation goes to either.
    pids =
      1..20
      |> Task.async_stream(
        fn _call -> ask.(:triage, []) end,
        max_concurrency: 20,
        timeout: 60_000
      )
      |> Enum.map(fn {:ok, {:ok, prediction}} -> prediction.meta["pid"] end)
      |> Enum.uniq()

    assert length(pids) == 2
    {:ok, described} = Python.describe_program(:triage, pool: pool)
    assert {described["id"], described["session_id"]} == {"triage", "$pool"}
    {:ok, listed} = Python.list_programs(nil, pool: pool)
    assert Enum.sort(for(one <- listed, do: one["id"])) == ["chat", "triage"]

    assert {:ok, [{:ok, _}, {:ok, _}]} =
             Python.execute_program_batch(:triage, [%{question: "a"}, %{question: "b"}],
               pool: pool
             )

    assert [{:prediction, _prediction}] =
             :triage
             |> Python.stream_program(%{question: "a"}, pool: pool)
             |> Enum.filter(&match?({:prediction, _}, &1))

    {:ok, %{meta: %{"pid" => home}}} = ask.(:chat, conversation: "user")
    TestPython.signal_process(home, "KILL")

    TestPython.eventually(fn ->
      match?({:ok, _told}, Python.conversation(:chat, "user", pool: pool))
    end)

    {:ok, %{meta: meta}} = ask.("chat", conversation: "user")
    assert meta["pid"] != home
    assert {:ok, %{"turn_count" => 2}} = Python.conversation(:chat, "user", pool: pool)

    # A new file counts after a restart, a wrong one stops it.
    write!(triage, "text -> summary")
    assert {:ok, _before} = ask.(:triage, [])
    assert Python.restart_pool(pool) == :ok
    assert {:ok, prediction} = Python.execute_program(:triage, %{text: "a"}, pool: pool)
    assert prediction[:summary]

    json = triage |> File.read!() |> String.replace(~s("text -> summary"), ~s("text -> "))
    File.write!(triage, json)

    capture_log(fn ->
      assert {:error, %Error{} = error} = Python.restart_pool(pool)
      assert error.message =~ ~s(program "triage" cannot be loaded: )
      assert error.message =~ triage
      assert error.message =~ "write it with"
    end)

    assert {:ok, _still} = Python.execute_program(:triage, %{text: "a"}, pool: pool)
  end

  test "a program that needs a tool gets it with each call", %{tmp_dir: folder} do
    test = self()

    tool = %{
      name: "stock",
      description: "How many pieces are in stock",
      parameters: %{article: :string},
      function: fn %{"article" => article} ->
        send(test, {:asked, article})
        17
      end
    }

    modules = [%{module: "dspy.ReAct", tools: [tool]}]
    spec = %{signature: "question -> answer", modules: modules}
    path = write!(Path.join(folder, "agent.json"), spec)
    pool = TestPython.start_pool!(programs: [agent: path])
    {:ok, steps} = Agent.start_link(fn -> 0 end)

    model = fn _request ->
      case Agent.get_and_update(steps, &{&1, &1 + 1}) do
        0 -> step("stock", ~s({"article": "bolt"}))
        1 -> step("finish", "{}")
        _last -> "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n17\n\n[[ ## completed ## ]]"
      end
    end

    assert {:error, %Error{kind: :input, path: "opts.tools"}} =
             Python.execute_program(:agent, "How many?", pool: pool)

    options = [pool: pool, tools: [tool], lm: {:elixir, function: model}]
    assert {:ok, prediction} = Python.execute_program(:agent, "How many?", options)
    assert_receive {:asked, "bolt"}
    assert prediction[:answer] == "17"
  end

  defp step(tool, arguments) do
    "[[ ## next_thought ## ]]\nt\n\n[[ ## next_tool_name ## ]]\n#{tool}\n\n" <>
      "[[ ## next_tool_args ## ]]\n#{arguments}\n\n[[ ## completed ## ]]"
  end

  test "a wrong option is an error at once, which names the file and the remedy", %{
    tmp_dir: folder
  } do
    missing = Path.join(folder, "missing.json")
    other = Path.join(folder, "other.json")
    File.write!(other, ~s({"format": "other"}))
    broken = Path.join(folder, "broken.json")
    File.write!(broken, "{")

    for {programs, problem} <- [
          {[triage: missing],
           ~r/program :triage: the file .*missing.json" cannot be read: no such/},
          {[triage: folder], ~r/ is a directory; write it with/},
          {[triage: other],
           ~r/other.json" is no program that dump_program\/2 has written; write/},
          {[triage: broken], ~r/broken.json" is no JSON, at byte 1; write it with/},
          {[triage: {:no_such_app, "priv/a.json"}], ~r/there is no application :no_such_app/},
          {[triage: {:dspex, "no.json"}], ~r/no.json" cannot be read/},
          {[triage: 5], ~r/program :triage: expected a path or {application, path}, got 5/},
          {[triage: other, triage: other], ~r/:triage/},
          {["triage"], ~r/expected a keyword list of names and files/},
          {%{triage: other}, ~r/expected a keyword list of names and files/}
        ] do
      error = assert_raise ArgumentError, fn -> Pool.child_spec(name: :p, programs: programs) end
      assert error.message =~ problem
      assert error.message =~ "for the option :programs of pool :p"
    end
  end

  test "a pool whose file is wrong inside answers each call with the file and the remedy", %{
    tmp_dir: folder
  } do
    path = write!(Path.join(folder, "triage.json"), "question -> answer")

    json =
      path |> File.read!() |> String.replace(~s("format_version": 1), ~s("format_version": 99))

    File.write!(path, json)

    capture_log(fn ->
      pool = TestPython.start_pool!(programs: [triage: path])
      assert {:error, %Error{kind: :store} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "the text has 99"
      assert error.message =~ path
    end)
  end
end
