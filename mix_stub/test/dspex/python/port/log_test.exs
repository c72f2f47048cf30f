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
        {:error, "app", "r-1", "y"}
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
