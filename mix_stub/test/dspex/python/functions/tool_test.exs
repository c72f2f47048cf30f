defmodule DSPex.Python.Functions.ToolTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Tool

  doctest Tool

  defp tool(changed \\ []) do
    Map.merge(%{name: "t", description: "d", function: fn _arguments -> 1 end}, Map.new(changed))
  end

  defp parameters(parameters) do
    assert {:ok, [%{parameters: schema}], [_callback]} = Tool.read([tool(parameters: parameters)])

    schema
  end

  test "takes names and functions in one list, as maps with atom or string keys and keyword lists" do
    tool = tool(timeout: 5)
    with_strings = Map.new(tool, fn {key, value} -> {Atom.to_string(key), value} end)

    assert {:ok, ["calculator", first, second, third, :today], callbacks} =
             Tool.read(["calculator", tool, with_strings, Map.to_list(tool), :today])

    assert Enum.map([first, second, third], & &1.callback) == Enum.map(callbacks, & &1.id)
    assert Enum.map(callbacks, & &1.timeout) == [5, 5, 5]
    assert callbacks |> Enum.uniq_by(& &1.id) |> length() == 3
    assert first |> Map.delete(:callback) == second |> Map.delete(:callback)
  end

  test "leaves a value that is not a list to Python" do
    assert Tool.read(nil) == {:ok, nil, []}
    assert Tool.read("calculator") == {:ok, "calculator", []}
    assert Tool.read([]) == {:ok, [], []}

    for name <- [3, ~c"calculator", [], [{:name, "t"}, 3], ~D[2024-02-29]],
        do: assert(Tool.read([name]) == {:ok, [name], []})
  end

  test "makes a JSON schema of nested objects, in the order of their keyword lists" do
    for place <- [
          [street: :string, city: {:string, "its name"}],
          {:object, [street: :string, city: {:string, "its name"}]}
        ] do
      schema = parameters(to: place, via: {:array, place}, from: {place, "where it begins"})
      assert schema["propertyOrdering"] == ["to", "via", "from"]
      nested = schema["properties"]["to"]
      assert nested["propertyOrdering"] == ["street", "city"]
      assert nested["required"] == ["street", "city"]
      assert nested["properties"]["city"] == %{"type" => "string", "description" => "its name"}
      assert schema["properties"]["via"] == %{"type" => "array", "items" => nested}

      assert schema["properties"]["from"] ==
               Map.put(nested, "description", "where it begins")
    end

    assert parameters(to: %{city: :string})["properties"]["to"]["required"] == ["city"]
    assert parameters(to: {:object, %{city: :string}})["properties"]["to"]["required"] == ["city"]

    assert parameters(to: {:object, description: "any"}) == %{
             "type" => "object",
             "properties" => %{"to" => %{"type" => "object", "description" => "any"}},
             "required" => ["to"],
             "propertyOrdering" => ["to"]
           }
  end

  test "makes a JSON schema of parameters" do
    assert parameters(%{}) == %{
             "type" => "object",
             "properties" => %{},
             "required" => [],
             "propertyOrdering" => []
           }

    assert parameters(
             article: :string,
             count: {:integer, "how many"},
             size: {:number, minimum: 1, default: 8},
             tags: {:array, :string},
             grid: {:array, {:array, :integer}},
             sizes: {{:array, :number}, "all of them"},
             colour: {:string, enum: [:red, :blue], optional: true},
             extra: :any
           ) == %{
             "type" => "object",
             "properties" => %{
               "article" => %{"type" => "string"},
               "count" => %{"type" => "integer", "description" => "how many"},
               "size" => %{"type" => "number", "minimum" => 1, "default" => 8},
               "tags" => %{"type" => "array", "items" => %{"type" => "string"}},
               "grid" => %{
                 "type" => "array",
                 "items" => %{"type" => "array", "items" => %{"type" => "integer"}}
               },
               "sizes" => %{
                 "type" => "array",
                 "items" => %{"type" => "number"},
                 "description" => "all of them"
               },
               "colour" => %{"type" => "string", "enum" => [:red, :blue]},
               "extra" => %{}
             },
             "required" => ["article", "count", "tags", "grid", "sizes", "extra"],
             "propertyOrdering" => ~w(article count size tags grid sizes colour extra)
           }
  end

  test "takes a list by the name that it has in signatures" do
    named = fn name ->
      parameters(
        tags: {name, :string},
        any: name,
        sizes: {{name, :integer}, "all of them"},
        more: {name, description: "more", optional: true},
        places: {name, %{x: :number}}
      )
    end

    assert named.(:list) == named.(:array)
    assert named.(:list)["properties"]["tags"]["type"] == "array"
  end

  test "passes a JSON schema on, even if a parameter is called type" do
    schema = %{"type" => "object", "properties" => %{"n" => %{"type" => "integer"}}}
    assert parameters(schema) == schema
    assert parameters(%{"type" => :string})["properties"] == %{"type" => %{"type" => "string"}}
  end

  test "a misspelt type, or one of another library, has its right name" do
    for {type, meant} <- [
          {:strng, ":string"},
          {"string", ":string"},
          {String, ":string"},
          {:str, ":string"},
          {:int, ":integer"},
          {:bolean, ":boolean"},
          {:map, ":object"},
          {{:array, :nmber}, ":number"},
          {{:list, :flot}, nil},
          {{:strng, "its name"}, ":string"},
          {{:optional, :string}, "{type, optional: true}"},
          {{:enum, ["a"]}, ~S|{:string, enum: ["a", "b"]}|},
          {[:string], "{:array, :string}"},
          {%{x: :strng}, ":string"},
          {:banana, nil}
        ] do
      assert {:error, error} = Tool.read([tool(parameters: [n: type])])
      assert error.message =~ "expected a type (:string, "
      found = Regex.run(~r/ \(did you mean (.*)\?\)$/, error.message, capture: :all_but_first)
      assert {type, found} == {type, meant && [meant]}
    end
  end

  test "a type with its options as a map, as in signatures, is told how it is written" do
    for fields <- [%{type: :string, description: "its name"}, %{type: "string", enum: ["a"]}] do
      assert {:error, error} = Tool.read([tool(parameters: [n: fields])])
      assert error.message =~ "expected {type, options}, such as {:string, description: "
      assert error.path == "opts.tools[0].parameters.n"
    end

    assert parameters(n: %{type: :string, description: :string})["properties"]["n"]["required"]
  end

  test "names the path of the mistake" do
    for {changed, path, expected} <- [
          {[function: fn -> 1 end], "opts.tools[0].function", "a function of one argument"},
          {[function: nil], "opts.tools[0].function", "got nil"},
          {[timeout: 0], "opts.tools[0].timeout", "a time limit in ms or :infinity"},
          {[descripton: "x"], "opts.tools[0]", "got :descripton (did you mean :description?)"},
          {[desc: "x"], "opts.tools[0]", "only the keys :name, :description"},
          {[parameters: "n"], "opts.tools[0].parameters", "a map of parameters"},
          {[parameters: %{n: :int}], "opts.tools[0].parameters.n", "a type (:string"},
          {[parameters: %{n: {:array, :int}}], "opts.tools[0].parameters.n", "a type (:string"},
          {[parameters: %{n: {:string, 5}}], "opts.tools[0].parameters.n",
           "a description or a keyword"},
          {[parameters: %{n: {:string, min: 5}}], "opts.tools[0].parameters.n",
           "only the keys :description"}
        ] do
      assert {:error, error} = Tool.read([tool(changed)])
      assert {error.kind, error.path} == {:input, path}
      assert error.message =~ expected
    end

    assert {:error, %{path: "opts.tools"}} = Tool.read([tool() | :rest])
  end
end
