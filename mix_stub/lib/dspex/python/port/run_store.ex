defmodule DSPex.Python.Port.RunStore do
  @moduledoc false

  # Keeps the files that live as long as this BEAM: the stores of pools with the option `store: :run`, the notes of starting Pythons
  # (DSPex.Python.Port.AskedNotes), and the sockets of template processes. Python makes the folder and the file of a store when
  # the first session is stored. A folder is removed
  #
  #   * when its pool stops, and by this process when the application stops
  #   * by the keeper, a shell that sees the end of the BEAM: `System.halt`, Ctrl-C in IEx, SIGKILL
  #   * by the next BEAM, if the keeper was killed too: after a power cut, or with its container
  #
  # The name of a folder tells which BEAM it belongs to: `dspex-run-NAMESPACE-PID-STARTED-RANDOM`. Several containers may share the
  # folder for temporary files, and none sees the processes of the others. So the next BEAM judges only folders of its own
  # namespace by their process: the same boot of the machine and the same namespace of process ids; without /proc the same host
  # name. A number of a process is used again, so the time of its start is compared too. A folder of another namespace is removed
  # when nothing of it was touched for 30 days: a running BEAM touches its own each hour, which also keeps programs that clean the
  # folder for temporary files away.

  use GenServer

  require Logger

  alias DSPex.Python.Port.Names
  alias DSPex.Python.Wire.UniqueId

  @prefix "dspex-run-"
  @touch_ms :timer.hours(1)
  @abandoned_s 30 * 24 * 60 * 60

  # Reads a folder from each line, and removes them all when the BEAM has closed its port; once more when the Pythons, which may
  # make files until they see the same, have ended. Ctrl-C in IEx is meant for IEx. It does not hold
  # the BEAM's standard error, whose end others may wait for.
  @keeper """
  trap '' HUP INT TERM
  exec 2>/dev/null
  while IFS= read -r folder; do set -- "$@" "$folder"; done
  remove() { for folder do [ -e "$folder" ] && rm -rf -- "$folder"; done; }
  remove "$@"
  sleep 1
  remove "$@"
  """

  # folders: pool => {monitor of the pool's supervisor, folder}; {:private, :notes} and {:private, {:socket, pool}} => {nil, folder}
  defstruct folders: %{}, beam: nil, keeper: nil

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Returns the file of a pool's store; `nil` if the application `:dspex` has not been started, or no folder for temporary
  files can be written to.
  """
  @spec path(atom()) :: Path.t() | nil
  def path(pool) do
    GenServer.call(__MODULE__, {:path, pool})
  catch
    :exit, _not_started -> nil
  end

  @doc """
  Returns the folder for the notes of Pythons, which is there; `nil` as `path/1`.
  """
  @spec folder_of_notes() :: Path.t() | nil
  def folder_of_notes do
    GenServer.call(__MODULE__, :folder_of_notes)
  catch
    :exit, _not_started -> nil
  end

  @doc """
  Makes a folder for the socket of a pool's template process; `nil` as `path/1`.
  """
  @spec folder_of_socket(atom()) :: Path.t() | nil
  def folder_of_socket(pool) do
    GenServer.call(__MODULE__, {:folder_of_socket, pool})
  catch
    :exit, _not_started -> nil
  end

  @impl true
  def init(nil) do
    # So that `terminate/2` is called when the application stops.
    Process.flag(:trap_exit, true)
    beam = "#{namespace()}-#{System.pid()}-#{started(System.pid())}"
    remove_dead(beam)
    touch_later()
    {:ok, %__MODULE__{beam: beam}}
  end

  @impl true
  def handle_call({:path, pool}, _from, state) do
    case state.folders do
      %{^pool => {monitor, folder}} when monitor != nil -> {:reply, file(folder), state}
      %{^pool => {nil, folder}} -> with_folder(pool, folder, state)
      _new -> with_folder(pool, new_folder(state.beam), state)
    end
  end

  def handle_call(:folder_of_notes, _from, state) do
    with %{folders: %{{:private, :notes} => {nil, folder}}} <- state,
         :ok <- made(folder) do
      {:reply, folder, state}
    else
      _none -> with_private(:notes, new_folder(state.beam), state)
    end
  end

  # The path of a socket has at most 107 bytes, so the name does not tell the BEAM.
  def handle_call({:folder_of_socket, pool}, _from, state),
    do: with_private({:socket, pool}, random_folder("dspex-"), state)

  @impl true
  def handle_info({:DOWN, monitor, :process, _supervisor, reason}, state) do
    case Enum.find(state.folders, &match?({_pool, {^monitor, _folder}}, &1)) do
      {pool, {_monitor, folder}} when reason in [:normal, :shutdown] ->
        File.rm_rf(folder)
        {:noreply, %{state | folders: Map.delete(state.folders, pool)}}

      {pool, {_monitor, folder}} ->
        # It has crashed and starts again, with what it had stored.
        {:noreply, put_in(state.folders[pool], {nil, folder})}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info(:touch, state) do
    for {_pool, {_monitor, folder}} <- state.folders,
        path <- [folder | files(folder)],
        do: touch(path)

    touch_later()
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for {_pool, {_monitor, folder}} <- state.folders, do: File.rm_rf(folder)
    :ok
  end

  defp with_folder(pool, nil, state) do
    Logger.warning(
      "pool #{inspect(pool)} has no store, and its sessions end with their Python: no folder for temporary files can be " <>
        "written to; name one in TMPDIR, or a store: in the options of the pool"
    )

    {:reply, nil, state}
  end

  defp with_folder(pool, folder, state) do
    state = put_in(state.folders[pool], {watch(pool), folder})
    {:reply, file(folder), %{state | keeper: keep(folder, state)}}
  end

  defp with_private(of, folder, state) do
    # The keeper knows it before it is there.
    state = if folder, do: %{state | keeper: keep(folder, state)}, else: state

    if folder != nil and made(folder) == :ok,
      do: {:reply, folder, put_in(state.folders[{:private, of}], {nil, folder})},
      else: {:reply, nil, state}
  end

  # Makes a folder that only this user may read, unless it is there.
  defp made(folder) do
    case File.mkdir(folder) do
      :ok -> File.chmod(folder, 0o700)
      {:error, :eexist} -> :ok
      {:error, _unwritable} = error -> error
    end
  end

  defp keep(folder, %{keeper: nil} = state) do
    port = Port.open({:spawn_executable, "/bin/sh"}, args: ["-c", @keeper], cd: "/")
    # Those of a keeper that was killed too.
    for {_pool, {_monitor, other}} <- state.folders, other != folder, do: tell(port, other)
    tell(port, folder)
    port
  rescue
    # There is no such shell, or no process can be started: the next BEAM removes the folder.
    ErlangError -> nil
  end

  defp keep(folder, %{keeper: port} = state) do
    if Port.info(port), do: tell(port, folder), else: keep(folder, %{state | keeper: nil})
  end

  # Each folder is one line of the keeper.
  defp tell(port, folder) do
    unless String.contains?(folder, "\n"), do: Port.command(port, [Path.absname(folder), "\n"])
    port
  rescue
    # It has just ended.
    ArgumentError -> nil
  end

  defp touch_later, do: Process.send_after(self(), :touch, @touch_ms)

  defp files(folder) do
    case File.ls(folder) do
      {:ok, names} -> for name <- names, do: Path.join(folder, name)
      {:error, _none} -> []
    end
  end

  # Makes no file, unlike `File.touch/1`: SQLite may just have removed it.
  defp touch(path), do: :file.change_time(path, :calendar.local_time())

  defp file(folder), do: Path.join(folder, "dspex.db")

  defp watch(pool) do
    case Names.lookup(:pool, pool) do
      {supervisor, _value} -> Process.monitor(supervisor)
      nil -> nil
    end
  end

  defp new_folder(beam), do: random_folder("#{@prefix}#{beam}-")

  defp random_folder(prefix) do
    if tmp = System.tmp_dir(), do: Path.join(tmp, prefix <> UniqueId.new(12))
  end

  # Only the folders of this user can be removed, as in every shared folder for temporary files.
  defp remove_dead(beam) do
    with folder when folder != nil <- System.tmp_dir(), {:ok, names} <- File.ls(folder) do
      for @prefix <> rest = name <- names,
          path = Path.join(folder, name),
          ended?(String.split(rest, "-"), String.split(beam, "-"), path),
          do: File.rm_rf(path)
    end
  end

  # Whether the BEAM of a folder has ended, as far as the running one can tell.
  defp ended?([_, _, _, _random], [_, _, "none"], path), do: abandoned?(path)
  defp ended?([namespace, pid, started, _random], [namespace, pid, started], _path), do: false

  defp ended?([namespace, pid, started, _random], [namespace, _pid, _started], _path),
    do: pid =~ ~r/\A[0-9]+\z/ and started(pid) != started

  defp ended?(_other_namespace, _beam, path), do: abandoned?(path)

  defp abandoned?(folder) do
    now = System.os_time(:second)

    Enum.all?([folder | files(folder)], fn path ->
      case File.lstat(path, time: :posix) do
        {:ok, %File.Stat{mtime: touched}} -> now - touched > @abandoned_s
        {:error, _reason} -> false
      end
    end)
  end

  # Names the processes whose ids mean the same as here.
  defp namespace do
    parts =
      with {:ok, boot} <- File.read("/proc/sys/kernel/random/boot_id"),
           {:ok, processes} <- File.read_link("/proc/self/ns/pid") do
        [boot, processes]
      else
        {:error, _no_proc} ->
          {:ok, host} = :inet.gethostname()
          [host]
      end

    parts |> :erlang.md5() |> binary_part(0, 6) |> Base.encode16(case: :lower)
  end

  # When a process was started, as the system counts; "none": there is no such process.
  defp started(pid) do
    case File.read("/proc/#{pid}/stat") do
      # The name of the program may have spaces and parentheses.
      {:ok, stat} -> stat |> String.split(")") |> List.last() |> String.split() |> Enum.at(19)
      {:error, _reason} -> started_by_ps(pid)
    end
  end

  defp started_by_ps(pid) do
    case System.cmd("/bin/sh", ["-c", "ps -o lstart= -p #{pid}"], stderr_to_stdout: true) do
      {text, 0} -> String.replace(text, ~r/[^0-9A-Za-z]/, "")
      _no_process -> "none"
    end
  end
end
