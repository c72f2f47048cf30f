defmodule DSPex.Python.Port.Interpreter do
  @moduledoc false

  # Finds, starts and kills the Python that a pool names.

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Environment, PoolOptions, ProcessState, StoreOption}

  # How many bytes the driver of the port may hold before it is busy. With the default (8 KiB), every larger call would
  # wait for the next attempt.
  @busy_limits {512 * 1024, 2 * 1024 * 1024}
  @calls_about_calls 1_024

  # Python searches the current folder first for every module that it imports. `PYTHONSAFEPATH` prevents it from 3.11 on,
  # also while Python prepares to run this. With 3.10 the current folder is taken out before anything is imported.
  # The child processes of Python must not inherit the variable.
  @without_current_folder """
  import sys
  sys.path[:] = [folder for folder in sys.path if folder]
  import os
  os.environ.pop("PYTHONSAFEPATH", None)
  """

  # Some packages take a program without a file for an interactive one, and read the `.env` of the current folder then.
  # The pool finds out by itself why it cannot be imported (Diagnosis), and logs it with the remedy: each worker would write a traceback.
  @runtime """
  try:
      import erlport_bridge.__main__ as program
  except Exception:
      sys.exit(1)
  __file__ = program.__file__
  program.main()
  """

  # Has a worker forked by the template process, or becomes a directly started one.
  @external_resource Path.join(__DIR__, "launcher.py")
  @launcher File.read!(@external_resource)
  # The names of that program and of its status, which it has given itself.
  @launcher_name "dspex-launcher"
  @unknown_status 125

  @doc """
  Returns the path of the pool's interpreter.
  """
  @spec find(PoolOptions.t()) :: {:ok, String.t()} | {:not_found, String.t()}
  def find(%PoolOptions{python: python}) do
    # A path is relative to the working directory, a plain name is looked up in PATH.
    name = if String.contains?(python, "/"), do: Path.expand(python), else: python

    case System.find_executable(name) do
      nil -> {:not_found, name}
      path -> {:ok, path}
    end
  end

  @typedoc """
  `number` is the number of the worker, `asked_notes` the file in which it notes which calls ask a model, `socket` that of a
  template process, which forks the worker, if possible within half of the time for the start. `warm_up?`: whether the
  worker runs a prediction before it answers its first call; for workers that nobody waits for.
  """
  @type worker :: %{
          number: pos_integer(),
          asked_notes: Path.t() | nil,
          socket: Path.t() | nil,
          warm_up?: boolean()
        }

  @doc """
  Starts the runtime of a worker, as a port of the calling process.
  """
  @spec open(String.t(), PoolOptions.t(), worker()) :: {:ok, port()} | {:error, Error.t()}
  def open(path, %PoolOptions{} = options, %{socket: socket} = worker) do
    program = program(@runtime) ++ worker_flags(options, worker)
    timeout_ms = to_string(div(options.start_timeout, 2))

    if socket,
      do: start(path, ["-I", "-S", "-c", @launcher, socket, timeout_ms, path | program], options),
      else: start(path, program, options)
  end

  @doc """
  Starts a template process with its socket in `folder`, as a port of the calling process.
  """
  @spec open_template(String.t(), PoolOptions.t(), Path.t()) ::
          {:ok, port()} | {:error, Error.t()}
  def open_template(path, %PoolOptions{} = options, folder),
    do: start(path, program(@runtime) ++ flags(options) ++ ["--template=" <> folder], options)

  defp start(path, args, options) do
    # The folder was there when the options were checked. Without it the child would end with a status that says nothing.
    with true <- options.cd == nil or File.dir?(options.cd),
         {:ok, store} <- StoreOption.variables(options) do
      {:ok, Port.open({:spawn_executable, path}, port_settings(args, options, store))}
    else
      false ->
        {:error,
         missing(
           "the folder #{inspect(options.cd)} of the option :cd of pool #{inspect(options.name)} does not exist"
         )}

      {:error, message} ->
        {:error, missing(message)}
    end
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
  Kills the Python of the port if it has not read all that was written to it, or is stopped.

  Closing a port and halting the BEAM both wait until all data is written. With a Python that does not read, such as a
  stopped one, they would wait forever. A stopped one that has read all would outlive both.
  """
  @spec kill_if_deaf(port() | nil) :: :ok
  def kill_if_deaf(nil), do: :ok

  def kill_if_deaf(port) do
    if unread?(port) or stopped?(port), do: kill_process(port)
    :ok
  end

  defp unread?(port),
    do: match?({:queue_size, bytes} when bytes > 0, Port.info(port, :queue_size))

  defp stopped?(port) do
    with {:os_pid, os_pid} <- Port.info(port, :os_pid),
         do: ProcessState.stopped?(os_pid),
         else: (nil -> false)
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
  Opens the state of the port's Python, which says that its process number is `pid`; `nil` if the system does not tell it, or the port
  has been given a program that does not become Python, but starts it.
  """
  @spec process_state(port(), term()) :: ProcessState.t() | nil
  def process_state(port, pid) do
    with {:os_pid, os_pid} <- Port.info(port, :os_pid),
         true <- pid in [os_pid | with_descriptors(os_pid)],
         do: ProcessState.open(pid),
         else: (_another -> nil)
  end

  @doc """
  Returns the arguments with which Python runs `code`, without the current folder in its search path.
  """
  @spec program(String.t()) :: [String.t()]
  def program(code), do: ["-c", @without_current_folder <> code]

  @doc """
  Returns the environment variables of the pool's Python that differ from those of this node; `nil` unsets one.
  """
  @spec environment(PoolOptions.t()) :: Environment.variables()
  def environment(%PoolOptions{env: variables, python_path: folders} = options),
    do:
      variables.()
      |> Map.put("DSPEX_HISTORY", mode(options.history))
      |> Map.merge(export(options.otlp))
      |> Environment.with_python_path(folders)

  defp mode(false), do: "off"
  defp mode(kept), do: Atom.to_string(kept)

  defp export(nil), do: %{"DSPEX_OTLP" => "off"}

  defp export(%{endpoint: endpoint, content: content}) do
    %{
      "DSPEX_OTLP" => if(endpoint == true, do: "on", else: endpoint),
      "DSPEX_OTLP_CONTENT" => Atom.to_string(content)
    }
  end

  @doc """
  Returns the option of a port or command for the folder in which the pool's Python works; none for that of this node.
  """
  @spec folder(PoolOptions.t()) :: [cd: String.t()]
  def folder(%PoolOptions{cd: nil}), do: []
  def folder(%PoolOptions{cd: folder}), do: [cd: Path.expand(folder)]

  @doc """
  Tells whether a signal has ended Python, from its exit status. The driver of the port adds 128 to signals, as a shell
  does.
  """
  defguard killed?(status) when status in 129..192

  @doc """
  Describes how Python ended, from its exit status or from the reason why the port broke.
  """
  @spec ending(term()) :: String.t()
  def ending(status) when killed?(status), do: "was killed by signal #{status - 128}"
  def ending({:silent, ms}), do: "was silent for #{ms} ms and was killed"
  def ending({:stopped, ms}), do: "was stopped by a signal for #{ms} ms and was killed"

  def ending(@unknown_status),
    do: "ended with an unknown status, after the template process that had forked it"

  def ending(status) when is_integer(status), do: "ended with status #{status}"
  def ending(reason), do: "broke the pipe (#{inspect(reason)})"

  defp port_settings(args, options, store) do
    [:binary, {:packet, 4}, :nouse_stdio, :exit_status, :hide] ++
      [
        busy_limits_port: @busy_limits,
        busy_limits_msgq: @busy_limits,
        args: args,
        env:
          for {name, value} <- Map.merge(environment(options), store) do
            {to_charlist(name), if(value, do: to_charlist(value), else: false)}
          end
      ] ++ folder(options)
  end

  # Calls about other calls, such as `cancel`, have room beside those that `max_in_flight` counts.
  defp limits(options) do
    recycling =
      for {flag, value} when value != nil <- [
            {"--recycle-bytes=", options.max_memory},
            {"--recycle-calls=", options.max_calls},
            {"--recycle-ms=", options.max_age}
          ],
          do: flag <> to_string(value)

    ["--max-calls=#{options.max_in_flight + @calls_about_calls}" | recycling]
  end

  # The flags that decide what is imported, which a template process has too.
  defp flags(options) do
    named =
      for {flag, [_first | _rest] = names} <- [
            {"--preload=", options.preload},
            {"--program-modules=", options.modules}
          ],
          do: flag <> Enum.join(names, ",")

    ~w(--packet=4 --nouse_stdio --modules=dspy_bridge --log-to-elixir) ++ named
  end

  defp worker_flags(options, %{number: number, asked_notes: path} = worker) do
    notes = if path, do: ["--asked-notes=" <> path], else: []
    warm_up = if worker.warm_up?, do: ["--warm-up"], else: []

    flags(options) ++
      ["--elixir-version=" <> System.version(), "--worker=#{number}"] ++
      ["--max-threads=#{options.max_threads}", "--max-stuck=#{options.max_stuck}"] ++
      ["--lost-after=#{options.lost_after}", "--ask-for-recycling"] ++
      ["--max-request-bytes=#{options.max_request_bytes}"] ++
      ["--max-answer-bytes=#{options.max_answer_bytes}"] ++
      limits(options) ++ notes ++ warm_up ++ node_name()
  end

  # As it is now: a node may get its name later.
  defp node_name, do: if(Node.alive?(), do: ["--node=#{node()}"], else: [])

  # While the port is open its process has not been reaped, so the number cannot belong to another process. The shell has
  # `kill` built in: small images have no program of this name.
  defp kill_process(port) do
    with {:os_pid, os_pid} <- Port.info(port, :os_pid) do
      # The worker first: as long as its launcher is there, its number stays its own. Each with its group.
      commands = for pid <- forked(os_pid) ++ [os_pid], do: "kill -KILL -#{pid} #{pid}; "

      System.cmd("/bin/sh", ["-c", Enum.join(commands)], stderr_to_stdout: true)
    end
  end

  # The worker of a launcher, for which the launcher has a descriptor. It is killed here too, because the launcher and the
  # template process may both be stopped or gone.
  defp forked(os_pid) do
    case File.read("/proc/#{os_pid}/comm") do
      {:ok, @launcher_name <> _newline} -> with_descriptors(os_pid)
      _python_itself -> []
    end
  end

  # The processes for which the process `os_pid` has a descriptor.
  defp with_descriptors(os_pid) do
    case File.ls("/proc/#{os_pid}/fdinfo") do
      {:ok, descriptors} ->
        for descriptor <- descriptors,
            {:ok, info} <- [File.read("/proc/#{os_pid}/fdinfo/#{descriptor}")],
            [_line, pid] <- [Regex.run(~r/^Pid:\s*([1-9]\d*)$/m, info)],
            do: String.to_integer(pid)

      {:error, _none} ->
        []
    end
  end

  defp missing(message), do: Error.new(:missing_dependency, message)
end
