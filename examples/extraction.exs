# Information extraction: the types of the answer are written in Elixir, and enforced.
Code.require_file("support.exs", __DIR__)

signature = %{
  inputs: %{text: :string},
  outputs: %{
    title: {:string, max_length: 60},
    headings: {:list, :string},
    people: {:list, %{name: :string, role: {:optional, :string}}}
  },
  instructions: "Extract structured information from the text."
}

text =
  "Release notes. Ada Lovelace, who leads the team, and Alan Turing write about the new codec."

model =
  Examples.model([
    %{
      title: "Release notes",
      headings: ["Release notes"],
      people: [%{name: "Ada Lovelace", role: "leads the team"}, %{name: "Alan Turing", role: nil}]
    }
  ])

{:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", signature, text, lm: model)

IO.puts("Title: #{prediction[:title]}")

for %{"name" => name, "role" => role} <- prediction[:people] do
  IO.puts("#{name}: #{role || "-"}")
end
