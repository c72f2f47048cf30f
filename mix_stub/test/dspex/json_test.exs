defmodule DSPex.JSONTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.JSON
  alias DSPex.RandomTerm

  doctest JSON

  test "decodes what it has encoded" do
    for _ <- 1..500 do
      term = RandomTerm.json(4)
      assert {:ok, text} = JSON.encode(term)
      assert JSON.decode(text) == {:ok, term}
    end
  end

  test "reads and writes what Python's json does" do
    term = RandomTerm.json(6)
    {:ok, text} = JSON.encode(term)
    script = "import json, sys; print(json.dumps(json.loads(sys.argv[1])))"

    # An argument of a program cannot hold a zero byte; in JSON it is escaped.
    {output, 0} = System.cmd(DSPex.TestPython.interpreter(), ["-c", script, text])
    assert JSON.decode(output) == {:ok, term}
  end

  test "reads numbers in all their forms" do
    for {text, number} <- [
          {"0", 0},
          {"-0", 0},
          {"-17", -17},
          {"1.5", 1.5},
          {"1e3", 1000.0},
          {"-1.5E-3", -0.0015},
          {"12345678901234567890123", 12_345_678_901_234_567_890_123}
        ] do
      assert JSON.decode(text) == {:ok, number}
    end
  end

  test "reads escapes, surrogate pairs among them" do
    assert JSON.decode(~S("\"\\\/\b\f\n\r\t\u00e9\ud83d\ude80")) == {:ok, "\"\\/\b\f\n\r\té🚀"}
  end

  test "refuses text that is not JSON, with the position" do
    for {text, position} <- [
          {"", 0},
          {"nul", 0},
          {"01", 1},
          {"1.", 1},
          {"1e999", 0},
          {"[1 2]", 3},
          {"[1,]", 3},
          {~S({"a" 1}), 5},
          {~S({"a":1,}), 7},
          {"{a:1}", 1},
          {~S("a), 2},
          {"\"a\nb\"", 2},
          {~S("\x"), 2},
          {~S("\ud800"), 2},
          {~S(1 2), 2},
          {"NaN", 0},
          {<<?", 255, ?">>, 1}
        ] do
      assert {text, JSON.decode(text)} == {text, {:error, {:unexpected, position}}}
    end
  end

  test "refuses every beginning of an object" do
    {:ok, text} = JSON.encode(%{"a" => [RandomTerm.json(3)], "é" => RandomTerm.text()})

    for length <- 0..(byte_size(text) - 1) do
      assert {:error, {:unexpected, _position}} = JSON.decode(binary_part(text, 0, length))
    end
  end

  test "names the value that JSON cannot carry, and its path" do
    for {term, reason, path} <- [
          {{1, 2}, "JSON cannot carry {1, 2}", ""},
          {[1, %{a: self()}], "JSON cannot carry #{inspect(self())}", "[1].a"},
          {%{"a" => [<<255>>]}, "JSON cannot carry a binary that is not UTF-8", "a[0]"},
          {%{1 => 2}, "JSON cannot carry the key 1", ""},
          {[1 | 2], "JSON cannot carry an improper list", ""},
          {[b: [a: 1, a: 1]], ~S|JSON cannot carry the key "a" twice|, "b"},
          {[b: [{:a, 1}, 2]], "JSON cannot carry {:a, 1}", "b[0]"},
          {%{a: 1, b: %{"a" => 1, a: 2}}, ~S|JSON cannot carry the key "a" twice|, "b"},
          {~D[2024-01-01], "JSON cannot carry the struct Date", ""}
        ] do
      assert JSON.encode(term) == {:error, reason, path}
    end
  end
end
