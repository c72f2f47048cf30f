defmodule DSPex.Python.Port.ProcessState do
  @moduledoc false

  # Reads the state of a process from `/proc`, which takes about 10 µs. The file stays open: it belongs to this process also when
  # its number is another's.

  @enforce_keys [:file]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{file: :file.fd()}

  # The number of the process, its name of at most 15 bytes, its state, and more numbers.
  @most_bytes 64

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
  Tells whether the process was stopped by a signal (SIGSTOP, SIGTSTP, SIGTTIN). One that a debugger holds has another state.
  """
  @spec stopped?(t()) :: boolean()
  def stopped?(%__MODULE__{file: file}) do
    case :file.pread(file, 0, @most_bytes) do
      # The name in parentheses may hold any character.
      {:ok, stat} -> stat |> String.split(")") |> List.last() |> String.starts_with?(" T")
      # It has ended.
      _none -> false
    end
  end
end
