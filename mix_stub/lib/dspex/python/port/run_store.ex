defmodule DSPex.Python.Port.RunStore do
  @moduledoc false

  # Keeps the files of stores that live as long as this BEAM: the option `store: :run` of a pool. Python makes the folder and the
  # file when the first session is stored. The folder is removed when its pool stops, and by this process when the
  # application stops. A BEAM that is killed leaves its folders, which the next one removes.
  #
  # The name of a folder tells which BEAM it belongs to: `dspex-run-PID-STARTED-RANDOM`. A number of a process is used again,
  # also by the first process of another container, so the time of its start is compared too.

  use GenServer

  require Logger

  alias DSPex.Python.Port.Names

  @prefix "dspex-run-"

  # folders: pool => {monitor of the pool's supervisor, folder}
  defstruct folders: %{}, beam: nil

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

  @impl true
  def init(nil) do
    # So that `terminate/2` is called when the application stops.
    Process.flag(:trap_exit, true)
    beam = "#{System.pid()}-#{started(System.pid())}"
    remove_dead(beam)
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

  defp with_folder(pool, folder, state),
    do: {:reply, file(folder), put_in(state.folders[pool], {watch(pool), folder})}

  defp file(folder), do: Path.join(folder, "dspex.db")

  defp watch(pool) do
    case Names.lookup(:pool, pool) do
      {supervisor, _value} -> Process.monitor(supervisor)
      nil -> nil
    end
  end

  defp new_folder(beam) do
    random = Base.encode16(:rand.bytes(12), case: :lower)
    if tmp = System.tmp_dir(), do: Path.join(tmp, "#{@prefix}#{beam}-#{random}")
  end

  # Only the folders of this user can be removed, as in every shared folder for temporary files.
  defp remove_dead(beam) do
    with folder when folder != nil <- System.tmp_dir(), {:ok, names} <- File.ls(folder) do
      for @prefix <> rest = name <- names,
          [pid, started, _random] <- [String.split(rest, "-")],
          "#{pid}-#{started}" != beam,
          pid =~ ~r/\A[0-9]+\z/,
          started(pid) != started,
          do: File.rm_rf(Path.join(folder, name))
    end
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
