defmodule DSPex.ValueTest do
  use ExUnit.Case, async: true
  doctest DSPex.Value

  alias DSPex.{Python, Value}
  alias DSPex.Python.{Error, ScriptedModel}

  # An image of one pixel.
  @png Base.decode64!(
         "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
       )
  @signature %{inputs: %{photo: "dspy.Image"}, outputs: %{caption: :string}}

  defp ask(photo, options \\ []) do
    test = self()

    model = fn request ->
      send(
        test,
        {:asked, inspect(request.messages, limit: :infinity, printable_limit: :infinity)}
      )

      ScriptedModel.written(caption: "a pixel")
    end

    Python.execute_module(
      "dspy.Predict",
      @signature,
      %{photo: photo},
      [lm: {:elixir, model}] ++ options
    )
  end

  test "a model calls a tool that is an input, and the caller gets the tool call" do
    test = self()

    model = fn request ->
      send(test, {:asked, request})
      call = %{name: "stock", arguments: %{"article" => "bolt", "size" => 8}}

      if request.tools == [],
        do: ScriptedModel.written(calls: %{tool_calls: []}),
        else: %{tool_calls: [call]}
    end

    signature = %{inputs: %{q: :string, tools: {:list, :tool}}, outputs: %{calls: :tool_calls}}
    parameters = %{article: :string, size: {:integer, optional: true}}
    inputs = %{q: "Bolts?", tools: [Value.tool("stock", "How many there are", parameters)]}
    adapter = %{name: "chat", native_function_calling: true}
    options = [lm: {:elixir, model}, adapter: adapter]
    assert {:ok, prediction} = Python.execute_module("dspy.Predict", signature, inputs, options)

    assert [%{"name" => "stock", "args" => %{"article" => "bolt", "size" => 8}}] =
             prediction[:calls]["tool_calls"]

    assert_received {:asked, %{tools: [tool]}}
    assert tool["name"] == "stock"
    assert tool["parameters"]["required"] == ["article"]

    # Without the option the tools are in the prompt.
    assert {:ok, _} =
             Python.execute_module("dspy.Predict", signature, inputs, lm: {:elixir, model})

    assert_received {:asked, %{tools: [], messages: messages}}
    assert inspect(messages, printable_limit: :infinity) =~ "How many there are"

    assert_raise ArgumentError, ~r/parameters.article/, fn ->
      Value.tool("a", "b", article: :strng)
    end
  end

  test "an image of a binary reaches the model" do
    for photo <- [Value.image(@png), Value.image(@png, media_type: "image/png"), @png] do
      assert {:ok, prediction} = ask(photo)
      assert prediction[:caption] == "a pixel"
      assert_received {:asked, messages}
      assert messages =~ Base.encode64(@png)
    end
  end

  test "a URL reaches the model only if the call allows it" do
    url = "https://example.com/cat.png"
    assert {:error, %Error{kind: :input, path: "inputs.photo"} = error} = ask(url)
    assert error.message =~ "allow_urls: true"
    assert {:ok, _prediction} = ask(url, allow_urls: true)
    assert_received {:asked, messages}
    assert messages =~ url
  end

  test "errors name the mistake" do
    assert {:error, %Error{kind: :input} = error} = ask(Value.image("no image"))
    assert error.message =~ "expected the bytes of an image of a known kind at inputs.photo.data"
    assert {:error, %Error{kind: :input}} = ask(Value.image(@png, media_type: "image/gif"))
    assert_raise ArgumentError, ~r/File.read!/, fn -> Value.image(:png) end
    assert_raise ArgumentError, fn -> Value.image(@png, filename: "a") end
    refute_received {:asked, _messages}
  end
end
