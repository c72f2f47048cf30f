defmodule DSPex.Python.Port.Diagnosis do
  @moduledoc false

  # Finds out why the Python of a pool does not start, and words the cause and the remedy.

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Interpreter, PoolOptions}

  require Interpreter

  @external_resource Path.join(__DIR__, "probe.py")
  @probe File.read!(@external_resource)

  # Python imports these before it runs a program.
  @needed_by_python ~w(encodings codecs io abc site os stat posixpath genericpath _collections_abc _sitebuiltins zipimport)

  @typedoc "Why Python does not start: what the probe has found, or what is known without it."
  @type t :: {:found, Error.t()} | {:unknown, Error.t()}

  @doc """
  Returns why Python at `path` is not ready, by starting it once more. Waits for its end.

  `seen` says what was noticed first: the exit status, `{:cannot_load, message}` if a call has failed, or the reason with
  which the port has broken, such as `:epipe`.
  """
  @spec diagnose(String.t(), PoolOptions.t(), term()) :: t()
  def diagnose(path, %PoolOptions{} = options, seen) do
    case probe(path, options) do
      {status, cause, remedy} ->
        {:found, missing("#{seen(path, known(seen, status))}: #{cause}; #{remedy}")}

      :error ->
        {:unknown, unknown(path, options, seen)}
    end
  end

  # A port that breaks while it is written to does not say how its process has ended.
  defp known(broken, status) when is_atom(broken), do: status
  defp known(seen, _status), do: seen

  defp unknown(path, _options, {:cannot_load, message} = seen),
    do: missing("#{seen(path, seen)}: #{message}")

  # This Python can do what it must: somebody killed it, or the kernel because no memory was left.
  defp unknown(path, _options, status) when Interpreter.killed?(status) or is_atom(status) do
    Error.new(
      :port_closed,
      "#{seen(path, status)}; if nobody killed it, see standard error, and the system's log whether memory ran out"
    )
  end

  defp unknown(path, options, status) do
    missing(
      "#{seen(path, status)}; see standard error for what it said, and check that the option :python of pool " <>
        "#{inspect(options.name)} names a python#{unless_ended(options)}"
    )
  end

  # Such as by `os._exit`, of which Python says nothing.
  defp unless_ended(%PoolOptions{preload: [], modules: []}), do: ""

  defp unless_ended(%PoolOptions{preload: preload, modules: modules}) do
    names = for name <- preload ++ modules, do: name |> String.split(".") |> hd()
    ", and that #{names |> Enum.uniq() |> Enum.join(", ")} (:preload, :modules) does not end it"
  end

  @doc """
  Returns why there is no interpreter at `path`.
  """
  @spec not_found(String.t(), PoolOptions.t()) :: Error.t()
  def not_found(path, %PoolOptions{} = options) do
    inner = Path.join(path, "bin/python")
    option = "the option :python of pool #{inspect(options.name)}"

    case {File.read_link(path), File.stat(path)} do
      {_link, {:ok, %{type: :directory}}} ->
        remedy = if File.exists?(inner), do: "set #{option} to #{inspect(inner)}"
        missing("#{inspect(path)} is a folder; #{remedy || set_up(path, options)}")

      {_link, {:ok, _file}} ->
        missing("#{inspect(path)} is not executable; set #{option} to a python, or `chmod +x` it")

      {{:ok, target}, {:error, _gone}} ->
        missing(
          "there is no executable python at #{inspect(path)}: it is a link to #{target}, which does not exist; " <>
            renew(path)
        )

      _nothing_there ->
        missing("there is no executable python at #{inspect(path)}; #{set_up(path, options)}")
    end
  end

  defp seen(path, {:cannot_load, _message}),
    do: "python at #{inspect(path)} cannot load dspy_bridge"

  defp seen(path, status),
    do: "python at #{inspect(path)} #{Interpreter.ending(status)} before it was ready"

  defp probe(path, options) do
    {output, status} =
      System.cmd(
        path,
        Interpreter.program(@probe) ++ [path, inspect(options.name) | options.preload],
        [stderr_to_stdout: true, env: probe_environment(options)] ++ Interpreter.folder(options)
      )

    lines = output |> String.split("\n", trim: true) |> Enum.map(&String.trim/1)

    with true <- status != 0,
         {cause, remedy} <- explained(lines) || guessed(lines, path, options),
         do: {status, cause, remedy},
         else: (_none -> :error)
  catch
    # The path names a script whose own interpreter does not exist: 126 is the status that a shell gives it.
    :error, reason -> {126, "it cannot be executed (#{inspect(reason)})", choose_python(options)}
  end

  defp probe_environment(%PoolOptions{modules: modules} = options) do
    named = if modules == [], do: %{}, else: %{"DSPEX_PROGRAM_MODULES" => Enum.join(modules, ",")}
    options |> Interpreter.environment() |> Map.merge(named) |> Map.to_list()
  end

  # What probe.py says, if Python could run it.
  defp explained(lines) do
    with cause when cause != nil <- said(lines, "dspex-cause: "),
         do: {cause, said(lines, "dspex-remedy: ")}
  end

  defp said(lines, prefix) do
    with line when line != nil <- Enum.find(lines, &String.starts_with?(&1, prefix)),
         do: String.replace_prefix(line, prefix, "")
  end

  # Python ended before it ran a line of probe.py, or no Python has run. The last lines of a fatal error are a stack.
  defp guessed(lines, path, options) do
    fatal = Enum.find(lines, &String.starts_with?(&1, "Fatal Python error: "))
    error = Enum.find(lines, &(&1 =~ ~r/^\w+(Error|Exception)\b/))

    case {fatal, error, List.last(lines)} do
      {nil, _error, nil} -> :error
      {nil, _error, line} -> {line, choose_python(options)}
      {fatal, nil, _last} -> {fatal, fatal_remedy(fatal, path, options)}
      {fatal, error, _last} -> {"#{fatal}: #{error}", fatal_remedy(fatal, path, options)}
    end
  end

  defp fatal_remedy(fatal, path, options) do
    named = Regex.run(~r/\bPYTHON[A-Z0-9]+\b/, fatal)
    variable = harmful_variable(path, options)
    file = hiding_file(options)

    cond do
      named ->
        "unset #{named}, or mend it"

      variable ->
        variable_remedy(variable)

      file ->
        "rename #{file}, or take its folder out of the option :python_path of pool #{inspect(options.name)} and of " <>
          "PYTHONPATH"

      true ->
        renew(path)
    end
  end

  # The variable that says where Python's own modules are, if this Python starts without it. Only Python itself can tell,
  # since `path` may be a script that sets the variable, and from Python 3.13 on the error does not show it.
  defp harmful_variable(path, options) do
    names = "('PYTHONHOME', 'PYTHONPLATLIBDIR')"

    program =
      "import os; print(*(n + '=' + os.environ[n] for n in #{names} if os.environ.get(n)), sep=chr(10))"

    settings = [stderr_to_stdout: true, env: probe_environment(options)]

    with {output, 0} <-
           System.cmd(path, ["-E", "-c", program], settings ++ Interpreter.folder(options)),
         [first | _second] = output |> String.trim() |> String.split("\n"),
         [name, value] <- String.split(first, "=", parts: 2),
         do: {name, value},
         else: (_none -> nil)
  end

  defp variable_remedy({"PYTHONHOME", home}),
    do: "unset PYTHONHOME (#{home}), or set it to the prefix of this python"

  defp variable_remedy({name, value}), do: "unset #{name} (#{value})"

  # A file or folder of `:python_path` or `PYTHONPATH` that hides a module without which Python runs no program.
  defp hiding_file(options) do
    folders = Interpreter.environment(options)["PYTHONPATH"] || ""

    Enum.find(
      for(
        folder <- String.split(folders, ":"),
        name <- @needed_by_python,
        ending <- [".py", ""],
        do: Path.join(folder, name <> ending)
      ),
      &File.exists?/1
    )
  end

  # The virtual environment of `path` names the folder of the Python that has made it.
  defp renew(path) do
    folder = path |> Path.dirname() |> Path.dirname()

    with {:ok, text} <- File.read(Path.join(folder, "pyvenv.cfg")),
         [_line, home] <- Regex.run(~r/^home *= *(.+)$/m, text) do
      gone = if File.dir?(home), do: "", else: "; the python at #{home} that has made it is gone"
      "make the virtual environment #{folder} anew, and install erlport_bridge into it#{gone}"
    else
      _no_environment -> "install this python anew"
    end
  end

  # The repository of this project, before its virtual environment has been made.
  defp set_up(path, options) do
    root = String.replace_suffix(path, "/.venv/bin/python", "")

    if root != path and File.exists?(Path.join(root, "erlport_bridge/__main__.py")) and
         File.exists?(Path.join(root, "Makefile")),
       do: "run `make demo` in #{root}, which makes it",
       else:
         "set the option :python of pool #{inspect(options.name)} to a python with erlport_bridge installed"
  end

  defp choose_python(options),
    do:
      "set the option :python of pool #{inspect(options.name)} to a python with erlport_bridge installed"

  defp missing(message), do: Error.new(:missing_dependency, message)
end
