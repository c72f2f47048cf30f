defmodule DSPex.Python.Port.AskedNotes do
  @moduledoc false

  # A file in which Python notes the id of each call that asks a model or calls a function, just before it does. So it is
  # known after the death of Python which of its calls had done so. A message for each request would cost more than the
  # rest of it; a note is four bytes in memory, which the system keeps when the process is killed.
  #
  # The file has two notes for each slot: that the call has asked a model or called a function, and that it has called a
  # function or sent a piece of a stream, so that others have seen it. The slot of a call is its id modulo the number of
  # slots. A later call with the same slot overwrites it; then nothing is known about the earlier one. Batches have a further
  # slot each, among fewer, with their id and how many of their items have begun.
  #
  # The file has a name only until Python has opened it (erlport_bridge/request/asking.py). Its folder is removed with the BEAM, also one
  # that ends meanwhile.

  alias DSPex.Python.Port.RunStore
  alias DSPex.Python.Wire.UniqueId

  @slots 65_536
  @batches 4_096
  @bytes 8 * @slots + 8 * @batches

  @enforce_keys [:path, :file]
  defstruct @enforce_keys

  @type t :: %__MODULE__{path: Path.t(), file: :file.fd()}

  @doc """
  Makes the file in `folder`, which ends with the calling process; `nil` where none can be made, or the disk has no room for it.
  """
  @spec open(Path.t() | nil) :: t() | nil
  def open(folder \\ RunStore.folder_of_notes())
  def open(nil), do: nil

  def open(folder) do
    path = Path.join(folder, "asked-" <> UniqueId.new(12))

    case :file.open(path, [:raw, :binary, :read, :write, :exclusive]) do
      {:ok, file} -> filled(%__MODULE__{path: path, file: file})
      {:error, _unwritable} -> nil
    end
  end

  # A note is written to memory, which cannot fail: where a file has no block yet and the disk is full, the system kills Python
  # (SIGBUS). So all blocks are written here, where a full disk is an error.
  defp filled(notes) do
    with :ok <- File.chmod(notes.path, 0o600),
         :ok <- :file.pwrite(notes.file, 0, <<0::size(@bytes)-unit(8)>>) do
      notes
    else
      {:error, _no_room} ->
        close(notes)
        nil
    end
  end

  @doc """
  Returns what is noted of a call: whether it has `"asked"` a model or called a function, and whether it has `"called"` a
  function or sent a piece of a stream; `nil` if that is not known. Of a batch also how many of its items have `"begun"`, if
  that is known: always the first ones.
  """
  @spec noted(t() | nil, pos_integer()) :: %{optional(String.t()) => boolean() | integer() | nil}
  def noted(nil, _id), do: %{"asked" => nil, "called" => nil}

  def noted(%__MODULE__{file: file}, id) do
    slot = rem(id, @slots)
    facts = %{"asked" => noted_at(file, slot, id), "called" => noted_at(file, @slots + slot, id)}

    case :file.pread(file, 8 * @slots + 8 * rem(id, @batches), 8) do
      {:ok, <<^id::32, count::32>>} -> Map.put(facts, "begun", count)
      _no_batch_or_unreadable -> facts
    end
  end

  defp noted_at(file, place, id) do
    case :file.pread(file, 4 * place, 4) do
      {:ok, <<^id::32>>} -> true
      {:ok, <<earlier::32>>} when earlier < id -> false
      _later_or_unreadable -> nil
    end
  end

  @doc """
  Removes the file. Python has removed its name already, unless it did not get that far.
  """
  @spec close(t() | nil) :: :ok
  def close(nil), do: :ok

  def close(%__MODULE__{path: path, file: file}) do
    _closed_or_not = :file.close(file)
    _removed_or_not = File.rm(path)
    :ok
  end
end
