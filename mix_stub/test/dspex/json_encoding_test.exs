defmodule DSPex.JSONEncodingTest do
  use ExUnit.Case, async: true

  alias DSPex.Prediction
  alias DSPex.Python.{Error, JSON}

  @prediction Prediction.from_term(%{"answer" => "4", "score" => 1, "$meta" => %{"model" => "m"}})
  @error Error.new(:input, "no", %{"path" => "inputs.x", "traceback" => ["line"], "key" => "sk-1"})

  @error_map %{
    "kind" => "input",
    "type" => "ValueError",
    "message" => "no",
    "path" => "inputs.x",
    "stage" => nil,
    "retryable" => false
  }

  # The protocol is the one of test/support/jason.ex, and consolidated as in an application.
  test "Jason encodes the output fields of a prediction" do
    assert Protocol.consolidated?(Jason.Encoder)
    assert decoded(Jason.Encoder.encode(@prediction, %{})) == %{"answer" => "4", "score" => 1}
  end

  test "Jason encodes an error without its traceback and details" do
    assert decoded(Jason.Encoder.encode(@error, %{})) == @error_map
  end

  test "Jason still refuses other structs" do
    assert_raise Protocol.UndefinedError, fn -> Jason.Encoder.encode(~r/x/, %{}) end
  end

  # Elixir 1.18 and newer.
  if Code.ensure_loaded?(Elixir.JSON) do
    test "Elixir's JSON encodes predictions and errors" do
      encode = &apply(Elixir.JSON, :encode!, [&1])
      assert decoded(encode.(@prediction)) == %{"answer" => "4", "score" => 1}
      assert decoded(encode.(%{error: @error})) == %{"error" => @error_map}
    end
  end

  test "an implementation has what defimpl gives it" do
    for protocol <- [Jason.Encoder, Elixir.JSON.Encoder], struct <- [Prediction, Error] do
      implementation = Module.concat(protocol, struct)
      assert implementation.__impl__(:protocol) == protocol
      assert implementation.__impl__(:for) == struct
      assert implementation.__impl__(:target) == implementation
    end

    # So protocols are consolidated with it.
    found =
      Protocol.extract_impls(Jason.Encoder, [
        :dspex |> Application.app_dir("ebin") |> to_charlist()
      ])

    assert Prediction in found and Error in found
  end

  defp decoded(text) do
    {:ok, value} = text |> IO.iodata_to_binary() |> JSON.decode()
    value
  end
end
