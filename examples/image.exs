# Images: the bytes of a file are an input. Bytes that are not an image are an error.
Code.require_file("support.exs", __DIR__)

# A PNG of one pixel; `File.read!("photo.png")` in an application.
photo =
  Base.decode64!(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
  )

signature = %{
  inputs: %{photo: :image, question: :string},
  outputs: %{answer: :string, colours: {:list, {:enum, [:black, :white, :colourful]}}}
}

model = Examples.model([%{answer: "A single black pixel.", colours: ["black"]}])

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.Predict",
    signature,
    %{photo: DSPex.Value.image(photo), question: "What does the photo show?"},
    lm: model
  )

IO.puts(prediction[:answer])
IO.puts("Colours: #{Enum.join(prediction[:colours], ", ")}")

# Bytes that are not an image are refused before a model is asked.
{:error, error} =
  DSPex.Python.execute_module(
    "dspy.Predict",
    signature,
    %{photo: "not an image", question: "?"},
    lm: model
  )

IO.puts("Refused: #{error.message}")
