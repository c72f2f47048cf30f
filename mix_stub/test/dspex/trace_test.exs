defmodule DSPex.TraceTest do
  use ExUnit.Case, async: true

  alias DSPex.Trace

  doctest Trace

  @moduletag :tmp_dir

  @span %{
    "id" => "a",
    "parent" => nil,
    "kind" => "model",
    "name" => "openai/gpt-4o-mini",
    "start_us" => 1,
    "duration_us" => 2,
    "status" => "ok",
    "attributes" => %{"reply" => ["a </script> b"]}
  }
  @trace %Trace{id: "t", spans: [@span]}

  test "the result of a call is written as its value", %{tmp_dir: folder} do
    path = Path.join(folder, "trace.json")
    prediction = %DSPex.Prediction{fields: %{}, trace: %Trace{id: "t"}}
    assert Trace.write_json({:ok, prediction}, path) == :ok
    assert Trace.write_json({:ok, [prediction, {:ok, prediction}]}, path) == :ok

    assert_raise ArgumentError, ~r/DSPex.Python.trace\/1/, fn ->
      apply(Trace, :write_json, [5, path])
    end

    assert_raise ArgumentError, ~r/trace: true/, fn ->
      Trace.write_json({:ok, %{prediction | trace: nil}}, path)
    end
  end

  test "elements of a stream, and results of which some have no trace, are one page", %{
    tmp_dir: folder
  } do
    path = Path.join(folder, "trace.json")
    prediction = %DSPex.Prediction{fields: %{}, trace: @trace}
    none = {:error, DSPex.Python.Error.new(:cancelled, "cancelled")}
    scored = {0, {:ok, %{prediction: prediction, score: 1.0, feedback: nil}}}
    parts = [{:status, %{"stage" => "model"}}, {:chunk, "answer", "a"}, {:prediction, prediction}]

    for result <- [
          [none, {:ok, prediction}],
          [{0, none}, {1, {:ok, prediction}}],
          [scored],
          parts
        ] do
      assert Trace.write_json(result, path) == :ok
      assert {:ok, %{"spans" => [@span]}} = path |> File.read!() |> DSPex.Python.JSON.decode()
    end
  end

  test "is written to a path only" do
    trace = %Trace{id: "t", spans: []}

    for write <- [&Trace.write_html/2, &Trace.write_json/2], path <- [nil, 1, %{}, :atom] do
      assert_raise ArgumentError, "expected a path, got #{inspect(path)}", fn ->
        write.(trace, path)
      end
    end
  end

  test "a written page and JSON can be read by their owner only", %{tmp_dir: folder} do
    for write <- [&Trace.write_html/2, &Trace.write_json/2] do
      path = Path.join(folder, "trace-#{System.unique_integer([:positive])}")
      assert write.(@trace, path) == :ok
      assert Bitwise.band(File.stat!(path).mode, 0o777) == 0o600
      File.chmod!(path, 0o644)
      assert write.(@trace, path) == :ok
      assert Bitwise.band(File.stat!(path).mode, 0o777) == 0o644
      # It was `{:error, :enoent}`, which names nothing.
      none = Path.join(folder, "none/trace")
      assert {:error, %File.Error{reason: :enoent} = error} = write.(@trace, none)

      assert Exception.message(error) ==
               "could not write to file #{inspect(none)}: no such file or directory"

      assert {:error, %File.Error{reason: :eisdir}} = write.(@trace, to_charlist(folder))
    end
  end

  test "a page is the same from a trace, from its map and from its JSON", %{tmp_dir: folder} do
    json = Path.join(folder, "trace.json")
    :ok = Trace.write_json(@trace, json)
    {:ok, decoded} = json |> File.read!() |> DSPex.Python.JSON.decode()

    pages =
      for {trace, number} <-
            Enum.with_index([@trace, Trace.to_map(@trace), decoded, %{trace: @trace}]) do
        path = Path.join(folder, "#{number}.html")
        :ok = Trace.write_html(trace, path)
        File.read!(path)
      end

    assert [page] = Enum.uniq(pages)
    refute page =~ "a </script> b"
  end

  test "what has no trace is refused", %{tmp_dir: folder} do
    path = Path.join(folder, "trace.html")

    for {wrong, part} <- [
          {%{trace: nil}, "trace: true"},
          {[@trace, nil], "expected a DSPex.Trace or what has one, got nil"},
          {nil, "expected a DSPex.Trace or what has one, got nil"},
          {%{"spans" => [@span, %{@span | "start_us" => nil}]}, "expected a span at spans[1]"},
          {%{"spans" => [@span, %{@span | "parent" => 5}]}, "spans[1], got parent: 5"},
          {%{"spans" => [Map.put(@span, "error", "boom")]}, ~s(spans[0], got error: "boom")},
          {%{"spans" => [%{@span | "attributes" => [1]}]}, "spans[0], got attributes: [1]"},
          {%{"spans" => [Map.put(@span, "attributes", %{"cost" => "free"})]},
           ~s(got attributes.cost: "free")},
          {%{"spans" => [Map.put(@span, "attributes", %{"messages" => ["a"]})]},
           ~s(got attributes.messages: ["a"])},
          {%{"spans" => [7]}, "expected a span at spans[0];"},
          {%{"spans" => [@span], "dropped" => "many"}, "expected a number at dropped"},
          {%{"spans" => [@span], "id" => 7}, "expected a text at id"},
          {%{"spans" => [%{@span | "name" => <<255>>}]}, "not UTF-8 at spans[0].name"},
          {%{"spans" => [Map.put(@span, "attributes", %{"a" => {1, 2}})]}, "attributes.a"}
        ] do
      error = assert_raise ArgumentError, fn -> Trace.write_html(wrong, path) end
      assert error.message =~ part
      refute File.exists?(path)
    end
  end
end
