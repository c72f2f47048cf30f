defmodule Mix.Tasks.Dspex.DemoTest do
  # The test captures what Mix prints.
  use ExUnit.Case, async: false

  test "asks every kind of question and prints the answers" do
    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(Mix.Shell.IO) end)
    Mix.Tasks.Dspex.Demo.run([])
    printed = printed("")

    for part <- [
          "year: 1779",
          "answer: For this reason some of the data is set aside",
          "1596",
          "387",
          "Melvin Calvin",
          ~s|did you mean "dspy.Predict"?|,
          "OPENAI_API_KEY"
        ] do
      assert printed =~ part
    end

    refute printed =~ "error   expected"
  end

  defp printed(text) do
    receive do
      {:mix_shell, :info, [line]} -> printed(text <> line <> "\n")
    after
      0 -> text
    end
  end
end
