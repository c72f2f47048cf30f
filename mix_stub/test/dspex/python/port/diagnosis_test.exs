defmodule DSPex.Python.Port.DiagnosisTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Diagnosis, Interpreter, PoolOptions}

  @moduletag :tmp_dir

  describe "an interpreter that is not there" do
    test "but is a folder", %{tmp_dir: folder} do
      environment = folder |> interpreter_folder() |> Path.dirname()
      message = not_found(environment)

      assert message =~
               ~s|#{inspect(environment)} is a folder; set the option :python of pool :here|

      assert message =~ inspect(Path.join(environment, "bin/python"))
      assert not_found(folder) =~ "is a folder; set the option :python of pool :here to a python"
    end

    test "but is a file that is not executable", %{tmp_dir: folder} do
      python = Path.join(folder, "python")
      File.write!(python, "")

      assert not_found(python) =~
               "is not executable; set the option :python of pool :here to a python, or `chmod +x` it"
    end

    test "since the Python that made its virtual environment is gone", %{tmp_dir: folder} do
      python = folder |> interpreter_folder() |> Path.join("python")
      File.rm!(python)
      File.ln_s!("/gone/bin/python3", python)

      File.write!(
        Path.join(folder, "environment/pyvenv.cfg"),
        "home = /gone/bin\nversion = 3.11.7\n"
      )

      message = not_found(python)
      assert message =~ "it is a link to /gone/bin/python3, which does not exist"

      assert message =~
               "make the virtual environment #{folder}/environment anew"

      assert message =~ "the python at /gone/bin that has made it is gone"
    end
  end

  describe "variables of the environment" do
    for {name, value} <- [
          {"PYTHONHOME", "/there/is/no/home"},
          {"PYTHONPLATLIBDIR", "there_is_none"},
          {"PYTHONHASHSEED", "many"},
          {"PYTHONUTF8", "maybe"},
          {"PYTHONMALLOC", "none"}
        ] do
      test "that Python cannot use, such as #{name}, are named", %{tmp_dir: folder} do
        # The last line of a fatal error, `<no Python frame>`, was once the cause, and the remedy to install anew.
        message = failure(with_variables(folder, %{unquote(name) => unquote(value)}))
        assert message =~ "Fatal Python error: "
        assert message =~ ~r/unset #{unquote(name)}/
        refute message =~ "no Python frame"
        refute message =~ "install"
      end
    end

    test "that take the docstrings away are named", %{tmp_dir: folder} do
      message = failure(with_variables(folder, %{"PYTHONOPTIMIZE" => "2"}))

      assert message =~
               "removes docstrings, which DSPy shows to models; leave out -OO, and unset PYTHONOPTIMIZE"
    end

    for variables <- [
          %{"LC_ALL" => "C"},
          %{"LC_ALL" => "C", "PYTHONUTF8" => "0", "PYTHONCOERCECLOCALE" => "0"},
          %{"LANG" => "xx_YY.ISO-8859-15", "LC_ALL" => "xx_YY.ISO-8859-15"},
          %{"PYTHONUNBUFFERED" => "1", "PYTHONDONTWRITEBYTECODE" => "1", "PYTHONHASHSEED" => "0"},
          %{"PYTHONWARNINGS" => "error", "PYTHONOPTIMIZE" => "1"},
          %{
            "HOME" => "/dev/null",
            "XDG_CACHE_HOME" => "/dev/null",
            "DSPY_CACHEDIR" => "/dev/null/cache"
          },
          %{"HOME" => nil, "TMPDIR" => "/there/is/no/folder"}
        ] do
      test "such as #{inspect(variables)} do no harm", %{tmp_dir: folder} do
        python = with_variables(folder, unquote(Macro.escape(variables)))
        pool = start_pool!(python: python)
        text = "Lisboa é a capital de Portugal, 日本."

        assert {:ok, prediction} =
                 Python.execute_module(
                   "dspy.Predict",
                   "text, question -> answer",
                   %{text: text, question: "Qual é a capital?"},
                   # With PYTHONOPTIMIZE all modules are compiled anew.
                   timeout: 120_000,
                   pool: pool
                 )

        assert prediction[:answer] =~ "Lisboa"
      end
    end
  end

  describe "a file of :python_path" do
    # Each is imported at the start, and the name of an installed module or one of Python's own.
    for name <- ~w(json random dspy asyncio erlang) do
      test "that hides #{name} is named", %{tmp_dir: folder} do
        file = Path.join(folder, "#{unquote(name)}.py")
        File.write!(file, "")
        message = failure(interpreter(), python_path: [folder])
        assert message =~ "#{file} hides "

        assert message =~
                 "rename it, or take its folder out of the option :python_path of pool :here and of PYTHONPATH"
      end
    end

    test "that hides a module and fails is named", %{tmp_dir: folder} do
      for {code, error} <- [
            {"raise ValueError('no')", "ValueError: no"},
            {"def", "SyntaxError"},
            {"exit(3)", "SystemExit: 3"}
          ] do
        file = Path.join(folder, "json.py")
        File.write!(file, code)
        message = failure(interpreter(), python_path: [folder])
        assert message =~ error
        assert message =~ "#{file} hides "
      end
    end

    test "that hides what Python needs before it runs anything is named", %{tmp_dir: folder} do
      File.write!(Path.join(folder, "encodings.py"), "")
      message = failure(interpreter(), python_path: [folder])
      assert message =~ "Fatal Python error: "
      assert message =~ folder
      assert message =~ ":python_path of pool :here"
    end

    test "that hides nothing, and is not loaded, is not named", %{tmp_dir: folder} do
      File.write!(Path.join(folder, "json5.py"), "")
      message = failure(interpreter(), python_path: [folder], preload: ["no_such_tools"])
      assert message =~ "No module named 'no_such_tools'; check the options :preload"
      refute message =~ "hides"
    end
  end

  describe "a Python" do
    test "that is too old is told", %{tmp_dir: folder} do
      code =
        "import sys; sys.version_info = (3, 9, 18); sys.version = '3.9.18 (main)'; code = sys.argv.pop(2); del sys.argv[1]; exec(code)"

      python = script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} -c "#{code}" "$@"\n|)
      message = failure(python)

      assert message =~
               "python 3.10 or newer is needed, this is 3.9.18; set the option :python of pool :here to a newer one"
    end

    test "without DSPy, or what else is needed, is told how to install it, with and without pip",
         %{tmp_dir: folder} do
      for {flags, command} <- [
            {[], "-m pip install"},
            {["--without-pip"], "uv pip install --python"}
          ] do
        python = environment!(folder, [], flags)

        for {missing, present} <- [{"erlang", []}, {"dspy", ["erlang"]}] do
          copy_packages!(python, present)
          message = failure(python)
          assert message =~ "ModuleNotFoundError: No module named '#{missing}"
          assert message =~ command
          assert message =~ python
          assert message =~ "/path/to/erlport_bridge"
        end
      end
    end

    test "with another DSPy is told which one is needed", %{tmp_dir: folder} do
      python = environment!(folder, ["erlang"], ["--without-pip"])
      packages = packages(python)
      File.mkdir_p!(Path.join(packages, "dspy-2.6.1.dist-info"))

      File.write!(
        Path.join(packages, "dspy-2.6.1.dist-info/METADATA"),
        "Metadata-Version: 2.1\nName: dspy\nVersion: 2.6.1\n"
      )

      File.mkdir_p!(Path.join(packages, "erlport_bridge-0.1.0.dist-info"))

      File.write!(
        Path.join(packages, "erlport_bridge-0.1.0.dist-info/METADATA"),
        "Metadata-Version: 2.1\nName: erlport_bridge\nVersion: 0.1.0\nRequires-Dist: dspy<3.5,>=3.4\n"
      )

      File.write!(Path.join(packages, "dspy.py"), "")
      message = failure(python)

      assert message =~
               "dspy 2.6.1 is installed, erlport_bridge needs dspy<3.5,>=3.4; install it with: uv pip install"
    end

    test "with a package that fails is told where", %{tmp_dir: folder} do
      python = environment!(folder, ["erlang"], ["--without-pip"])
      File.write!(Path.join(packages(python), "dspy.py"), "import broken_package")
      file = Path.join(packages(python), "broken_package.py")
      File.write!(file, "raise ImportError('libbroken.so.1: cannot open shared object file')")
      message = failure(python)
      assert message =~ "ImportError: libbroken.so.1: cannot open shared object file (in #{file})"
      assert message =~ "install erlport_bridge anew with: uv pip install"
    end

    test "of another machine is told", %{tmp_dir: folder} do
      python = Path.join(folder, "python")
      # The head of an executable of 32 bits.
      File.write!(
        python,
        <<0x7F, "ELF", 1, 1, 1, 0::72, 2::little-16, 40::little-16, 1::little-32, 0::256>>
      )

      File.chmod!(python, 0o755)
      message = failure(python)
      assert message =~ python
      assert message =~ ":python of pool :here"
    end

    test "whose library is gone is told what its loader says", %{tmp_dir: folder} do
      said =
        "python: error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file"

      python = script!(folder, "#!/bin/sh\necho '#{said}' >&2\nexit 127\n")
      message = failure(python)

      assert message =~
               "before it was ready: #{said}; set the option :python of pool :here"
    end
  end

  test "a sound Python that a signal has ended before it was ready is not said to be wrong" do
    # It was of the kind missing_dependency, and the remedy another Python.
    options = PoolOptions.new!(name: :here, python: interpreter())

    assert {:unknown, %Error{kind: :port_closed} = error} =
             Diagnosis.diagnose(interpreter(), options, 137)

    assert error.message =~ "was killed by signal 9 before it was ready"
    assert error.message =~ "whether memory ran out"
    refute error.message =~ ":python"

    assert {:unknown, %Error{kind: :port_closed}} =
             Diagnosis.diagnose(interpreter(), options, :epipe)
  end

  test "a Python whose end came while it was written to is told by the status that it ends with",
       %{tmp_dir: folder} do
    # A pool of two said `ended with status 3` and `broke the pipe (:epipe)`, one entry for each.
    python = script!(folder, "#!/bin/sh\necho told >&2\nexit 3\n")
    options = PoolOptions.new!(name: :here, python: python)
    ended = Diagnosis.diagnose(python, options, 3)
    assert {:found, %Error{kind: :missing_dependency, message: message}} = ended
    assert message =~ "ended with status 3 before it was ready: told"
    assert Diagnosis.diagnose(python, options, :epipe) == ended
  end

  test "a pool whose Python has no DSPy says what to do", %{tmp_dir: folder} do
    # It once said only that dspy_bridge cannot be loaded.
    python = environment!(folder, ["erlang"], ["--without-pip"])
    pool = start_pool!(python: python, start_timeout: 30_000)

    assert {:error, %Error{kind: :missing_dependency} = error} =
             Python.ping(nil, pool: pool, timeout: 60_000)

    assert error.message =~ "cannot load dspy_bridge: ModuleNotFoundError: No module named 'dspy"
    assert error.message =~ "install it with: uv pip install --python #{python}"
  end

  defp failure(python, options \\ []) do
    options = PoolOptions.new!([name: :here, python: python] ++ options)

    {_found?, %Error{kind: :missing_dependency, message: message}} =
      Diagnosis.diagnose(python, options, 1)

    message
  end

  defp not_found(python) do
    options = PoolOptions.new!(name: :here, python: python)
    assert {:not_found, path} = Interpreter.find(options)
    %Error{kind: :missing_dependency, message: message} = Diagnosis.not_found(path, options)
    message
  end

  # A folder with a python in it.
  defp interpreter_folder(folder) do
    inner = Path.join(folder, "environment/bin")
    File.mkdir_p!(inner)
    File.ln_s!(interpreter(), Path.join(inner, "python"))
    inner
  end

  # A Python that gets other variables than this node has.
  defp with_variables(folder, variables) do
    lines =
      for {name, value} <- variables,
          do: if(value, do: "export #{name}='#{value}'\n", else: "unset #{name}\n")

    script!(folder, ~s|#!/bin/sh\n#{lines}exec #{interpreter()} "$@"\n|)
  end

  # A virtual environment that sees this repository, and of the installed packages only the named ones.
  defp environment!(folder, present, flags) do
    environment = Path.join(folder, "environment_#{System.unique_integer([:positive])}")
    {_output, 0} = System.cmd(interpreter(), ["-m", "venv" | flags] ++ [environment])
    python = Path.join(environment, "bin/python")
    repository = Path.expand("../../../../..", __DIR__)

    File.write!(
      Path.join(packages(python), "repository.pth"),
      "#{repository}\n#{repository}/priv/python\n"
    )

    copy_packages!(python, present)
    python
  end

  defp copy_packages!(python, names) do
    for name <- names do
      {path, 0} =
        System.cmd(interpreter(), ["-c", "import #{name}; print(#{name}.__file__, end='')"])

      File.cp!(path, Path.join(packages(python), Path.basename(path)))
    end
  end

  defp packages(python) do
    {path, 0} =
      System.cmd(python, ["-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')"])

    path
  end
end
