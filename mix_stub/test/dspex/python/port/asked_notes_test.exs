defmodule DSPex.Python.Port.AskedNotesTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Port.AskedNotes

  @moduletag :tmp_dir

  test "nothing is noted in a new file, which is removed when it is closed", %{tmp_dir: folder} do
    notes = AskedNotes.open(folder)
    assert AskedNotes.noted(notes, 7) == %{"asked" => false, "called" => false}
    assert [name] = File.ls!(folder)
    stat = File.stat!(Path.join(folder, name))
    assert Bitwise.band(stat.mode, 0o777) == 0o600
    AskedNotes.close(notes)
    assert File.ls!(folder) == []
  end

  test "of a batch is known how many items have begun, unless a later one has overwritten it", %{
    tmp_dir: folder
  } do
    notes = AskedNotes.open(folder)

    begun = fn id, count ->
      :file.pwrite(notes.file, 8 * 65_536 + 8 * 7, <<id::32, count::32>>)
    end

    :ok = begun.(7, 3)
    assert AskedNotes.noted(notes, 7) == %{"asked" => false, "called" => false, "begun" => 3}
    assert AskedNotes.noted(notes, 8) == %{"asked" => false, "called" => false}
    :ok = begun.(7 + 4_096, 1)
    assert AskedNotes.noted(notes, 7) == %{"asked" => false, "called" => false}
    assert %{"begun" => 1} = AskedNotes.noted(notes, 7 + 4_096)
    AskedNotes.close(notes)
  end

  test "there are no notes where no file can be made", %{tmp_dir: folder} do
    assert AskedNotes.open(Path.join(folder, "none")) == nil
    assert AskedNotes.noted(nil, 7) == %{"asked" => nil, "called" => nil}
  end

  # The file was made without its blocks, and Python was killed by SIGBUS when it wrote the first note.
  test "there are no notes on a full disk, and no file stays there", %{tmp_dir: folder} do
    {_said, status} =
      System.cmd("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
        stderr_to_stdout: true
      )

    # Only root may mount.
    if status == 0 do
      on_exit(fn -> System.cmd("umount", ["-l", folder]) end)
      notes = AskedNotes.open(folder)
      assert notes != nil
      used = fn -> folder |> File.ls!() |> Enum.map(&File.stat!(Path.join(folder, &1)).size) end
      assert used.() == [557_056]
      File.write!(Path.join(folder, "filler"), :binary.copy("x", 400_000))
      assert AskedNotes.open(folder) == nil
      assert Enum.sort(used.()) == [400_000, 557_056]
      AskedNotes.close(notes)
    end
  end
end
