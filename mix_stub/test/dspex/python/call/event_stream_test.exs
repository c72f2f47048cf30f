defmodule DSPex.Python.Call.EventStreamTest do
  # Counts the processes of the whole node.
  use ExUnit.Case, async: false

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Prediction, Python}
  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Port.Owner

  @qa "question -> answer"
  # An answer of more than a hundred pieces.
  @long Enum.map_join(1..100, " ", &"word#{&1}")

  setup_all do
    url = ModelServer.start!()
    {:ok, url: url, pool: start_pool!(model: ModelServer.model(url, "slow-1"))}
  end

  defp stream(context, question, options \\ []) do
    Python.stream("dspy.Predict", @qa, question, [pool: context.pool] ++ options)
  end

  defp slow(context, options \\ []) do
    stream(context, @long, [lm: ModelServer.model(context.url, "slow-50")] ++ options)
  end

  defp text(elements, field), do: for({:chunk, ^field, text} <- elements, into: "", do: text)

  defp in_flight(pool) do
    {:ok, %{"operations" => operations}} = Python.metrics(pool: pool)
    get_in(operations, ["stream_module", "in_flight"]) || 0
  end

  defp first_chunk(stream), do: Enum.find(stream, &match?({:chunk, _field, _text}, &1))

  # The headers of the server's answer, and the first piece of the model's text.
  defp beginning do
    event =
      ~S|{"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, | <>
        ~S|"delta": {"content": "[[ ## answer ## ]]\nLis"}, "finish_reason": null}]}|

    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: #{event}\n\n"
  end

  defp asked(pool) do
    {:ok, %{"operations" => operations}} = Python.metrics(pool: pool)
    get_in(operations, ["stream_module", "calls"]) || 0
  end

  defp mailbox do
    {:messages, messages} = Process.info(self(), :messages)
    messages
  end

  test "emits the pieces of each field as the model writes them, then the prediction", context do
    elements =
      "dspy.ChainOfThought"
      |> Python.stream(@qa, %{question: "Why is that?"}, pool: context.pool)
      |> Enum.to_list()

    assert {:prediction, %Prediction{} = prediction} = List.last(elements)
    assert Enum.count(elements, &match?({:chunk, "answer", _text}, &1)) > 1
    assert text(elements, "answer") == prediction[:answer]
    assert text(elements, "reasoning") == prediction[:reasoning]
    assert {:status, %{"stage" => "module", "name" => "dspy.ChainOfThought"}} = hd(elements)
    assert {:status, %{"stage" => "model", "name" => "openai/slow-1"}} in elements
    assert mailbox() == []
  end

  test "makes a call when the first element is requested, for each enumeration", context do
    before = asked(context.pool)
    stream = stream(context, "Why?")
    assert asked(context.pool) == before
    assert {:prediction, first} = stream |> Enum.to_list() |> List.last()
    assert {:prediction, second} = stream |> Enum.to_list() |> List.last()
    assert first[:answer] == second[:answer]
    assert asked(context.pool) == before + 2
  end

  test "emits a piece while the model still writes", context do
    [piece] =
      context
      |> slow()
      |> Stream.filter(&match?({:chunk, _field, _text}, &1))
      |> Stream.map(&{&1, in_flight(context.pool)})
      |> Enum.take(1)

    assert {{:chunk, "answer", _text}, 1} = piece
  end

  test "ends with the error of the call", context do
    unauthorized = ModelServer.model(context.url, "status-401")
    assert [{:error, error}] = errors(stream(context, "Why?", lm: unauthorized))
    assert %Error{kind: :auth} = error

    assert [{:error, %Error{kind: :input}}] = errors(stream(context, %{wrong: 1}))
    assert [{:error, %Error{kind: :pool_not_found}}] = errors(stream(%{pool: :nonesuch}, "Why?"))

    assert [{:error, %Error{kind: :timeout}}] = errors(slow(context, timeout: 500))
    assert mailbox() == []
  end

  test "raises for misuse, before it is enumerated", context do
    assert_raise ArgumentError, ~r/:buffer from 1/, fn -> stream(context, "Why?", buffer: 0) end
    assert_raise ArgumentError, ~r/:timeout in ms/, fn -> stream(context, "Why?", timeout: 0) end
  end

  test "a slow reader gets every element", context do
    elements =
      context
      |> stream("Why is that?", buffer: 1)
      |> Enum.map(&tap(&1, fn _ -> Process.sleep(5) end))

    assert {:prediction, prediction} = List.last(elements)
    assert text(elements, "answer") == prediction[:answer]
  end

  test "a reader that stops reading holds at most the buffer, and has a timeout",
       context do
    long = ModelServer.model(context.url, "long-100000")

    read_one = fn timeout ->
      context
      |> stream("Why?", lm: long, buffer: 8, timeout: timeout)
      |> Enum.reduce_while(nil, fn
        # The deadline has passed before the first event.
        {:error, %Error{kind: :timeout}}, nil ->
          {:halt, nil}

        _element, nil ->
          eventually(fn -> in_flight(context.pool) == 0 and mailbox() != [] end)
          # At most as many events as the buffer holds have come, and the answer of the call.
          {:halt, length(mailbox())}
      end)
    end

    {count, _timeout} = at_deadline(1_000, read_one, &(&1 != nil))
    assert count in 1..9
    assert mailbox() == []
  end

  test "a halted stream cancels its request and leaves nothing behind, 200 times", context do
    # The first stream makes what is made only once.
    assert {:chunk, "answer", _text} = first_chunk(stream(context, @long))
    assert eventually(fn -> in_flight(context.pool) == 0 end)
    processes = length(Process.list())

    for _ <- 1..200 do
      assert {:chunk, "answer", _text} = first_chunk(stream(context, @long))
    end

    assert eventually(fn -> in_flight(context.pool) == 0 end)
    assert eventually(fn -> length(Process.list()) <= processes end)
    assert waiting(context.pool) == 0
    assert mailbox() == []
    assert %{registered: 0, running: 0} = Callbacks.count()
    # No stream has run to its end, which has more than a hundred pieces.
    {:ok, %{"operations" => %{"stream_module" => counts}}} = Python.metrics(pool: context.pool)
    assert counts["errors"]["cancelled"] >= 200
  end

  test "a request is closed when the stream is halted", context do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}, active: false])
    {:ok, port} = :inet.port(listener)

    model =
      Task.async(fn ->
        {:ok, request} = :gen_tcp.accept(listener, 20_000)
        :ok = :gen_tcp.send(request, beginning())
        closed?(request)
      end)

    lm = ModelServer.model("http://127.0.0.1:#{port}/v1", "unfinished")
    stream = stream(context, "Why?", lm: lm, timeout: :infinity)

    assert first_chunk(stream) == {:chunk, "answer", "Lis"}
    assert Task.await(model, 20_000)
    assert eventually(fn -> in_flight(context.pool) == 0 end)
  end

  test "the end of the reader ends the stream", context do
    test = self()
    reader = spawn(fn -> Enum.each(slow(context), &send(test, &1)) end)
    assert_receive {:chunk, "answer", _text}, 10_000
    Process.exit(reader, :kill)
    assert eventually(fn -> in_flight(context.pool) == 0 end)
    assert eventually(fn -> waiting(context.pool) == 0 end)
  end

  test "an exception in the reader ends the stream", context do
    assert_raise RuntimeError, "enough", fn ->
      Enum.each(slow(context), fn _ -> raise "enough" end)
    end

    assert eventually(fn -> in_flight(context.pool) == 0 end)
    assert mailbox() == []
  end

  test "concurrent streams do not mix, in several processes and in one", context do
    answers =
      1..40
      |> Task.async_stream(
        fn number ->
          elements = context |> stream("question #{number}") |> Enum.to_list()
          assert {:prediction, prediction} = List.last(elements)
          {number, text(elements, "answer"), prediction[:answer]}
        end,
        max_concurrency: 40,
        timeout: 60_000
      )
      |> Enum.map(fn {:ok, answer} -> answer end)

    for {number, told, answer} <- answers do
      assert told == answer
      assert answer == "answer to question #{number}"
    end

    zipped = Enum.zip(stream(context, "left"), stream(context, "right"))
    {left, right} = Enum.unzip(zipped)
    assert "answer to left" =~ text(left, "answer")
    assert "answer to right" =~ text(right, "answer")
    assert mailbox() == []
  end

  test "a program can be streamed too", context do
    spec = %{signature: @qa, modules: ["dspy.ChainOfThought"]}
    {:ok, program} = Python.create_program(spec, pool: context.pool)
    elements = program |> Python.stream_program("Why?") |> Enum.to_list()
    assert {:prediction, prediction} = List.last(elements)
    assert Enum.count(elements, &match?({:chunk, "answer", _text}, &1)) > 1
    assert text(elements, "answer") == prediction[:answer]

    assert [{:error, %Error{kind: :program_not_found}}] =
             "nonesuch" |> Python.stream_program("Why?", pool: context.pool) |> errors()
  end

  test "tools written in Elixir are called while the stream runs" do
    tool = %{
      name: "stock",
      description: "How many pieces of an article are in stock",
      parameters: %{article: {:string, "its name"}},
      function: fn %{"article" => "bolt"} -> 42 end
    }

    question = ~s|How many pieces of the article "bolt" are in stock?|

    elements =
      "dspy.ReAct" |> Python.stream(@qa, %{question: question}, tools: [tool]) |> Enum.to_list()

    assert {:status, %{"stage" => "tool", "name" => "stock"}} in elements
    assert {:prediction, prediction} = List.last(elements)
    assert text(elements, "answer") == prediction[:answer]
    assert %{registered: 0, running: 0} = Callbacks.count()
  end

  test "a stream whose Python ends returns an error", context do
    pool = start_pool!(model: ModelServer.model(context.url, "slow-50"))

    log =
      capture_log(fn ->
        stream = Python.stream("dspy.Predict", @qa, @long, pool: pool)
        elements = kill_at_first_chunk(pool, stream)
        assert {:error, %Error{kind: :worker_died}} = List.last(elements)
      end)

    assert log =~ "started again"
    assert mailbox() == []
  end

  test "a message from Python that cannot be decoded is dropped with a warning", context do
    %{port: port} = state = :sys.get_state(client(context.pool))
    unknown = <<131, 104, 3, 119, 1, "M", 119, 9, "no_such_7", 106>>

    for frame <- [unknown, :erlang.term_to_binary({:M, :not_a_pid, 1})] do
      assert capture_log(fn ->
               assert {:noreply, ^state} = Owner.handle_info({port, {:data, frame}}, state)
             end) =~ "dropped #{byte_size(frame)} bytes"
    end
  end

  defp errors(stream), do: Enum.filter(stream, &match?({:error, _error}, &1))

  defp closed?(socket) do
    case :gen_tcp.recv(socket, 0, 10_000) do
      {:ok, _more} -> closed?(socket)
      {:error, :closed} -> true
    end
  end
end
