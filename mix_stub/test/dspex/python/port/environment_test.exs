defmodule DSPex.Python.Port.EnvironmentTest do
  # The options :env and :cd of a pool.
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Pool
  alias DSPex.Python.Port.{Environment, PoolOptions}

  @moduletag :tmp_dir

  setup %{tmp_dir: folder} do
    File.write!(Path.join(folder, "surroundings.py"), """
    import os
    from erlport_bridge.programs.tools import offer

    @offer
    def stock(article: str) -> str:
        "How many pieces of an article are in stock."
        names = ("DSPEX_A", "DSPEX_B", "HOME", "PYTHONPATH")
        return "|".join([os.getcwd(), *(str(os.environ.get(name)) for name in names)])
    """)

    {:ok, options: [python_path: [folder], preload: ["surroundings"]]}
  end

  # Returns the folder and the variables that Python sees.
  defp surroundings(pool) do
    question = ~s|How many pieces of the article "bolt" are in stock?|

    {:ok, prediction} =
      Python.execute_module("dspy.ReAct", "question -> answer", question,
        pool: pool,
        tools: ["stock"],
        timeout: 60_000
      )

    String.split(prediction[:trajectory]["observation_0"], "|")
  end

  test "Python has the variables and the folder, and of the BEAM's what is not unset", context do
    home = System.get_env("HOME")
    pythonpath = joined([context.tmp_dir, System.get_env("PYTHONPATH")])

    for env <- [
          [DSPEX_A: "x = 1", DSPEX_B: "ü"],
          %{"DSPEX_A" => "x = 1", DSPEX_B: "ü"},
          [{"DSPEX_A", "x = 1"}, {:DSPEX_B, "ü"}]
        ] do
      pool = start_pool!([env: env, cd: context.tmp_dir] ++ context.options)
      assert surroundings(pool) == [context.tmp_dir, "x = 1", "ü", home, pythonpath]
    end

    pool = start_pool!([env: [HOME: nil]] ++ context.options)
    assert surroundings(pool) == [File.cwd!(), "None", "None", "None", pythonpath]
  end

  test "a variable PYTHONPATH stands for the BEAM's, and comes after the folders", context do
    path = System.get_env("PYTHONPATH")
    pool = start_pool!([env: %{PYTHONPATH: joined(["/nonesuch", path])}] ++ context.options)
    assert List.last(surroundings(pool)) == joined([context.tmp_dir, "/nonesuch", path])

    unset = %{"PYTHONPATH" => nil}
    assert %{"PYTHONPATH" => "/a"} = Environment.with_python_path(unset, ["/a"])
    assert %{"PYTHONPATH" => nil} = Environment.with_python_path(unset, [])
    # An empty entry would mean the current folder.
    assert %{"PYTHONPATH" => "/b"} = Environment.with_python_path(%{"PYTHONPATH" => ":/b::"}, [])
  end

  defp joined(folders), do: folders |> Enum.reject(&(&1 in [nil, ""])) |> Enum.join(":")

  test "the next Python has them too", context do
    pool = start_pool!([env: [DSPEX_A: "1"], cd: context.tmp_dir] ++ context.options)
    before = surroundings(pool)
    owner = client(pool)

    capture_log(fn ->
      signal(pool, "KILL")
      eventually(fn -> client(pool) != owner end)
    end)

    assert surroundings(pool) == before
  end

  test "wrong ones raise an error that shows no value", %{tmp_dir: folder} do
    file = Path.join(folder, "surroundings.py")

    for {options, message} <- [
          {[env: [A: :sk_secret]],
           "expected text without zero bytes, or nil, as the value of the variable A for the option :env of pool :p"},
          {[env: [A: ~c"sk_secret"]], ~r/^expected text without zero bytes, or nil/},
          {[env: %{"A" => "sk_secret" <> <<0>>}], ~r/as the value of the variable A/},
          {[env: %{"A" => "sk_secret" <> <<255>>}], ~r/as the value of the variable A/},
          {[env: [A: ""]],
           "expected a text that is not empty, or nil, as the value of the variable A for the option :env of pool :p"},
          {[env: %{"A=B" => "sk_secret"}],
           ~s|expected names of variables, without = and zero bytes, got "A=B" for the option :env of pool :p|},
          {[env: %{"" => "sk_secret"}], ~r/^expected names of variables/},
          {[env: %{1 => "sk_secret"}], ~r/^expected names of variables.*got 1/},
          {[env: %{nil => "sk_secret"}], ~r/^expected names of variables.*got nil/},
          {[env: [A: "sk_secret", A: "b"]],
           "expected the variable A once for the option :env of pool :p"},
          {[env: %{"A" => "sk_secret", A: "b"}], ~r/^expected the variable A once/},
          {[env: "A=sk_secret"],
           "expected a map or a list of names and texts for the option :env of pool :p"},
          {[env: ["A=sk_secret"]], ~r/^expected a map or a list of names and texts/},
          {[env: [{:A, "sk_secret"} | :B]], ~r/^expected a map or a list of names and texts/},
          {[env: nil], ~r/^expected a map or a list of names and texts/},
          {[cd: "/there/is/none"],
           ~s|expected a folder that exists for the option :cd of pool :p, got "/there/is/none"|},
          {[cd: file], ~r/^expected a folder that exists/},
          {[cd: 1], "expected a folder that exists for the option :cd of pool :p, got 1"}
        ] do
      error =
        assert_raise ArgumentError, message, fn -> Pool.child_spec([name: :p] ++ options) end

      refute error.message =~ "secret"
    end
  end

  test "a folder that is removed later is named, and its Python starts when it is there",
       context do
    folder = Path.join(context.tmp_dir, "work")
    File.mkdir!(folder)
    options = PoolOptions.new!(name: :"pool_cd_#{System.unique_integer([:positive])}", cd: folder)
    File.rmdir!(folder)

    capture_log(fn ->
      start_supervised!({Pool, options.name |> pool_options(context) |> Map.put(:cd, folder)})
      assert {:error, error} = Python.ping(nil, pool: options.name, timeout: 60_000)

      assert error.message ==
               "the folder #{inspect(folder)} of the option :cd of pool #{inspect(options.name)} does not exist"

      File.mkdir!(folder)
      eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: options.name)) end)
    end)
  end

  defp pool_options(name, context),
    do: PoolOptions.new!([name: name, python: interpreter(), model: :embedded] ++ context.options)

  test "no report shows the variables", context do
    env = [OPENAI_API_KEY: "sk-of-this-environment", DSPEX_A: "1"]
    specification = Pool.child_spec([name: :p, env: env] ++ context.options)
    refute inspect(specification, limit: :infinity, structs: false) =~ "of-this-environment"
    refute :io_lib.format("~tp", [specification]) |> to_string() =~ "of-this-environment"

    pool = start_pool!([env: env] ++ context.options)
    {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
    owner = client(pool)

    refute inspect(:sys.get_status(owner), limit: :infinity, structs: false) =~
             "of-this-environment"

    refute inspect(:sys.get_state(owner), limit: :infinity, structs: false) =~
             "of-this-environment"

    log =
      capture_log(fn ->
        Process.exit(owner, :kill)
        eventually(fn -> client(pool) != owner end)
        {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
        signal(pool, "KILL")
        eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: pool, timeout: 60_000)) end)
      end)

    refute log =~ "of-this-environment"
  end
end
