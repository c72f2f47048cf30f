defmodule Mix.Tasks.Dspex.TraceTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias DSPex.Trace
  alias Mix.Tasks.Dspex

  @moduletag :tmp_dir

  @span %{
    "id" => "a",
    "parent" => nil,
    "kind" => "call",
    "name" => "execute_module",
    "start_us" => 1,
    "duration_us" => 2,
    "status" => "ok"
  }
  @trace %Trace{id: "t", spans: [@span]}

  defp run(arguments), do: capture_io(fn -> Dspex.Trace.run(arguments) end)

  test "makes a page beside the file, or where --out says", %{tmp_dir: folder} do
    file = Path.join(folder, "trace.json")
    assert Trace.write_json(@trace, file) == :ok
    page = Path.join(folder, "trace.html")
    assert run([file]) == "The page is #{page}\n"
    other = Path.join(folder, "other.html")
    assert run([file, "--out", other]) == "The page is #{other}\n"
    assert File.read!(page) == File.read!(other)
    assert File.read!(page) =~ ~s|"name":"execute_module"|
  end

  test "makes one page of a list of traces", %{tmp_dir: folder} do
    file = Path.join(folder, "traces.json")

    traces =
      for id <- ["a", "b"], do: Trace.to_map(%{@trace | spans: [%{@span | "id" => id}, @span]})

    {:ok, text} = DSPex.Python.JSON.encode(traces)
    File.write!(file, text)
    run([file])
    page = File.read!(Path.join(folder, "traces.html"))
    assert [_a, _b] = Regex.scan(~r/"id":"[ab]"/, page)
  end

  test "a mistake is an error that names it", %{tmp_dir: folder} do
    path = &Path.join(folder, &1)
    File.write!(path.("broken.json"), ~s|{"spans": [|)
    File.write!(path.("other.json"), ~s|{"a": 1}|)
    File.write!(path.("odd.json"), ~s|{"id": "t", "spans": [{"id": 5}]}|)
    File.write!(path.("list.json"), "[1]")
    Trace.write_json(@trace, path.("trace.json"))

    for {arguments, part} <- [
          {[], "expected the name of one file"},
          {[path.("trace.json"), path.("other.json")], "expected the name of one file"},
          {[path.("trace.json"), "--ou", "x"], "unknown option --ou"},
          {[path.("none.json")], "no such file"},
          {[path.("broken.json")], "is no JSON: byte 11"},
          {[path.("other.json")], "expected a DSPex.Trace"},
          {[path.("odd.json")], "expected a span at spans[0]"},
          {[path.("list.json")], "expected a DSPex.Trace"},
          {[path.("trace.json"), "--out", path.("none/x.html")],
           "could not write to file #{inspect(path.("none/x.html"))}: no such file"},
          {[path.("trace.json"), "--out", path.("trace.json")], "would be overwritten"}
        ] do
      error = assert_raise Mix.Error, fn -> run(arguments) end
      assert error.message =~ part
    end
  end
end
