defmodule DSPex.Python.Call.StructHintsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.Call.StructHints
  alias DSPex.Python.Error

  defmodule Ticket do
    defstruct [:question, :about]
  end

  defp hint do
    ~r/; a struct came at (inputs|examples\[1\]), %URI\{\}, which is taken as the map of its fields$/
  end

  test "an error about inputs says that a struct came, from every function that takes inputs" do
    program = Python.create_program!(signature: "question -> answer")
    {module, signature, uri} = {"dspy.Predict", "question -> answer", URI.parse("https://a.b/c")}
    example = %{question: "Why?", answer: "So."}

    errors = [
      Python.execute_module(module, signature, uri),
      Python.execute_program(program, uri),
      module |> Python.stream(signature, uri) |> Enum.to_list() |> List.last(),
      program |> Python.stream_program(uri) |> Enum.to_list() |> List.last(),
      module |> Python.execute_batch!(signature, ["Why?", uri]) |> List.last(),
      program |> Python.execute_program_batch!(["Why?", uri]) |> List.last(),
      module |> Python.stream_batch(signature, ["Why?", uri]) |> Map.new() |> Map.fetch!(1),
      List.last(Python.evaluate_program!(program, [example, uri], "equals").results),
      program
      |> Python.stream_evaluate([example, uri], "equals")
      |> Enum.find_value(&(elem(&1, 0) == 1 && elem(&1, 1)))
    ]

    for {error, index} <- Enum.with_index(errors) do
      assert {^index, {:error, %Error{kind: :input, message: message}}} = {index, error}
      assert {index, message =~ hint()} == {index, true}
    end
  end

  test "names the innermost struct on the way to the error" do
    inputs = %{"list" => [%{}, %Ticket{about: %URI{}}], date: ~D[2024-01-02]}

    said = fn path ->
      path |> error() |> StructHints.explain(inputs) |> elem(1) |> Map.fetch!(:message)
    end

    ticket = inspect(Ticket)

    for {path, place, struct} <- [
          {"inputs.list[1]", "inputs.list[1]", ticket},
          {"inputs.list[1].title", "inputs.list[1]", ticket},
          {"inputs.list[1].about", "inputs.list[1].about", "URI"},
          {"inputs.list[1].about.host.x", "inputs.list[1].about", "URI"}
        ] do
      assert said.(path) ==
               "no; a struct came at #{place}, %#{struct}{}, which is taken as the map of its fields"
    end

    # Where no struct is, where the struct is one value in Python, and where the path leads nowhere.
    for path <- [
          "inputs",
          "inputs.list",
          "inputs.list[0]",
          "inputs.date",
          "inputs.list[7].x",
          "inputs.no",
          "opts.lm",
          nil
        ],
        do: assert({path, said.(path)} == {path, "no"})
  end

  test "a stream in the place of a list is told so, from every function that takes a list" do
    # It was shown as the map of a struct's fields, `%{accs: [], done: nil, …}`.
    program = Python.create_program!(signature: "question -> answer", history: true)
    {module, signature} = {"dspy.Predict", "question -> answer"}
    options = [optimizer: "dspy.LabeledFewShot"]
    examples = [%{question: "Why?", answer: "So."}]

    for stream <- [Stream.map(examples, & &1), Stream.cycle(examples)] do
      for {result, path} <- [
            {Python.execute_batch(module, signature, stream), "inputs"},
            {Python.execute_program_batch(program, stream), "inputs"},
            {Python.seed_conversation(program, "c", stream), "turns"},
            {Python.evaluate_program(program, stream, "equals"), "examples"},
            {program |> Python.stream_evaluate(stream, "equals") |> Enum.at(0), "examples"},
            {Python.compile_program(program, stream, options), "trainset"},
            {program |> Python.stream_compile(stream, options) |> Enum.at(0), "trainset"},
            {Python.compile_program(program, examples,
               optimizer: "dspy.BootstrapFewShotWithRandomSearch",
               metric: "equals",
               valset: stream
             ), "opts.valset"},
            {Python.execute_module(module, signature, "Why?", demos: stream), "opts.demos"}
          ] do
        assert {:error, %Error{kind: :input, path: ^path, message: message}} = result

        assert message =~
                 ~r/^expected a .*list of (maps|turns).* at #{Regex.escape(path)}, got a stream; /

        assert message =~ "Enum.to_list/1 makes a list of it"
      end
    end
  end

  test "a Regex, which no field can be, is told how its text is had" do
    # It was `expected UTF-8 text at inputs.x["b"]["re_pattern"][4], got a binary that is not UTF-8`.
    for {signature, value, path} <- [
          {"x: Any -> answer", %{b: ~r/x/}, ~S|inputs.x["b"]|},
          {"x: Any -> answer", ~r/x/, "inputs.x"},
          {"x: list[Any] -> answer", [1, ~r/x/], "inputs.x[1]"},
          {"x -> answer", ~r/x/, "inputs.x"}
        ] do
      assert {:error, %Error{kind: :input, path: ^path, message: message}} =
               Python.execute_module("dspy.Predict", signature, %{x: value})

      assert message == "a Regex cannot be sent, at #{path}; Regex.source/1 returns its text"
    end
  end

  test "a stream, or a MapSet for a list, is told how to make a list of it, wherever it is" do
    # It was shown as the fields of its struct, or not named at all: `unknown key "accs" at spec`.
    qa = "question -> answer"
    path = Path.join(System.tmp_dir!(), "lines-#{System.unique_integer([:positive])}")
    File.write!(path, "a\nb\n")
    on_exit(fn -> File.rm!(path) end)
    ask = &Python.execute_module("dspy.Predict", qa, "Why?", [{&1, &2}])

    lists = fn value ->
      Python.execute_module("dspy.Predict", "q: list[str] -> answer", %{q: value})
    end

    read = "; read it before the call, as Enum.to_list/1 does"
    to_list = "; Enum.to_list/1 makes a list of it"

    for stream <- [Stream.map([%{}], & &1), File.stream!(path), Stream.cycle([1])],
        {call, message} <- [
          {&Python.execute_module("dspy.Predict", qa, &1),
           ~r/^expected a map, or a list of maps for a batch, at inputs, got a stream; Enum/},
          {&Python.execute_module("dspy.Predict", qa, %{question: &1}),
           "expected a string at inputs.question, got a stream" <> read},
          {lists, "expected a list at inputs.q, got a stream" <> read},
          {&lists.([&1]), "expected a string at inputs.q[0], got a stream" <> read},
          {&Python.execute_module("dspy.ReAct", qa, "Why?", tools: &1),
           "expected a list of tools at opts.tools, got a stream" <> to_list},
          {&ask.(:lm, {:openai, model: "m", fallbacks: &1}),
           "expected a list of models at opts.lm.fallbacks, got a stream" <> to_list},
          {&Python.create_program(%{signature: qa, modules: &1}),
           ~r/^expected a list of 1 to 20 modules at spec.modules, .*, got a stream; Enum.to_list/},
          {&Python.create_program(signature: qa, modules: &1),
           ~r/ at spec.modules, .*, got a stream; Enum/},
          {&Python.create_program/1, ~r/^expected a map or a .*list at spec, got a stream; Enum/},
          {&Python.execute_module(&1, qa, "Why?"), ~r/^expected .*, got a stream; Enum.to_list/},
          {&Python.execute_module("dspy.Predict", &1, "Why?"),
           ~r/^expected .* at signature, got a stream; Enum/},
          {&Python.execute_module("dspy.Predict", %{inputs: &1, outputs: "b"}, "Why?"),
           ~r/^expected a .* at signature.inputs, got a stream; Enum/},
          {&Python.call(:ping, &1),
           ~r/^expected a list of arguments, .*; Enum.to_list\/1 makes a list of it$/}
        ] do
      assert {:error, %Error{message: said, path: place}} = call.(stream)
      assert said =~ message, said
      assert said =~ place
    end

    assert {:error, %Error{message: said}} = ask.(:lm, Stream.map([:embedded], & &1))
    assert said == "expected a map or a list at opts.lm, got a stream" <> to_list

    # Where it is a value of a field, it stays one.
    set = MapSet.new(["a"])

    assert {:ok, _prediction} =
             Python.execute_module("dspy.Predict", "q: set[str] -> answer", %{q: set})

    for {{:error, %Error{message: said}}, place} <- [
          {lists.(set), "expected a list at inputs.q, got MapSet.new([\"a\"])"},
          {lists.(1..3), "expected a list at inputs.q, got 1..3"},
          {Python.create_program(%{signature: qa, modules: set}), "got %MapSet{}"},
          {ask.(:demos, set), "expected a list of maps at opts.demos, got %MapSet{}"}
        ] do
      assert String.ends_with?(said, place <> to_list)
    end

    for write <- [&DSPex.Trace.write_html/2, &DSPex.Trace.write_json/2],
        traces <- [Stream.map([1], & &1), MapSet.new([1])] do
      error = assert_raise ArgumentError, fn -> write.(traces, path) end
      assert String.ends_with?(error.message, inspect(traces, limit: 5) <> to_list)
    end
  end

  test "a function of two arguments that is a function is no stream" do
    program = Python.create_program!(signature: "question -> answer")
    metric = fn _example, _prediction -> 1 end
    example = [%{question: "Why?", answer: "So."}]

    assert {:error, %Error{message: message}} =
             Python.compile_program(program, example,
               optimizer: "dspy.BootstrapFewShot",
               metric: %{function: metric, desc: 5}
             )

    refute message =~ "stream"
  end

  test "a struct whose fields are the inputs is taken as it is" do
    assert {:ok, _prediction} =
             Python.execute_module("dspy.Predict", "question, about -> answer", %Ticket{
               question: "Why?",
               about: "rain"
             })
  end

  test "leaves other results as they are" do
    assert StructHints.explain({:ok, 1}, %URI{}) == {:ok, 1}
    timeout = {:error, Error.timeout(5, "model", "slow")}
    assert StructHints.explain(timeout, %URI{}) == timeout
    assert StructHints.explain_at(error("inputs.x"), "no list", 0) == error("inputs.x")
  end

  defp error(path), do: {:error, Error.new(:input, "no", %{"path" => path})}
end
