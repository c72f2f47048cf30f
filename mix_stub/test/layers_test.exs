defmodule DSPex.LayersTest do
  # Reads the source of lib, and checks its layers and names. CONTRIBUTING.md has the map in words.
  use ExUnit.Case, async: true

  @lib Path.expand("../lib", __DIR__)
  @tests Path.expand(".", __DIR__)

  # A file uses modules of its own layer and of the layers above it in this list. A layer is a folder, or files.
  @layers [
    ["dspex/suggestion.ex", "dspex/json.ex"],
    [
      "dspex/prediction.ex",
      "dspex/program.ex",
      "dspex/trace.ex",
      "dspex/trace/",
      "dspex/telemetry.ex"
    ],
    ["dspex/python/wire/"],
    ["dspex/python/functions/"],
    ["dspex/python/port/"],
    ["dspex/python/pool/"],
    ["dspex/python/cluster/"],
    ["dspex/python/call/"],
    ["dspex/value.ex", "dspex/json_encoding.ex"],
    ["dspex/python.ex"],
    ["dspex/live_dashboard.ex"],
    ["dspex/llm/"],
    ["dspex.ex", "dspex/application.ex", "mix/"]
  ]

  # An adapter is named after what it adapts, and a task after what it shows.
  @same_last_name [
    [DSPex.LLM.Adapters.Python, DSPex.Python],
    [DSPex.Trace, Mix.Tasks.Dspex.Trace]
  ]

  setup_all do
    sources =
      for path <- Path.wildcard(@lib <> "/**/*.ex") do
        {Path.relative_to(path, @lib), path |> File.read!() |> parse()}
      end

    files =
      for {file, ast} <- sources,
          into: %{},
          do: {file, %{modules: modules(ast), uses: uses(ast), public?: public?(ast)}}

    file_of = for {file, %{modules: modules}} <- files, module <- modules, do: {module, file}
    {:ok, files: files, graph: graph(files, Map.new(file_of))}
  end

  test "the source is read in all the forms in which it can name a module" do
    code = """
    defmodule A.B do
      alias C.D
      alias E.{F, G.H}
      alias I.J, as: K
      import L
      def f(%D{}), do: [F.x(), &H.y/1, K, M.N, D.Q, :"Elixir.O.P", __MODULE__.R]
      defmodule S, do: nil
    end
    """

    ast = parse(code)
    assert modules(ast) == [A.B, A.B.S]
    names = [A.B, A.B.R, A.B.S, C.D, C.D.Q, E.F, E.G.H, I.J, L, M.N, O.P]
    assert Enum.sort(uses(ast)) == names
  end

  test "every file belongs to one layer", %{files: files} do
    for {file, _read} <- files, do: assert({file, length(layers_of(file))} == {file, 1})
  end

  test "layers use each other one way", %{graph: graph} do
    wrong =
      for {file, used} <- graph,
          other <- used,
          layer(file) < layer(other),
          do: "#{file} uses #{other}, which is in a higher layer"

    assert wrong == []
  end

  test "no files use each other in a cycle", %{graph: graph} do
    assert graph |> without_leaves() |> Map.keys() == []
  end

  test "a cycle is found" do
    graph = %{"a" => ["b"], "b" => ["c"], "c" => ["b"], "d" => []}
    assert graph |> without_leaves() |> Map.keys() == ["a", "b", "c"]
  end

  test "internal modules are named after their folder, public ones after DSPex.Python", context do
    for {"dspex/python/" <> rest = file, %{modules: [module | _nested]} = read} <- context.files do
      [folder, name] = Path.split(Path.rootname(rest))
      under = if read.public?, do: DSPex.Python, else: Module.concat(DSPex.Python, camel(folder))
      assert {file, module} == {file, Module.concat(under, last_name(module))}
      assert {file, Macro.underscore(last_name(module))} == {file, name}
    end
  end

  test "no two modules have the same last name", %{files: files} do
    same =
      files
      |> Enum.flat_map(fn {_file, read} -> read.modules end)
      |> Enum.group_by(&last_name/1)
      |> Map.values()
      |> Enum.filter(&match?([_one, _other | _more], &1))
      |> Enum.map(&Enum.sort/1)
      |> Enum.sort()

    assert same == @same_last_name
  end

  test "the tests of a module have its path", %{files: files} do
    for path <- Path.wildcard(@tests <> "/dspex/**/*_test.exs"),
        path = Path.relative_to(path, @tests),
        path != "dspex/conformance_test.exs" do
      tested = [String.replace_suffix(path, "_test.exs", ".ex"), Path.dirname(path) <> ".ex"]
      assert {path, true} == {path, Enum.any?(tested, &is_map_key(files, &1))}
    end
  end

  test "no attribute of a module is a regular expression, which OTP 28 refuses" do
    for path <- Path.wildcard(@lib <> "/**/*.ex") ++ Path.wildcard(@tests <> "/**/*.{ex,exs}"),
        source = File.read!(path),
        do: assert({path, Regex.run(~r/^\s+@(?!doc|moduledoc)\w+ .*~r/m, source)} == {path, nil})
  end

  test "no test that runs beside others changes the environment of the node" do
    for path <- Path.wildcard(@tests <> "/**/*_test.exs"),
        source = File.read!(path),
        source =~ ~r/async: true/,
        do: assert({path, source =~ ~r/System\.(put|delete)_env\(/} == {path, false})
  end

  # Layers -----------------------------------------------------------------------------------------------------------

  defp layer(file), do: file |> layers_of() |> hd()

  defp layers_of(file) do
    for {places, index} <- Enum.with_index(@layers),
        Enum.any?(places, &(&1 == file or (String.ends_with?(&1, "/") and in_folder?(file, &1)))),
        do: index
  end

  defp in_folder?(file, folder), do: String.starts_with?(file, folder)

  defp graph(files, file_of) do
    for {file, %{uses: uses}} <- files, into: %{} do
      used = for module <- uses, other = file_of[module], other != file, uniq: true, do: other
      {file, used}
    end
  end

  # Removes files that use no remaining file, until nothing changes: what remains is in a cycle, or uses one.
  defp without_leaves(graph) do
    remaining =
      for {file, used} <- graph,
          used = Enum.filter(used, &is_map_key(graph, &1)),
          used != [],
          into: %{},
          do: {file, used}

    if map_size(remaining) == map_size(graph), do: graph, else: without_leaves(remaining)
  end

  # Reading ----------------------------------------------------------------------------------------------------------

  # Writes `alias A.{B, C}` as two aliases, so that A is not taken for a module that the file uses.
  defp parse(code) do
    code
    |> Code.string_to_quoted!()
    |> Macro.prewalk(fn
      {:alias, _, [{{:., _, [{:__aliases__, meta, base}, :{}]}, _, children}]} ->
        for {:__aliases__, _, parts} <- children,
            do: {:alias, meta, [{:__aliases__, meta, base ++ parts}]}

      node ->
        node
    end)
  end

  # The modules and protocols that a file defines, outermost first.
  defp modules(ast), do: ast |> modules([]) |> Enum.reverse()

  defp modules(ast, outer) do
    {_ast, {found, _outer}} =
      Macro.traverse(
        ast,
        {[], outer},
        fn
          {kind, _meta, [{:__aliases__, _, parts} | _]} = node, {found, outer}
          when kind in [:defmodule, :defprotocol] ->
            module = Module.concat(List.wrap(List.first(outer)) ++ parts)
            {node, {[module | found], [module | outer]}}

          node, acc ->
            {node, acc}
        end,
        fn
          {kind, _meta, [{:__aliases__, _, _parts} | _]} = node, {found, [_module | outer]}
          when kind in [:defmodule, :defprotocol] ->
            {node, {found, outer}}

          node, acc ->
            {node, acc}
        end
      )

    found
  end

  # The full names of all modules that a file mentions in code: by alias, import, call, capture, struct or atom.
  defp uses(ast) do
    [module | _nested] = defined = modules(ast)
    nested = for module <- defined, into: %{}, do: {last_atom(module), Module.split(module)}
    aliases = aliases(ast, nested)

    {_ast, names} =
      Macro.prewalk(ast, [], fn
        {:__aliases__, _meta, parts} = node, names ->
          {node, [parts |> expand(aliases, module) |> Module.concat() | names]}

        atom, names when is_atom(atom) ->
          {atom,
           if(match?("Elixir." <> _, Atom.to_string(atom)), do: [atom | names], else: names)}

        node, names ->
          {node, names}
      end)

    Enum.uniq(names)
  end

  # Short names and the parts of what they stand for.
  defp aliases(ast, nested) do
    {_ast, aliases} =
      Macro.prewalk(ast, nested, fn
        {:alias, _meta, [{:__aliases__, _, parts}, [as: {:__aliases__, _, [name]}]]} = node,
        known ->
          {node, Map.put(known, name, expand(parts, known, nil))}

        {:alias, _meta, [{:__aliases__, _, parts}]} = node, known ->
          {node, Map.put(known, List.last(parts), expand(parts, known, nil))}

        node, known ->
          {node, known}
      end)

    aliases
  end

  defp expand([{:__MODULE__, _, _} | rest], _aliases, module), do: [module | rest]
  defp expand([first | rest], aliases, _module), do: Map.get(aliases, first, [first]) ++ rest

  defp public?(ast) do
    {_ast, hidden?} =
      Macro.prewalk(ast, false, fn
        {:@, _, [{:moduledoc, _, [false]}]} = node, _hidden? -> {node, true}
        node, hidden? -> {node, hidden?}
      end)

    not hidden?
  end

  defp camel(folder), do: Macro.camelize(folder)
  defp last_name(module), do: module |> Module.split() |> List.last()
  defp last_atom(module), do: module |> last_name() |> String.to_atom()
end
