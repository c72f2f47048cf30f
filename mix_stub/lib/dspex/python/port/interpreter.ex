defmodule DSPex.Python.Port.Interpreter do
  @moduledoc false

  # Finds, starts and kills the Python that a pool names, and finds out why it does not start.

  alias DSPex.Python.Error
  alias DSPex.Python.Port.PoolOptions

  # How many bytes the driver of the port may hold before it is busy. With the default (8 KiB), every larger call would
  # wait for the next attempt.
  @busy_limits {512 * 1024, 2 * 1024 * 1024}

  # Checks what the runtime needs; the last line that it prints names what is missing.
  @probe """
  import sys
  if sys.version_info < (3, 10):
      sys.exit("python 3.10 or newer is needed, this is " + sys.version.split()[0])
  import erlport_bridge.__main__, dspy_bridge, dspy
  for name in sys.argv[1:]:
      __import__(name)
  """

  @doc """
  Returns the path of the pool's interpreter.
  """
  @spec find(PoolOptions.t()) :: {:ok, String.t()} | {:error, Error.t()}
  def find(%PoolOptions{python: python} = options) do
    # A path is relative to the working directory, a plain name is looked up in PATH.
    name = if String.contains?(python, "/"), do: Path.expand(python), else: python

    case System.find_executable(name) do
      nil ->
        {:error,
         missing("there is no executable python at #{inspect(name)}; #{set_up(name, options)}")}

      path ->
        {:ok, path}
    end
  end

  @doc """
  Starts the runtime, as a port of the calling process.
  """
  @spec open(String.t(), PoolOptions.t()) :: {:ok, port()} | {:error, Error.t()}
  def open(path, %PoolOptions{} = options) do
    {:ok, Port.open({:spawn_executable, path}, port_settings(options))}
  catch
    # Such as :emfile or :eacces. The owner of the port tries again later, so the error must not end it.
    :error, reason ->
      {:error, missing("python at #{inspect(path)} cannot be started: #{inspect(reason)}")}
  end

  @doc """
  Closes the port; the runtime at its other end leaves at once, or is killed if it does not read. Does nothing if the port
  is closed already.
  """
  @spec close(port() | nil) :: :ok
  def close(nil), do: :ok

  def close(port) do
    kill_if_deaf(port)
    Port.close(port)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc """
  Kills the Python of the port if it has not read all that was written to it.

  Closing a port and halting the BEAM both wait until all data is written. With a Python that does not read, such as a
  stopped one, they would wait forever.
  """
  @spec kill_if_deaf(port() | nil) :: :ok
  def kill_if_deaf(port) do
    with port when port != nil <- port,
         {:queue_size, bytes} when bytes > 0 <- Port.info(port, :queue_size),
         do: kill_process(port)

    :ok
  end

  @doc """
  Kills the Python of the port and closes the port: for a Python that hangs and would not notice a closed port.
  """
  @spec kill(port() | nil) :: :ok
  def kill(port) do
    if port, do: kill_process(port)
    close(port)
  end

  @doc """
  Finds out why Python ended with `status` before it was ready, by starting it once more. Waits for its end.
  """
  @spec diagnose(String.t(), PoolOptions.t(), term()) :: Error.t()
  def diagnose(path, %PoolOptions{} = options, status) do
    ended = "python at #{inspect(path)} #{ending(status)} before it was ready"

    case probe(path, options) do
      {:ok, cause} ->
        missing("#{ended}: #{cause}; #{remedy(path, cause, options)}")

      :error ->
        missing(
          "#{ended}; see standard error for what it said, and check that the option :python of pool " <>
            "#{inspect(options.name)} names a python"
        )
    end
  end

  @doc """
  Describes how Python ended, from its exit status or from the reason why the port broke.
  """
  @spec ending(term()) :: String.t()
  # The driver of the port adds 128 to signals, as a shell does.
  def ending(status) when status in 129..192, do: "was killed by signal #{status - 128}"
  def ending({:silent, ms}), do: "was silent for #{ms} ms and was killed"
  def ending(status) when is_integer(status), do: "ended with status #{status}"
  def ending(reason), do: "broke the pipe (#{inspect(reason)})"

  # Returns the last line that a failing Python prints.
  defp probe(path, options) do
    {output, status} =
      System.cmd(path, ["-c", @probe | options.preload],
        stderr_to_stdout: true,
        env: [{"DSPEX_PROGRAM_MODULES", Enum.join(options.modules, ",")} | environment(options)]
      )

    case output |> String.split("\n", trim: true) |> List.last() do
      cause when status != 0 and is_binary(cause) -> {:ok, String.trim(cause)}
      _nothing_said -> :error
    end
  catch
    # The path names a script whose own interpreter does not exist.
    :error, reason -> {:ok, "it cannot be executed (#{inspect(reason)})"}
  end

  defp port_settings(options) do
    named =
      for {flag, [_first | _rest] = names} <- [
            {"--preload=", options.preload},
            {"--program-modules=", options.modules}
          ],
          do: flag <> Enum.join(names, ",")

    [:binary, {:packet, 4}, :nouse_stdio, :exit_status, :hide] ++
      [
        busy_limits_port: @busy_limits,
        busy_limits_msgq: @busy_limits,
        args:
          ~w(-m erlport_bridge --packet=4 --nouse_stdio --modules=dspy_bridge --log-to-elixir) ++
            ["--elixir-version=" <> System.version()] ++
            ["--max-stuck=#{options.max_stuck}", "--ask-for-recycling"] ++ named,
        env:
          for({name, value} <- environment(options), do: {to_charlist(name), to_charlist(value)})
      ]
  end

  # The repository of this project, before its virtual environment has been made.
  defp set_up(name, options) do
    root = String.replace_suffix(name, "/.venv/bin/python", "")

    if root != name and File.exists?(Path.join(root, "erlport_bridge/__main__.py")) and
         File.exists?(Path.join(root, "Makefile")),
       do: "run `make demo` in #{root}, which makes it",
       else:
         "set the option :python of pool #{inspect(options.name)} to a python with erlport_bridge installed"
  end

  defp remedy(path, cause, options) do
    cond do
      cause =~ "python 3.10" ->
        "set the option :python of pool #{inspect(options.name)} to a newer one"

      cause =~ "cannot be executed" ->
        "set the option :python of pool #{inspect(options.name)} to a python"

      cause =~ ~r/No module named '(erlport_bridge|dspy|erlang)/ ->
        "install it with: #{path} -m pip install /path/to/erlport_bridge"

      options.preload ++ options.modules != [] ->
        "check the options :preload, :modules and :python_path of pool #{inspect(options.name)}"

      true ->
        "install erlport_bridge anew with: #{path} -m pip install /path/to/erlport_bridge"
    end
  end

  # While the port is open its process has not been reaped, so the number cannot belong to another process.
  defp kill_process(port) do
    with {:os_pid, os_pid} <- Port.info(port, :os_pid),
         do: System.cmd("kill", ["-KILL", Integer.to_string(os_pid)], stderr_to_stdout: true)
  end

  defp missing(message), do: Error.new(:missing_dependency, message)

  defp environment(%PoolOptions{python_path: []}), do: []

  defp environment(%PoolOptions{python_path: folders}) do
    inherited = System.get_env("PYTHONPATH", "")
    folders = Enum.map(folders, &Path.expand/1) ++ if(inherited == "", do: [], else: [inherited])
    [{"PYTHONPATH", Enum.join(folders, ":")}]
  end
end
