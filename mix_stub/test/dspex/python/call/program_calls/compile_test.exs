defmodule DSPex.Python.Call.ProgramCalls.CompileTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{Program, Python}
  alias DSPex.Python.{Callbacks, Error, ScriptedModel}

  @examples for(n <- 1..6, do: %{question: "question #{n}", answer: "answer #{n}"})

  setup do
    {:ok, program} = Python.create_program("question -> answer")
    {:ok, program: program}
  end

  # Answers correctly if its instructions have the words "with care". Asked for instructions, it returns such instructions.
  defp model(test \\ nil) do
    {:elixir,
     fn request ->
       text = ScriptedModel.text(request)
       if test, do: send(test, {:asked, text})

       cond do
         text =~ "proposed_instruction" ->
           ScriptedModel.written(
             proposed_instruction: "Answer with care.",
             proposed_prefix_for_output_field: "Answer:"
           )

         text =~ "new_instruction" ->
           # GEPA has its own form of prompts.
           ~s|{"new_instruction": "Answer with care."}|

         text =~ "with care" ->
           ScriptedModel.written(answer: right(text))

         true ->
           ScriptedModel.written(answer: "none")
       end
     end}
  end

  defp right(text) do
    [number] =
      Regex.run(~r/question (\d+)/, text |> String.split("[[ ## question ## ]]") |> List.last(),
        capture: :all_but_first
      )

    "answer #{number}"
  end

  defp score(program) do
    {:ok, evaluation} = Python.evaluate_program(program, @examples, "exact_match", lm: model())
    evaluation.score
  end

  test "returns a better version, and keeps the old one", %{program: program} do
    assert {:ok, %Program{} = better} =
             Python.compile_program(program, @examples,
               optimizer: "dspy.COPRO",
               breadth: 2,
               depth: 1,
               metric: :exact_match,
               lm: model()
             )

    assert {better.id, better.version, better.session_id} == {program.id, 2, program.session_id}
    assert %{optimizer: "dspy.COPRO", score: 100.0, failures: 0} = better.compiled
    assert better.compiled.metric_calls == 12
    assert {score(program), score(better)} == {0.0, 100.0}
    # An id stands for the newest version.
    assert {score(program.id), program.compiled} == {100.0, nil}

    assert {:ok, prediction} =
             Python.execute_program(program.id, "question 1", lm: model(), version: 1)

    assert prediction[:answer] == "none"

    assert {:error, %Error{kind: :program_not_found} = error} =
             Python.execute_program(program.id, "x", version: 3)

    assert error.message =~ "has no version 3; it has 1, 2"
  end

  test "an optimizer that reflects reads the feedback of an Elixir metric", %{program: program} do
    metric = fn %{"answer" => answer}, prediction ->
      %{score: prediction[:answer] == answer, feedback: "it should be #{answer}"}
    end

    assert {:ok, better} =
             Python.compile_program(program, @examples,
               optimizer: "dspy.GEPA",
               max_metric_calls: 30,
               metric: metric,
               lm: model(self())
             )

    assert_received {:asked, "Your input fields are:\n1. `current_instruction`" <> reflection}
    assert reflection =~ "it should be answer"
    assert {better.compiled.score, score(better), better.compiled.warnings} == {100.0, 100.0, []}
  end

  test "reports that the answer of the reflecting model cannot be parsed", %{program: program} do
    mute = {:elixir, fn _request -> "what?" end}
    options = [optimizer: "dspy.GEPA", max_metric_calls: 12, metric: :exact_match]
    options = [lm: model(), reflection_lm: mute] ++ options
    assert {:ok, same} = Python.compile_program(program, @examples, options)
    assert %{score: score, warnings: [warning]} = same.compiled
    assert score == 0
    assert warning =~ "some calls failed, at last: "
  end

  test "learns demos from the program's own correct answers", %{program: program} do
    model =
      {:elixir,
       fn request -> ScriptedModel.written(answer: right(ScriptedModel.text(request))) end}

    assert {:ok, better} =
             Python.compile_program(program, @examples,
               optimizer: "dspy.BootstrapFewShot",
               max_labeled_demos: 0,
               max_bootstrapped_demos: 2,
               metric: "exact_match",
               lm: model
             )

    assert %{"modules[0]" => 2} = better.compiled.demos
    test = self()
    {:ok, _prediction} = Python.execute_program(better, "question 6", lm: model(test))
    assert_received {:asked, text}
    assert text =~ "question 1" and text =~ "answer 2"
  end

  test "emits each score and candidate while it runs", %{program: program} do
    options = [optimizer: "dspy.COPRO", breadth: 2, depth: 1, metric: :exact_match, lm: model()]
    elements = program |> Python.stream_compile(@examples, options) |> Enum.to_list()

    assert [{:scored, %{metric_calls: 1, score: first, failures: 0, best_score: nil}} | _rest] =
             elements

    assert first in [0.0, 1.0]
    assert [1, 2] = for({:candidate, %{number: number}} <- elements, do: number)
    assert {:program, %Program{version: 2}} = List.last(elements)

    assert ExUnit.CaptureIO.capture_io(:stderr, fn ->
             {:ok, _better} =
               Python.compile_program(program, @examples, [progress: true] ++ options)
           end) =~ ~r/12 scored, best score .*compiled: version 3, best score 100.0/s

    test = self()

    {:ok, _better} =
      Python.compile_program(program, @examples, [progress: &send(test, &1)] ++ options)

    assert_received {:candidate, %{best_score: 100.0}}
    assert_received {:program, %Program{version: 4}}
  end

  test "prints and logs nothing", %{program: program} do
    log =
      capture_log(fn ->
        for {optimizer, options} <- [
              {"dspy.BootstrapFewShot", []},
              {"dspy.BootstrapFewShotWithRandomSearch", [num_candidate_programs: 1]},
              {"dspy.GEPA", [max_metric_calls: 10]},
              {"dspy.InferRules", [num_candidates: 1]}
            ] do
          options =
            [optimizer: optimizer, metric: :exact_match, max_errors: 1_000, lm: model()] ++
              options

          Python.compile_program(program, @examples, options)
        end

        # Failing examples and their data are not logged either.
        for optimizer <- ["dspy.GEPA", "dspy.BootstrapFewShot", "dspy.COPRO"] do
          metric = fn _example, _prediction -> :good end
          options = [optimizer: optimizer, metric: metric, lm: model()]
          assert {:error, %Error{}} = Python.compile_program(program, @examples, options)
        end

        # All log entries have come when a later one has come.
        Process.sleep(200)
      end)

    # Other tests may log at the same time.
    refute log =~ ~r/question \d|Error for Example|Bootstrapped|Average Metric|Running GEPA/
  end

  test "ends with its reader, and ends all that it runs", %{program: program} do
    test = self()

    slow =
      {:elixir,
       fn _request ->
         send(test, {:asked, self()})
         Process.sleep(:infinity)
       end}

    options = [optimizer: "dspy.BootstrapFewShot", metric: :exact_match, lm: slow]
    reader = spawn(fn -> program |> Python.stream_compile(@examples, options) |> Stream.run() end)
    assert_receive {:asked, model}, 10_000
    monitor = Process.monitor(model)
    Process.exit(reader, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^model, _reason}, 10_000

    assert {:error, %Error{kind: :timeout} = error} =
             Python.compile_program(program, @examples, [timeout: 3_000] ++ options)

    # The second one is said if Python is late itself, on a busy machine.
    assert error.message =~ "not compiled within 3000 ms; 0 answers were scored" or
             error.message =~ "no answer within 3000 ms: python has not answered"

    request = "compile-#{System.unique_integer([:positive])}"

    task =
      Task.async(fn ->
        Python.compile_program(program, @examples, [request_id: request] ++ options)
      end)

    eventually(fn -> match?({:ok, 1}, Python.cancel(request)) end)
    assert {:error, %Error{kind: :cancelled}} = Task.await(task, 30_000)
    {:ok, [%{"version" => 1}]} = Python.list_programs(program.session_id)
    assert Callbacks.count().running >= 0
  end

  test "scores that are not from 0 to 1 are a warning", %{program: program} do
    options = [optimizer: "dspy.BootstrapFewShot", lm: model(), max_labeled_demos: 0]
    metric = fn _example, _prediction -> 7 end
    {:ok, better} = Python.compile_program(program, @examples, [metric: metric] ++ options)
    assert [warning] = better.compiled.warnings
    count = better.compiled.metric_calls
    assert warning =~ "#{count} of #{count} scores of the metric are not from 0 to 1"
  end

  test "returns the error that occurs too often", %{program: program} do
    options = [optimizer: "dspy.BootstrapFewShotWithRandomSearch", metric: :exact_match]
    dead = {:elixir, fn _request -> {:error, {:auth, "no such key"}} end}

    assert {:error, %Error{kind: :auth}} =
             Python.compile_program(program, @examples, [lm: dead, max_errors: 3] ++ options)

    metric = fn _example, _prediction -> raise "cannot say" end
    options = [optimizer: "dspy.BootstrapFewShot", metric: metric, lm: model()]

    assert {:error, %Error{kind: :tool} = error} =
             Python.compile_program(program, @examples, options)

    assert error.message =~ "cannot say"
  end

  test "wrong arguments are named, and cost no call of the model", %{program: program} do
    never = {:elixir, fn _request -> raise "asked" end}

    for {trainset, options, kind, part} <- [
          {@examples, [], :input, "expected the name of an optimizer at opts.optimizer"},
          {@examples, [optimizer: "dspy.MIPRO"], :module_not_found,
           ~s|did you mean "dspy.MIPROv2"|},
          {@examples, [optimizer: "dspy.COPRO"], :input, "at opts.metric"},
          {@examples, [optimizer: "dspy.COPRO", metric: "f2"], :input, ~s|unknown metric "f2"|},
          {@examples, [optimizer: "dspy.COPRO", metric: "f1", breath: 3], :input,
           ~s|did you mean "breadth"|},
          {@examples, [optimizer: "dspy.COPRO", metric: "f1", breadth: 1], :input, "from 2 to"},
          {@examples, [optimizer: "dspy.COPRO", metric: "f1", valset: @examples], :input,
           "takes no valset"},
          {@examples, [optimizer: "dspy.GEPA", metric: "f1", auto: "light", max_metric_calls: 5],
           :input, "got auto and max_metric_calls"},
          {@examples, [optimizer: "dspy.GEPA", metric: "f1", num_threads: 0], :input,
           "opts.num_threads"},
          {[], [optimizer: "dspy.COPRO", metric: "f1"], :input, "at least 1 example at trainset"},
          {[%{question: "q"}, "text"], [optimizer: "dspy.COPRO", metric: "f1"], :input,
           "at trainset[1]"},
          {[%{qestion: "q"}], [optimizer: "dspy.COPRO", metric: "f1"], :input,
           "missing at trainset[0]: question"},
          {[hd(@examples)], [optimizer: "dspy.MIPROv2", metric: "f1"], :input,
           "at least 2 examples at trainset"}
        ] do
      assert {:error, %Error{} = error} =
               Python.compile_program(program, trainset, [lm: never] ++ options)

      assert {error.kind, error.message =~ part} == {kind, true}, error.message
    end

    assert_raise ArgumentError, ~r/expected :progress/, fn ->
      Python.compile_program(program, @examples, optimizer: "dspy.LabeledFewShot", progress: 1)
    end

    assert {:error, %Error{kind: :program_not_found}} =
             Python.compile_program("none", @examples, optimizer: "dspy.LabeledFewShot")
  end

  test "every optimizer is described", %{program: _program} do
    {:ok, names} = Python.list_optimizers()
    assert "dspy.MIPROv2" in names

    for name <- names do
      assert {:ok, %{"name" => ^name, "summary" => summary, "options" => options}} =
               Python.describe_optimizer(name)

      assert String.ends_with?(summary, ".")

      for {_option, described} <- options,
          do: assert(%{"type" => _, "default" => _, "description" => _} = described)
    end
  end

  test "a compiled program can be stored and loaded", %{program: program} do
    options = [optimizer: "dspy.LabeledFewShot", k: 2, sample: false]
    {:ok, better} = Python.compile_program(program, @examples, options)
    {:ok, json} = Python.dump_program(better)
    {:ok, again} = Python.load_program(json)
    assert again.compiled.optimizer == "dspy.LabeledFewShot"
    {:ok, _prediction} = Python.execute_program(again, "question 6", lm: model(self()))
    assert_received {:asked, text}
    assert text =~ "question 1" and text =~ "answer 2"
    # Dumping gives the same text again; the first version has not learned anything.
    assert Python.dump_program(again) == {:ok, json}
    {:ok, first} = Python.dump_program(program)
    refute first =~ "question 1"
    # A program can be loaded with its own model, into a session.
    {:ok, placed} = Python.load_program(json, session_id: program.session_id, lm: {:embedded, []})
    assert placed.session_id == program.session_id
    {:ok, prediction} = Python.execute_program(placed, "question 6")
    assert prediction.model =~ "embedded"
  end

  test "a program learns from the nearest examples at each call" do
    test = self()

    model = fn request ->
      send(test, {:asked, ScriptedModel.text(request)})
      ScriptedModel.written(answer: "4")
    end

    # Questions about cities are near to each other, and so are questions about sums.
    embedder = fn texts ->
      send(test, {:embedded, texts})
      for text <- texts, do: if(text =~ "Capital", do: [1.0, 0.0], else: [0, 1])
    end

    {:ok, program} = Python.create_program("question -> answer")

    trainset = [
      %{question: "Capital of France?", answer: "Paris"},
      %{question: "2 + 2", answer: "4"}
    ]

    options = [optimizer: "dspy.KNNFewShot", k: 1, embedder: embedder]
    assert {:ok, nearest} = Python.compile_program(program, trainset, options)
    assert nearest.compiled.optimizer == "dspy.KNNFewShot"
    assert_received {:embedded, ["question: Capital of France?", "question: 2 + 2"]}

    call = [lm: {:elixir, model}, embedder: embedder]
    assert {:ok, prediction} = Python.execute_program(nearest, "3 + 1", call)
    assert prediction[:answer] == "4"
    assert_received {:embedded, ["question: 3 + 1"]}
    assert_received {:asked, _of_the_example}
    assert_received {:asked, prompt}
    assert prompt =~ "2 + 2"
    refute prompt =~ "Capital"

    assert {:error, error} = Python.execute_program(nearest, "3 + 1", lm: {:elixir, model})
    assert {error.kind, error.path} == {:input, "opts.embedder"}

    broken = [lm: {:elixir, model}, embedder: fn _texts -> raise "no vectors today" end]
    assert {:error, error} = Python.execute_program(nearest, "3 + 1", broken)
    assert error.message =~ "no vectors today"

    metric = fn _example, _prediction -> true end

    assert {:error, error} =
             Python.compile_program(program, trainset, [{:metric, metric} | options])

    assert error.path == "opts.metric"
  end
end
