# Learning from examples: a program's own right answers become demos in its prompt. The learned program is written to a file.
Code.require_file("support.exs", __DIR__)

trainset =
  for {text, label} <- [
        {"My card was charged twice.", "billing"},
        {"The app closes when I open a photo.", "bug"},
        {"Can I pay by invoice?", "billing"},
        {"Dark mode would be nice.", "wish"}
      ],
      do: %{text: text, label: label}

# Without DSPEX_MODEL: knows some of the labels, and the others only once the prompt shows demos.
model =
  Examples.model(fn request ->
    asked = request |> Examples.text() |> String.split("[[ ## text ## ]]")
    is_shown = length(asked) > 3

    label =
      cond do
        List.last(asked) =~ "charged" -> "billing"
        List.last(asked) =~ "closes" -> "bug"
        List.last(asked) =~ "refund" and is_shown -> "billing"
        true -> "wish"
      end

    Examples.written(label: label)
  end)

signature = %{inputs: %{text: :string}, outputs: %{label: {:enum, ["billing", "bug", "wish"]}}}
{:ok, program} = DSPex.Python.create_program(%{signature: signature})

{:ok, taught} =
  DSPex.Python.compile_program(program, trainset,
    optimizer: "dspy.BootstrapFewShot",
    max_labeled_demos: 0,
    metric: "exact_match",
    lm: model
  )

demos = taught.compiled.demos |> Map.values() |> Enum.sum()

IO.puts(
  "Version #{taught.version} has #{demos} demos, from #{taught.compiled.metric_calls} answers"
)

{:ok, json} = DSPex.Python.dump_program(taught)
path = Path.join(System.tmp_dir!(), "triage-#{System.pid()}.json")
File.write!(path, json)
{:ok, loaded} = DSPex.Python.load_program(File.read!(path))
File.rm!(path)

for {name, asked} <- [before: program, loaded: loaded] do
  {:ok, prediction} = DSPex.Python.execute_program(asked, %{text: "I want a refund."}, lm: model)

  IO.puts("#{name}: #{prediction[:label]}")
end

for session <- [program.session_id, loaded.session_id],
    do: {:ok, _closed} = DSPex.Python.close_session(session)
