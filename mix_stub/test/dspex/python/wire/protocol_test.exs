defmodule DSPex.Python.Wire.ProtocolTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Wire.Protocol
  alias DSPex.RandomTerm

  describe "frame/2" do
    test "is the term of the call" do
      request = Protocol.encode_request(:ping, [%{a: 1}])
      assert decoded(Protocol.frame(7, request)) == {:C, 7, :dspy_bridge, :ping, [%{a: 1}]}
    end

    test "takes the smallest and the largest id, and a call without arguments" do
      request = Protocol.encode_request(:metrics, [])

      for id <- [1, Protocol.max_id()] do
        assert decoded(Protocol.frame(id, request)) == {:C, id, :dspy_bridge, :metrics, []}
      end
    end

    test "holds arguments of any size, also where their encoding changes" do
      for size <- [0, 63, 64, 65, 4_000, 4_050, 4_100, 70_000, 300_000] do
        args = [:binary.copy("x", size), [size]]
        frame = Protocol.frame(9, Protocol.encode_request(:ping, args))
        assert decoded(frame) == {:C, 9, :dspy_bridge, :ping, args}
      end
    end

    test "holds any arguments" do
      for _ <- 1..200 do
        args = [RandomTerm.term(), RandomTerm.term()]

        assert {:C, 1, :dspy_bridge, :ping, ^args} =
                 decoded(Protocol.frame(1, Protocol.encode_request(:ping, args)))
      end
    end
  end

  test "the reason for which Python asks to be replaced is decoded, whatever comes" do
    frame = :erlang.term_to_binary({:R, "memory", "a reason"})
    assert Protocol.decode_recycling(frame) == {"memory", "a reason"}

    for term <- [{:R, "memory", 1}, {:R, 1, "a reason"}, {:R, "a reason"}, {:R}] do
      frame = :erlang.term_to_binary(term)
      assert Protocol.decode_recycling(frame) == {"unknown", "it gave no reason"}
    end

    for frame <- ["", <<131, 1>>],
        do: assert(Protocol.decode_recycling(frame) == {"unknown", "it gave no reason"})
  end

  describe "peek/1" do
    test "finds the id of an answer, for each encoding of the atom" do
      for tag <- [<<100, 1::16>>, <<115, 1>>, <<118, 1::16>>, <<119, 1>>], name <- ["r", "e"] do
        for {encoded, id} <- [{<<97, 0>>, 0}, {<<97, 255>>, 255}, {<<98, 256::32>>, 256}] do
          assert Protocol.peek(<<131, 104, 3, tag::binary, name::binary, encoded::binary, 106>>) ==
                   {:answer, id}
        end
      end
    end

    test "finds the id that the BEAM itself wrote" do
      for id <- [1, 255, 256, 70_000, Protocol.max_id()], result <- [RandomTerm.term(), nil] do
        assert Protocol.peek(:erlang.term_to_binary({:r, id, result})) == {:answer, id}

        assert Protocol.peek(:erlang.term_to_binary({:e, id, result}, minor_version: 1)) ==
                 {:answer, id}
      end
    end

    test "names the messages that are not answers" do
      assert Protocol.peek(:erlang.term_to_binary({:M, self(), :hello})) == {:message, "M"}
      assert Protocol.peek(:erlang.term_to_binary({:P, "printed"})) == {:message, "P"}
      assert Protocol.peek(:erlang.term_to_binary({:R, "a reason"})) == {:message, "R"}
      assert Protocol.peek(:erlang.term_to_binary({:e, :handler_failed})) == {:message, "e"}
    end

    test "finds the id of a call that Python makes" do
      for id <- [1, 255, 256, Protocol.max_id()] do
        call = {:C, id, :m, :f, [RandomTerm.term()], :N}
        assert Protocol.peek(:erlang.term_to_binary(call)) == {:call, id}
        assert Protocol.peek(:erlang.term_to_binary(call, minor_version: 1)) == {:call, id}
      end

      assert Protocol.peek(:erlang.term_to_binary({:C, 1, :m, :f, []})) == {:message, "C"}
    end

    test "returns :malformed for bytes that do not begin like a message" do
      for term <- [:r, {:answer, 1, 2}, {:r, :one, 2}, {:r, -1, 2} |> put_elem(1, 1.5), [], "r"] do
        assert Protocol.peek(:erlang.term_to_binary(term)) == :malformed
      end

      assert Protocol.peek("") == :malformed
    end

    test "never fails on a frame that was cut or changed" do
      for _ <- 1..500 do
        frame = :erlang.term_to_binary({:r, :rand.uniform(100_000), RandomTerm.term()})
        cut = binary_part(frame, 0, :rand.uniform(byte_size(frame)) - 1)
        assert Protocol.peek(cut) == :malformed or match?({:answer, _id}, Protocol.peek(cut))
        noise = :rand.bytes(:rand.uniform(20))
        assert Protocol.peek(noise) == :malformed
      end
    end
  end

  describe "decode_answer/1" do
    test "returns the result" do
      for _ <- 1..100 do
        result = RandomTerm.term()
        assert Protocol.decode_answer(:erlang.term_to_binary({:r, 1, result})) == {:ok, result}
      end
    end

    test "makes an error of an exception, with Python's traceback" do
      reason = {:python, :AttributeError, "no such function", ["line 1", "line 2"]}
      assert {:error, error} = Protocol.decode_answer(:erlang.term_to_binary({:e, 1, reason}))

      assert {error.kind, error.type, error.message} ==
               {:internal, "AttributeError", "no such function"}

      assert error.traceback == ["line 1", "line 2"]
    end

    test "reads the class of an exception as a binary, in every encoding" do
      for options <- [[], [minor_version: 1], [minor_version: 2]], id <- [1, 70_000] do
        reason = {:python, :ClassOfSomebody, "m", []}

        assert {:error, error} =
                 Protocol.decode_answer(:erlang.term_to_binary({:e, id, reason}, options))

        assert error.type == "ClassOfSomebody"
      end

      name = "NeverSeen#{System.unique_integer([:positive])}"

      python =
        :erlang.term_to_binary(:python)
        |> binary_part(1, byte_size(:erlang.term_to_binary(:python)) - 1)

      frame =
        <<131, 104, 3, 119, 1, "e", 97, 1, 104, 4, python::binary, 119, byte_size(name),
          name::binary, 106, 106>>

      assert {:error, %{type: ^name}} = Protocol.decode_answer(frame)
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    end

    test "never makes an atom of received bytes" do
      name = "never_seen_#{System.unique_integer([:positive])}"
      frame = <<131, 104, 3, 119, 1, "r", 97, 1, 119, byte_size(name), name::binary>>
      assert {:error, %{kind: :internal}} = Protocol.decode_answer(frame)
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    end

    test "is an error for every frame that was cut" do
      frame = :erlang.term_to_binary({:r, 1, %{"answer" => RandomTerm.term()}})

      for length <- 0..(byte_size(frame) - 1) do
        assert {:error, %{kind: :internal}} =
                 Protocol.decode_answer(binary_part(frame, 0, length))
      end
    end
  end

  describe "decode_call/1" do
    test "returns the function and its arguments" do
      args = [RandomTerm.term()]
      frame = :erlang.term_to_binary({:C, 1, :m, :f, args, :N})
      assert Protocol.decode_call(frame) == {:ok, :m, :f, args}
    end

    test "is an error for another form of call, and for frames that were cut" do
      assert Protocol.decode_call(:erlang.term_to_binary({:C, 1, :m, :f, [], :L})) == :error
      frame = :erlang.term_to_binary({:C, 1, :m, :f, [RandomTerm.term()], :N})

      for length <- 0..(byte_size(frame) - 1),
          do: assert(Protocol.decode_call(binary_part(frame, 0, length)) == :error)
    end

    test "never makes an atom of received bytes" do
      name = "never_seen_#{System.unique_integer([:positive])}"
      <<131, known::binary>> = :erlang.term_to_binary(:C)
      frame = <<131, 104, 6, known::binary, 97, 1, 119, byte_size(name), name::binary>>
      frame = <<frame::binary, 119, 1, "f", 106, 119, 1, "N">>
      assert Protocol.decode_call(frame) == :error
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    end
  end

  describe "decode_message/1" do
    test "returns a term and the process of this node that it is for" do
      for term <- [RandomTerm.term(), nil] do
        assert Protocol.decode_message(:erlang.term_to_binary({:M, self(), term})) ==
                 {:ok, self(), term}
      end
    end

    test "is an error for a process of another node, for other terms, and for frames that were cut" do
      # A pid as OTP 23 and newer write it, of a node whose name is an atom that exists.
      elsewhere = :erlang.binary_to_term(<<131, 88, 119, 6, "python", 1::32, 0::32, 1::32>>)
      assert node(elsewhere) == :python
      frame = :erlang.term_to_binary({:M, self(), RandomTerm.term()})

      assert Protocol.decode_message(:erlang.term_to_binary({:M, elsewhere, 1})) == :error
      assert Protocol.decode_message(:erlang.term_to_binary({:M, :python, 1})) == :error

      for length <- 0..(byte_size(frame) - 1),
          do: assert(Protocol.decode_message(binary_part(frame, 0, length)) == :error)
    end
  end

  describe "answer_frame/2" do
    test "is the term of the answer" do
      for id <- [1, 255, Protocol.max_id()], result <- [RandomTerm.term(), nil] do
        answer = Protocol.answer_frame(id, {:ok, Protocol.encode_result(result)})
        assert decoded(answer) == {:r, id, result}
        assert decoded(Protocol.answer_frame(id, {:error, "no"})) == {:e, id, "no"}
      end
    end
  end

  defp decoded(iodata), do: iodata |> IO.iodata_to_binary() |> :erlang.binary_to_term()
end
