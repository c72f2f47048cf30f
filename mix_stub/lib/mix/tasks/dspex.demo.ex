defmodule Mix.Tasks.Dspex.Demo do
  @shortdoc "Shows Elixir asking DSPy questions about real text"

  @moduledoc """
  Shows Elixir asking DSPy questions about real text, with the pool `:general` of the configuration.

      mix dspex.demo

  Each line of code that is shown is run, and its result is printed below it.
  """

  use Mix.Task

  alias DSPex.LLM.{Adapter, Adapters}
  alias DSPex.{Prediction, Program, Python}
  alias DSPex.Python.Error

  @width 110

  @impl Mix.Task
  def run(_arguments) do
    Mix.Task.run("app.start")
    introduce()

    steps = [
      &predict/0,
      &chain_of_thought/0,
      &react/0,
      &program_of_thought/0,
      &program/0,
      &mistake/0
    ]

    failed = steps |> Enum.map(& &1.()) |> Enum.count(&(&1 == :failed))

    if failed > 0,
      do: Mix.raise("#{failed} of #{length(steps)} steps did not give what they should")

    conclude()
  end

  defp introduce do
    case Python.ping(nil, timeout: 60_000) do
      {:ok, pong} ->
        print(
          "DSPy #{pong["dspy"]} on Python #{pong["python"]}, asked from Elixir #{System.version()} over a port"
        )

        print("model #{pong["model"]["model"]}: #{pong["model"]["description"]}")

      {:error, error} ->
        Mix.raise(error.message)
    end
  end

  defp predict do
    title("dspy.Predict: answers in types", """
    DSPex.Python.execute_module("dspy.Predict", "context, question -> answer, year: int", inputs)
    """)

    inputs = %{
      context: text("photosynthesis"),
      question: "Who showed that plants need light to produce oxygen?"
    }

    "dspy.Predict"
    |> Python.execute_module("context, question -> answer, year: int", inputs)
    |> show(inputs.question)
  end

  defp chain_of_thought do
    title("dspy.ChainOfThought, through the adapter: with its reasoning", """
    DSPex.LLM.Adapter.generate(adapter, inputs, module: "dspy.ChainOfThought", signature: "context, question -> answer")
    """)

    inputs = %{
      context: text("machine_learning"),
      question: "Why is some of the data set aside for testing?"
    }

    %Adapters.Python{pool: :general}
    |> Adapter.generate(inputs,
      module: "dspy.ChainOfThought",
      signature: "context, question -> answer"
    )
    |> show(inputs.question)
  end

  defp react do
    title("dspy.ReAct: calls a tool that Python offers", """
    DSPex.Python.execute_module("dspy.ReAct", "question -> answer", question, tools: ["calculator"])
    """)

    question = "What is 264 * 6 + 12?"

    "dspy.ReAct"
    |> Python.execute_module("question -> answer", question, tools: ["calculator"])
    |> show(question)
  end

  defp program_of_thought do
    title(
      "dspy.ProgramOfThought: writes Python code and runs it in a sandbox (which starts now)",
      """
      DSPex.Python.execute_module("dspy.ProgramOfThought", "question -> answer", question, timeout: 120_000)
      """
    )

    question = "What is 17 * 23 - 4?"

    "dspy.ProgramOfThought"
    |> Python.execute_module("question -> answer", question, timeout: 120_000)
    |> show(question)
  end

  defp program do
    title("A program of two modules in a session, executed twice", """
    {:ok, program} = DSPex.Python.create_program(signature: "context, question -> answer",
      modules: ["dspy.ChainOfThought", "dspy.Predict"])
    DSPex.Python.execute_program(program, inputs)
    """)

    modules = ["dspy.ChainOfThought", "dspy.Predict"]

    with {:ok, %Program{} = program} <-
           Python.create_program(signature: "context, question -> answer", modules: modules) do
      print("program #{program.id} in session #{program.session_id}")

      outcomes =
        for question <- [
              "Where do plants take in carbon dioxide?",
              "Who received the Nobel Prize in 1961?"
            ] do
          program
          |> Python.execute_program(%{context: text("photosynthesis"), question: question})
          |> show(question)
        end

      {:ok, _closed} = Python.close_session(program.session_id)
      if :failed in outcomes, do: :failed, else: :ok
    else
      {:error, error} -> show({:error, error}, "create_program")
    end
  end

  defp mistake do
    title("A mistake is an answer", """
    DSPex.Python.execute_module("dspy.Predcit", "question -> answer", "Why?")
    """)

    case Python.execute_module("dspy.Predcit", "question -> answer", "Why?") do
      {:error, %Error{kind: :module_not_found} = error} ->
        print("error   #{inspect(error.kind)}: #{error.message}")

      unexpected ->
        show(unexpected, "Why?")
        :failed
    end
  end

  defp conclude do
    print("""

    The embedded model finds its answers in the text that it is given; it knows nothing and writes nothing of its own.
    To ask a real one, write into config/dev.exs, in the pool :general, in place of model: :embedded

        model: {:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}

    or for a model on this machine

        model: {:ollama, model: "llama3.2", api_base: "http://localhost:11434"}
    """)
  end

  defp show({:ok, %Prediction{} = prediction}, question) do
    print("asked   #{question}")

    for name <- prediction.names,
        name != "trajectory",
        do: print("#{name}: #{short(prediction[name])}")

    print("took    #{round(prediction.duration_ms)} ms")
  end

  defp show({:error, reason}, question) do
    message = if is_exception(reason), do: Exception.message(reason), else: inspect(reason)
    print("asked   #{question}\nerror   #{message}")
    :failed
  end

  defp title(text, code),
    do: print("\n== #{text}\n" <> String.replace(String.trim_trailing(code), ~r/^/m, "   "))

  defp short(value) do
    text = if is_binary(value), do: value, else: inspect(value)
    line = text |> String.split() |> Enum.join(" ")
    if String.length(line) > @width, do: String.slice(line, 0, @width) <> "…", else: line
  end

  defp text(name), do: File.read!(Path.join([:code.priv_dir(:dspex), "demo", name <> ".txt"]))

  defp print(text), do: Mix.shell().info(text)
end
