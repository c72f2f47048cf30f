defmodule DSPex.Python.Wire.LimitsTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Error, ModuleSpec, Tool}
  alias DSPex.Python.Wire.{Limits, Protocol}

  doctest Limits

  @limit 300_000
  @mebibyte 1024 * 1024

  setup_all do
    {:ok, pool: start_pool!(max_request_bytes: @limit, max_answer_bytes: @limit)}
  end

  # A list that nests `depth` levels, or a map of maps.
  defp nested(depth, around),
    do: Enum.reduce(1..depth, "end", fn _level, inner -> around.(inner) end)

  # The largest memory of the process of `work` while it runs, in bytes: beyond it the process is killed.
  defp within_memory(bytes, work) do
    test = self()
    words = div(bytes, :erlang.system_info(:wordsize))

    {pid, monitor} =
      :erlang.spawn_opt(fn -> send(test, {:result, work.()}) end, [
        :monitor,
        max_heap_size: %{
          size: words,
          kill: true,
          error_logger: false
        }
      ])

    receive do
      {:result, result} -> {:ok, result}
      {:DOWN, ^monitor, :process, ^pid, :killed} -> :too_much_memory
    end
  end

  describe "deeper?/2" do
    test "tells for every container whether it nests deeper" do
      for around <- [
            &[&1],
            &{&1},
            &%{"of" => &1},
            &%{&1 => 1},
            &[[1, 2], &1],
            &{1, [], &1}
          ] do
        assert Limits.deeper?(nested(7, around), 6)
        refute Limits.deeper?(nested(7, around), 20)
      end

      for flat <- ["text", 1, :atom, 1.5, [], %{}, {}, self(), fn -> 1 end],
          do: refute(Limits.deeper?(flat, 0))

      for list <- [Enum.to_list(1..1_000), Enum.reduce(1..1_000, 1, &[&1 | &2])],
          do: refute(Limits.deeper?(list, 1))
    end
  end

  describe "a request" do
    test "is sent just below the limit, and refused just above it, before it is sent", %{
      pool: pool
    } do
      overhead = :erlang.external_size({:C, Protocol.max_id(), :dspy_bridge, :ping, [""]})

      for {size, allowed?} <- [{@limit - 1, true}, {@limit, true}, {@limit + 1, false}] do
        payload = String.duplicate("x", size - overhead)
        answer = Python.ping(payload, pool: pool)

        if allowed? do
          # The answer, with the versions, is larger than the request.
          assert {:error, %Error{kind: :encode}} = answer
        else
          assert {:error, %Error{kind: :input, path: "arguments", retryable: false} = error} =
                   answer

          assert error.message ==
                   "expected at most #{@limit} bytes at arguments, got #{size}; max_request_bytes sets this limit"

          assert %{"limit" => @limit, "option" => "max_request_bytes"} = error.details
        end
      end

      assert {:ok, %{"payload" => "later"}} = Python.ping("later", pool: pool)
    end

    test "costs no memory if it is too large", %{pool: pool} do
      inputs = %{question: List.duplicate("a text of some words", 2_000_000)}

      for format <- [:native, :json] do
        call = fn ->
          Python.execute_module("dspy.Predict", "question -> answer", inputs,
            pool: pool,
            serialization_format: format
          )
        end

        # The list alone takes 32 MB in the new process.
        assert {:ok, {:error, %Error{kind: :input, path: "arguments"}}} =
                 within_memory(100 * @mebibyte, call)
      end
    end

    test "of a large text or list is refused in each format", %{pool: pool} do
      for format <- [:native, :json],
          value <- [String.duplicate("x", @limit), Enum.to_list(1..@limit)] do
        assert {:error, %Error{kind: :input, path: "arguments"}} =
                 Python.ping(value, pool: pool, serialization_format: format)
      end
    end
  end

  test "an answer beyond the limit is an error of its call", %{pool: pool} do
    assert {:ok, _answer} = Python.ping(String.duplicate("x", @limit - 10_000), pool: pool)

    assert {:error, %Error{kind: :encode, retryable: false} = error} =
             Python.ping(String.duplicate("x", @limit - 100), pool: pool)

    assert error.message =~ "max_answer_bytes sets this limit"
  end

  describe "a result of a function" do
    test "beyond the limit of requests is the function's error", %{pool: pool} do
      for {size, kind} <- [{@limit - 100, :ok}, {@limit + 100, :error}] do
        result =
          Python.execute_module(
            %{
              module: "dspy.Retrieve",
              retriever: fn _query, _k -> [String.duplicate("x", size)] end
            },
            nil,
            %{query: "Q?"},
            pool: pool
          )

        case kind do
          :ok -> assert {:error, %Error{kind: :encode}} = result
          :error -> assert {:error, %Error{kind: :tool}} = result
        end

        if kind == :error, do: assert(message_of(result) =~ "max_request_bytes sets this limit")
      end
    end
  end

  defp message_of({:error, error}), do: error.message

  describe "a spec" do
    test "of five modules is read, and one of six refused, wherever the sixth stands" do
      modules = fn count, around ->
        Enum.reduce(2..count, %{module: "m"}, fn _number, inner -> around.(inner) end)
      end

      for around <- [
            &%{module: "m", of: &1},
            &%{"module" => "m", "of" => &1},
            &[module: "m", of: &1],
            &%{module: "m", options: %{of: &1}},
            &%{"module" => "m", "options" => [of: &1]}
          ] do
        assert {:ok, _spec, _options, []} = ModuleSpec.read(modules.(5, around), %{}, nil)
        assert {:error, error} = ModuleSpec.read(modules.(6, around), %{}, nil)
        assert error.kind == :input

        assert error.message ==
                 "expected at most 5 modules that run one another, got another one at #{error.path}"

        # The outermost module is in `spec`, its modules may be among the options of the call.
        assert {:ok, _spec, _options, []} = ModuleSpec.read("m", %{of: modules.(4, around)}, nil)
        assert {:error, _error} = ModuleSpec.read("m", %{of: modules.(5, around)}, nil)
      end
    end

    # The path of each level was built before the depth was checked: 1.4 GB for 20,000 levels.
    test "that nests very deep costs no memory", %{pool: pool} do
      for around <- [
            &%{of: &1},
            &%{"of" => &1},
            &[of: &1],
            &%{options: &1},
            &%{"options" => &1},
            &%{options: %{of: &1}},
            &[options: &1],
            &%{reward: &1},
            &%{other: &1},
            &%{tools: [&1]},
            &[[&1]],
            &{&1}
          ] do
        spec = nested(20_000, around)

        for {spec, options} <- [
              {spec, []},
              {"dspy.Predict", [of: spec, options: spec]},
              {"dspy.ReAct", [tools: [spec]]}
            ] do
          call = fn ->
            Python.execute_module(
              spec,
              "question -> answer",
              %{question: "Q?"},
              [pool: pool] ++ options
            )
          end

          assert {:ok, {:error, %Error{} = error}} = within_memory(50 * @mebibyte, call)
          assert error.kind in [:input, :tool, :module_not_found]
          assert byte_size(error.message) < 1_000
          assert byte_size(error.path) < 1_000
        end
      end
    end
  end

  test "inputs, options and models that nest very deep are errors of their call", %{pool: pool} do
    for around <- [&[&1], &{&1}, &%{"a" => &1}, &%{a: &1}, &[a: &1], &[1, &1]],
        format <- [:native, :json] do
      deep = nested(20_000, around)

      for {inputs, options} <- [
            {%{question: deep}, []},
            {deep, []},
            {%{question: "Q?"}, [lm: deep]},
            {%{question: "Q?"}, [lm: {:openai, [model: "m", fallbacks: [deep]]}]},
            {%{question: "Q?"}, [adapter: deep]},
            {%{question: "Q?"}, [demos: [deep]]},
            {%{question: "Q?"}, [temperature: deep]}
          ] do
        call = fn ->
          Python.execute_module(
            "dspy.Predict",
            "question -> answer",
            inputs,
            [pool: pool, serialization_format: format] ++ options
          )
        end

        assert {:ok, {:error, %Error{} = error}} = within_memory(50 * @mebibyte, call)
        assert error.kind in [:input, :provider]
        assert byte_size(error.message) < 1_000
        assert byte_size(error.path || "") < 1_000
      end
    end

    assert {:ok, _answer} = Python.ping("later", pool: pool)
  end

  describe "parameters of a tool" do
    defp tool(parameters),
      do: %{name: "t", description: "d", function: fn _arguments -> 1 end, parameters: parameters}

    test "that nest very deep are refused without their paths" do
      for around <- [
            &%{a: &1},
            &[a: &1],
            &%{a: {:object, &1}},
            &%{a: {:array, &1}},
            &%{"a" => &1}
          ] do
        deep = nested(20_000, around)

        assert {:ok, {:error, %Error{kind: :input, path: "opts.tools[0].parameters"} = error}} =
                 within_memory(50 * @mebibyte, fn -> Tool.read([tool(deep)]) end)

        assert error.message ==
                 "expected parameters that nest at most 100 levels at opts.tools[0].parameters"
      end
    end

    test "that nest just as deep as allowed are read" do
      assert {:ok, _tools, _callbacks} =
               Tool.read([tool(nested(100, fn inner -> %{a: inner} end) |> put_type())])
    end

    # The innermost value is a type.
    defp put_type(%{a: "end"}), do: %{a: :string}
    defp put_type(%{a: inner}), do: %{a: put_type(inner)}
  end
end
