defmodule DSPex.Python.Port.RunStore do
  @moduledoc false

  # Keeps the files of stores that live as long as this BEAM: the option `store: :run` of a pool. Python makes the folder and the
  # file when the first session is stored. The folder is removed when its pool stops, and by this process when the
  # application stops. A BEAM that is killed leaves its folders, which the next one removes.
  #
  # The name of a folder tells which BEAM it belongs to: `dspex-run-PID-STARTED-RANDOM`. A number of a process is used again,
  # also by the first process of another container, so the time of its start is compared too.

  use GenServer

  alias DSPex.Python.Port.Names

  @prefix "dspex-run-"

  # folders: pool => {monitor of the pool's supervisor, folder}
  defstruct folders: %{}, beam: nil

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Returns the file of a pool's store; `nil` if the application `:dspex` has not been started.
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
    {monitor, folder} =
      case state.folders do
        %{^pool => {monitor, folder}} when monitor != nil -> {monitor, folder}
        %{^pool => {nil, folder}} -> {watch(pool), folder}
        _new -> {watch(pool), new_folder(state.beam)}
      end

    state = put_in(state.folders[pool], {monitor, folder})
    {:reply, Path.join(folder, "dspex.db"), state}
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

  defp watch(pool) do
    case Names.lookup(:pool, pool) do
      {supervisor, _value} -> Process.monitor(supervisor)
      nil -> nil
    end
  end

  defp new_folder(beam) do
    random = Base.encode16(:rand.bytes(12), case: :lower)
    Path.join(System.tmp_dir() || ".", "#{@prefix}#{beam}-#{random}")
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
