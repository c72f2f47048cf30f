defmodule DSPex.Python.Port.LogTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  # Shows the log of failing tests only.
  @moduletag :capture_log

  alias DSPex.Python
  alias DSPex.Python.Port.Log

  # A handler of Erlang's logger that sends the log entries of a test's pool to the test.
  @doc false
  def log(%{meta: %{pool: pool}} = event, %{config: {test, pool}}),
    do: send(test, {:logged, event})

  def log(_of_another_pool, _config), do: :ok

  setup do
    pool = :"pool_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(pool, __MODULE__, %{config: {self(), pool}})
    on_exit(fn -> :logger.remove_handler(pool) end)
    {:ok, pool: pool}
  end

  describe "a log entry, a warning or a printed line of Python" do
    @tag :tmp_dir
    test "arrives with its level, its logger and its pool", %{pool: pool, tmp_dir: folder} do
      start_with_module(pool, folder, """
      import logging, sys, warnings
      logging.getLogger("app.orders").warning("order %s is late", 17)
      logging.getLogger("app").critical("ünd €")
      warnings.warn("this is odd")
      print("printed", 1)
      sys.stderr.write("told on stderr\\n")
      """)

      assert {:warning, "order 17 is late", %{python_logger: "app.orders"} = metadata} = logged()
      refute Map.has_key?(metadata, :request_id)
      assert {:critical, "ünd €", %{python_logger: "app"}} = logged()
      assert {:warning, warning, %{python_logger: "py.warnings"}} = logged()
      assert warning =~ "UserWarning: this is odd"
      assert {:info, "printed 1", %{python_logger: "stdout"}} = logged()
      assert {:info, "told on stderr", %{python_logger: "stderr"}} = logged()
    end

    @tag :tmp_dir
    test "has the metadata of the process that made the call", %{pool: pool, tmp_dir: folder} do
      start_pool!(
        name: pool,
        python_path: [tools(folder)],
        preload: ["logging_tools"],
        log_metadata: [:request_id, :tenant, :at]
      )

      at = ~U[2026-01-02 03:04:05.678Z]
      Logger.metadata(request_id: "web-1", tenant: {:acme, self()}, at: at, other: "x")
      expected = %{request_id: "web-1", tenant: {:acme, self()}, at: at}

      for call <- calls(pool), do: assert_logged(call, expected)
      # The id of the call itself goes first.
      {:ok, _prediction} = ask(pool, request_id: "r-7")
      assert_metadata(%{expected | request_id: "r-7"})
      # A task has no metadata of its caller's, and more than a log should hold is left out.
      Task.await(Task.async(fn -> ask(pool, []) end), 60_000)
      assert_metadata(%{})
      Logger.metadata(tenant: String.duplicate("x", 10_000))
      {:ok, _prediction} = ask(pool, [])
      assert_metadata(%{})
    end

    @tag :tmp_dir
    test "has the id of the request alone if the pool says no more", %{
      pool: pool,
      tmp_dir: folder
    } do
      start_pool!(name: pool, python_path: [tools(folder)], preload: ["logging_tools"])
      Logger.metadata(request_id: "web-1", tenant: "acme")
      {:ok, _prediction} = ask(pool, serialization_format: :json)
      assert_metadata(%{request_id: "web-1"})
    end

    # A tool that logs where it is called, and in a thread of its own.
    defp tools(folder) do
      File.write!(Path.join(folder, "logging_tools.py"), """
      import asyncio, logging
      from erlport_bridge.programs.tools import offer

      @offer
      async def look_up(article: str) -> str:
          \"\"\"Look up an article.\"\"\"
          await asyncio.to_thread(logging.getLogger("app").warning, "looked up")
          return "3"
      """)

      folder
    end

    @inputs %{question: ~s|How many pieces of the article "bolt" are in stock?|}

    defp ask(pool, options) do
      options = [pool: pool, tools: ["look_up"], max_iters: 1] ++ options
      Python.execute_module("dspy.ReAct", "question -> answer", @inputs, options)
    end

    defp calls(pool) do
      options = [pool: pool, tools: ["look_up"]]
      react = %{module: "dspy.ReAct", tools: ["look_up"]}
      spec = [signature: "question -> answer", modules: [react]]
      {:ok, program} = Python.create_program(spec, pool: pool)
      in_program = [pool: pool]
      module = {"dspy.ReAct", "question -> answer"}

      [
        fn -> ask(pool, []) end,
        fn -> Python.execute_batch(elem(module, 0), elem(module, 1), [@inputs], options) end,
        fn -> Enum.to_list(Python.stream(elem(module, 0), elem(module, 1), @inputs, options)) end,
        fn ->
          elem(module, 0)
          |> Python.stream_batch(elem(module, 1), [@inputs], options)
          |> Enum.to_list()
        end,
        fn -> Python.execute_program(program, @inputs, in_program) end,
        fn -> Enum.to_list(Python.stream_program(program, @inputs, in_program)) end
      ]
    end

    defp assert_logged(call, expected) do
      call.()
      assert_metadata(expected)
    end

    # Of all entries of a call.
    defp assert_metadata(expected) do
      assert {:warning, "looked up", metadata} = logged()
      assert Map.take(metadata, [:request_id, :tenant, :at, :other]) == expected
      flush()
    end

    defp flush do
      receive do
        {:logged, %{msg: {:string, "looked up"}}} -> flush()
      after
        200 -> :ok
      end
    end

    @tag :tmp_dir
    test "delays no call in a flood, and lost entries are counted", context do
      %{pool: pool, tmp_dir: folder} = context

      start_with_module(pool, folder, """
      for number in range(100_000):
          print("line", number)
      print("last")
      """)

      assert {:ok, _pong} = Python.ping(nil, pool: pool)
      {received, dropped} = count_until(100_001, 0, 0)
      assert received + dropped == 100_001
      assert dropped > 0
    end
  end

  describe "the process that writes to Logger" do
    test "takes only as many frames as it has room for, and logs how many it lost", %{pool: pool} do
      log = start_log(pool)
      :ok = :sys.suspend(log)
      for number <- 1..100, do: take(pool, [{:info, "stdout", nil, "entry #{number}"}])
      {:message_queue_len, waiting} = Process.info(log, :message_queue_len)
      assert waiting < 100
      :ok = :sys.resume(log)

      for number <- 1..waiting do
        text = "entry #{number}"
        assert {:info, ^text, _metadata} = logged_entry()
      end

      lost = 100 - waiting
      assert_received {:lost, ^lost}
      # The process has room again.
      take(pool, [{:info, "stdout", nil, "after it"}])
      assert {:info, "after it", _metadata} = logged()
    end

    test "logs the request's id, makes no atom, and survives wrong entries", %{pool: pool} do
      log = start_log(pool)
      unknown = "no_atom_of_this_name_#{System.unique_integer([:positive])}"

      for frame <- [
            "no term",
            :erlang.term_to_binary({:L, 0, :none}),
            # {:L, 0, an atom that does not exist}
            <<131, 104, 3, 119, 1, ?L, 97, 0, 119, byte_size(unknown), unknown::binary>>
          ] do
        Log.take(pool, frame)
        assert {:warning, "pool " <> _dropped, _metadata} = logged()
      end

      take(pool, [
        {:emerg, "app", nil, "x"},
        {:info, "app", nil, ~c"x"},
        {:error, "app", "r-1", "y", "no context"}
      ])

      assert {:warning, _first_is_no_entry, _metadata} = logged()
      assert {:warning, _second_is_none, _metadata} = logged()
      assert {:error, "y", %{python_logger: "app", request_id: "r-1"}} = logged()
      assert Process.alive?(log)
      assert_raise ArgumentError, fn -> String.to_existing_atom(unknown) end
    end
  end

  defp start_with_module(pool, folder, code) do
    File.write!(Path.join(folder, "speaking_module.py"), code)
    start_pool!(name: pool, python_path: [folder], preload: ["speaking_module"])
  end

  defp start_log(pool) do
    start_supervised!(%{id: Log, start: {Log, :start_link, [pool]}})
  end

  defp take(pool, entries) do
    Log.take(pool, :erlang.term_to_binary({:L, 0, entries}))
  end

  defp logged do
    assert_receive {:logged, %{level: level, msg: {:string, text}, meta: metadata}}, 30_000
    {level, IO.chardata_to_string(text), metadata}
  end

  # Returns the next entry of Python; keeps warnings about lost entries in the mailbox.
  defp logged_entry do
    case logged() do
      {:warning, text, _metadata} ->
        send(self(), {:lost, lost(text)})
        logged_entry()

      entry ->
        entry
    end
  end

  defp count_until(all, received, dropped) when received + dropped >= all, do: {received, dropped}

  defp count_until(all, received, dropped) do
    case logged() do
      {:warning, text, _metadata} -> count_until(all, received, dropped + lost(text))
      {:info, _line, _metadata} -> count_until(all, received + 1, dropped)
    end
  end

  defp lost(text) do
    [_text, number] = Regex.run(~r/lost (?:entries|batches of entries): (\d+)$/, text)
    String.to_integer(number)
  end
end
