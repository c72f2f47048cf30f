defmodule DSPex.Python.Port.ProcessState do
  @moduledoc false

  # Reads the state of a process from `/proc`, which takes about 10 µs. The file stays open: it belongs to this process also when
  # its number is another's.

  @enforce_keys [:file]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{file: :file.fd()}

  # The number of the process, its name of at most 15 bytes, its state, and 10 numbers before those of its CPU time.
  @most_bytes 512
  @numbers_before_cpu_time 10

  @doc """
  Opens the state of the process `pid`, which is closed with the calling process; `nil` where there is no `/proc`.
  """
  @spec open(pos_integer()) :: t() | nil
  def open(pid) do
    # Raw, since the file server of the node may be waiting for a disk.
    case :file.open("/proc/#{pid}/stat", [:raw, :binary, :read]) do
      {:ok, file} -> %__MODULE__{file: file}
      {:error, _reason} -> nil
    end
  end

  @doc """
  Returns whether the process `pid` is stopped now.
  """
  @spec stopped?(pos_integer()) :: boolean()
  def stopped?(pid) do
    case open(pid) do
      nil ->
        false

      state ->
        stopped? = stopped_after(state) != nil
        :ok = :file.close(state.file)
        stopped?
    end
  end

  @doc """
  Kills the process with its group, unless it has ended.
  """
  @spec kill(t() | nil) :: :ok
  def kill(nil), do: :ok

  def kill(%__MODULE__{} = state) do
    with {pid, [process_state | _numbers]} when process_state not in ["Z", "X"] <- read(state),
         # The shell has `kill` built in: small images have no program of this name.
         do: System.cmd("/bin/sh", ["-c", "kill -KILL -#{pid} #{pid}"], stderr_to_stdout: true)

    :ok
  end

  @doc """
  Returns the CPU time of a process that was stopped by a signal (SIGSTOP, SIGTSTP, SIGTTIN), in clock ticks; `nil`: it is not
  stopped. One that a debugger holds has another state.
  """
  @spec stopped_after(t()) :: non_neg_integer() | nil
  def stopped_after(%__MODULE__{} = state) do
    case read(state) do
      {_pid, ["T" | numbers]} ->
        [user, system] =
          numbers |> Enum.slice(@numbers_before_cpu_time, 2) |> Enum.map(&String.to_integer/1)

        user + system

      # It runs, or it has ended.
      _not_stopped ->
        nil
    end
  end

  # The number of the process, and what follows its name, which stands in parentheses and may hold any character.
  defp read(%__MODULE__{file: file}) do
    with {:ok, stat} <- :file.pread(file, 0, @most_bytes) do
      {pid, _name} = Integer.parse(stat)
      {pid, stat |> String.split(")") |> List.last() |> String.split()}
    end
  end
end
