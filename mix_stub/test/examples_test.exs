defmodule DSPex.ExamplesTest do
  # Each example of ../examples runs unchanged, with the answers that are written in it.
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  @folder Path.expand("../../examples", __DIR__)

  # The expected output of each example, or a part of it.
  @said %{
    "question_answering" => ["Reasoning: Two dice", "Answer: 1/36"],
    "rag" => ["exchanges bytes with it", "Response: Bytes."],
    "agent" => ["50 are on their way", "Observed: ordered 50 nuts"],
    "extraction" => ["Title: Release notes", "Ada Lovelace: leads the team", "Alan Turing: -"],
    "classification" => ["positive (0.95)"],
    "maths_with_code" => ["Answer: 233168"],
    "conversation" => ["My name is Ada. Hello!", "What is my name? Ada"],
    "streaming" => ["An old silent pond", "(72 characters)"],
    "best_of_n" => ["Best: Brussels"],
    "batch" => ["port: 4\nterm: 4\natom: 4\nbinary: 6"],
    "pipeline" => ["Sections: What a port is, What it costs", "Article: A port starts"],
    "evaluation" => ["66.7 % of 3 are right"],
    "few_shot" => ["Version 2 has 3 demos, from 4 answers", "before: wish\nloaded: billing"],
    "image" => ["A single black pixel.", "Colours: black", "Refused: expected the bytes"],
    "instructions" => ["Candidate 1: 0.0", "Instructions: Add up, and give", "Score: 100.0"],
    "reflection" => ["Instructions: Name the country", "Score: 20.0, then 100.0"]
  }

  test "every example has its expected output here, and is in the table" do
    names = for path <- Path.wildcard("#{@folder}/*.exs"), do: Path.basename(path, ".exs")
    assert Enum.sort(names -- ["support"]) == Enum.sort(Map.keys(@said))
    table = File.read!(Path.join(@folder, "README.md"))
    for name <- Map.keys(@said), do: assert(table =~ "(#{name}.exs)")
  end

  for {name, words} <- @said do
    test "#{name} prints the expected output" do
      said = capture_io(fn -> Code.eval_file(Path.join(@folder, "#{unquote(name)}.exs")) end)
      for words <- unquote(words), do: assert(said =~ words)
    end
  end
end
