defmodule DSPex.Python.Call.HistoryTextTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureIO
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Call.HistoryText

  @qa "question -> answer"
  # As long as no number of a process, a reference or a time in the log of another test.
  @number "4711081500420713"
  @secret "my number is #{@number}"

  @doc false
  def without_numbers(%{"messages" => messages, "reply" => reply}) do
    clean = &String.replace(&1, ~r/\d+/, "#")

    %{
      "messages" =>
        for(message <- messages, do: %{message | "content" => clean.(message["content"])}),
      "reply" => reply && Enum.map(reply, clean)
    }
  end

  @doc false
  def failing(_texts), do: raise("this function cannot")

  @doc false
  def wrong(_texts), do: :nothing

  @doc false
  def quoting(texts), do: raise("cannot redact #{inspect(texts)}")

  @doc false
  def unmatched(%{"nothing" => nothing}), do: nothing

  defp ask(pool, question, options \\ []) do
    lm = {:elixir, fn _request -> "[[ ## answer ## ]]\nyes 42\n\n[[ ## completed ## ]]" end}
    Python.execute_module("dspy.Predict", @qa, question, [pool: pool, lm: lm] ++ options)
  end

  test "what shows things of several callers refuses an option that may say whose" do
    for call <- [
          &Python.history/1,
          &Python.inspect_history/1,
          &Python.list_programs(nil, &1),
          &Python.list_sessions/1,
          &Python.list_budgets/1,
          &Python.reset_budget(:tenant, "acme", &1),
          &Python.metrics/1,
          &Python.reset_metrics/1,
          &Python.running_calls/1,
          &Python.list_conversations("p", &1),
          &Python.delete_conversation("p", "user-42", &1)
        ] do
      assert {:error, %{kind: :input, path: "opts.request"} = error} = call.(request: "x")
      assert error.message =~ "unknown option :request at opts"
    end

    assert {:error, error} = Python.history(session: "x")
    assert error.message =~ "(did you mean :session_id?)"
  end

  test "the history of several workers is one, by time" do
    pool = start_pool!(size: 2, standby: 0, history: :full)
    assert Python.await_pools([pool]) == :ok

    workers =
      for number <- 1..6 do
        {:ok, prediction} = ask(pool, "Q#{number}", request_id: "r-#{number}")
        prediction.meta["worker"]
      end

    {:ok, requests} = Python.history(pool: pool)
    assert Enum.map(requests, & &1["request_id"]) == for(number <- 1..6, do: "r-#{number}")
    assert length(requests) == length(workers)

    assert {:ok, [%{"request_id" => "r-5"}, %{"request_id" => "r-6"}]} =
             Python.history(pool: pool, n: 2)

    assert {:ok, [%{"request_id" => "r-3"} = request]} =
             Python.history(pool: pool, request_id: "r-3")

    assert [%{"role" => "system"}, %{"role" => "user", "content" => content}] =
             request["messages"]

    assert content =~ "Q3"
    assert hd(request["reply"]) =~ "yes 42"

    shown = capture_io(fn -> assert Python.inspect_history(pool: pool) == :ok end)
    assert shown =~ "System message:"
    assert shown =~ "User message:"
    assert shown =~ "Q6"
    refute shown =~ "Q5"
    assert shown =~ "Response:"
    assert shown =~ "yes 42"
  end

  test "texts are redacted by a function before they are kept" do
    pool = start_pool!(history: :full, redact: {__MODULE__, :without_numbers})
    {:ok, prediction} = ask(pool, @secret)
    # The caller has the answer as it was.
    assert prediction[:answer] == "yes 42"
    {:ok, [request]} = Python.history(pool: pool)
    assert List.last(request["messages"])["content"] =~ "my number is #"
    assert hd(request["reply"]) =~ "yes #"
    refute inspect(request, limit: :infinity, printable_limit: :infinity) =~ @number
  end

  test "no text is kept if that function fails" do
    for function <- [:failing, :wrong, :quoting, :unmatched] do
      pool = start_pool!(history: :full, redact: {__MODULE__, function})
      log = capture_log(fn -> assert {:ok, _prediction} = ask(pool, @secret) end)
      refute log =~ @number
      {:ok, [request]} = Python.history(pool: pool)
      assert {request["messages"], request["reply"], request["attempts"]} == {nil, nil, 1}
    end
  end

  test "errors of a pool that redacts quote nothing in its traces, whatever its history" do
    unreadable = fn _request -> {:ok, "number #{@number}"} end

    for history <- [:full, :metadata, false], trace <- [true, :metadata] do
      pool = start_pool!(history: history, redact: {__MODULE__, :without_numbers})
      options = [pool: pool, trace: trace, lm: {:elixir, unreadable}]
      signature = "question -> answer: int"

      {:error, %{kind: :parse} = error} =
        Python.execute_module("dspy.Predict", signature, "Why?", options)

      texts = for %{"error" => %{"message" => text}} <- error.trace.spans, do: text
      assert Enum.uniq(texts) == ["[redacted]"]
      assert {:ok, requests} = Python.history(pool: pool)
      refute inspect(requests) =~ @number
    end
  end

  test "the log of a model function of such a pool quotes nothing" do
    failing = {:elixir, function: fn %{"no such key" => _none} -> "never" end}
    redact = {__MODULE__, :without_numbers}
    pool = start_pool!(redact: redact, model: failing)
    question = [pool: pool, request_id: "quiet"]

    log =
      capture_log(fn ->
        assert {:error, _error} = Python.execute_module("dspy.Predict", @qa, @secret, question)

        {:ok, _model} =
          Python.configure_lm(:elixir, [function: elem(failing, 1)[:function]], pool: pool)

        assert {:error, _error} = Python.execute_module("dspy.Predict", @qa, @secret, question)
      end)

    assert log =~ "** (FunctionClauseError) [redacted]"
    refute log =~ @number
  end

  test "a pool may keep nothing" do
    pool = start_pool!(history: false)
    {:ok, _prediction} = ask(pool, @secret)
    assert Python.history(pool: pool) == {:ok, []}
  end

  test "requests without texts, with errors, parts and calls are written" do
    request = %{
      "at_ms" => 1_767_323_045_678.9,
      "duration_ms" => 12.4,
      "model" => "openai/gpt-4o-mini",
      "cache_hit" => false,
      "attempts" => 3,
      "usage" => %{"total_tokens" => 12},
      "cost" => 2.1e-5,
      "request_id" => "r-1",
      "error" => %{"kind" => "server", "message" => "down"},
      "messages" => nil,
      "reply" => nil
    }

    text = [request] |> HistoryText.write(false) |> IO.iodata_to_binary()

    assert text =~
             "[2026-01-02T03:04:05.679Z] openai/gpt-4o-mini, 12 ms, 12 tokens, $0.000021, 3 attempts, request_id r-1"

    assert text =~ "history: :full"
    assert text =~ "Error:\nserver: down"

    parts = [%{"type" => "text", "text" => "see"}, %{"type" => "image_url", "characters" => 7}]
    reply = %{"text" => "so", "tool_calls" => [%{"name" => "f", "arguments" => "{}"}]}

    full = %{
      request
      | "messages" => [%{"role" => "user", "content" => parts}],
        "reply" => [reply]
    }

    text = [full] |> HistoryText.write(true) |> IO.iodata_to_binary()
    assert text =~ "see\n<image_url, 7 characters>"
    assert text =~ "\e[31mTool calls:\e[0m"
    assert text =~ "f: {}"
  end
end
