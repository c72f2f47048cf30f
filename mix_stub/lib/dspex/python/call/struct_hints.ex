defmodule DSPex.Python.Call.StructHints do
  @moduledoc false

  # Says in errors about inputs that a struct came. Python takes a struct as the map of its fields, and so its errors name fields
  # that the caller has never written: `unknown input "authority"`. A stream, which is a struct or a function, is told where a list
  # belongs.

  alias DSPex.Python.Error

  # Structs that are one value in Python.
  @values [Date, DateTime, NaiveDateTime, Time, Decimal, MapSet, Range]
  # Where the last argument of an operation is a list.
  @lists ["inputs", "examples", "trainset", "turns"]

  @doc """
  Adds to an error about a part of `inputs` which struct is at its path; says of `inputs`, or of one of the `options`, that a stream came
  in place of a list.
  """
  @spec explain(result, term(), map()) :: result when result: {:ok, term()} | {:error, Error.t()}
  def explain(result, inputs, options \\ %{})

  def explain({:error, %Error{kind: :input, path: path} = error} = result, inputs, options)
      when is_binary(path) do
    cond do
      stream?(at(path, inputs, options)) ->
        {:error, %{error | message: got_stream(path)}}

      String.starts_with?(path, "inputs") ->
        explain_part(error, inputs, "inputs", String.replace_prefix(path, "inputs", ""))

      true ->
        result
    end
  end

  def explain(result, _inputs, _options), do: result

  defp at("opts." <> name, _inputs, options),
    do: Enum.find_value(options, fn {key, value} -> if to_string(key) == name, do: value end)

  defp at(path, inputs, _options), do: if(path in @lists, do: inputs)

  # Most are functions: those of Stream.resource/3, Stream.iterate/2, …
  defp stream?(value), do: is_struct(value, Stream) or is_function(value, 2)

  # One map, or the list of a batch.
  defp got_stream("inputs") do
    "expected a map, or a list of maps for a batch, at inputs, got a stream; Enum.to_list/1 makes a list of it, and " <>
      "stream_batch and stream_program_batch read it piece by piece"
  end

  defp got_stream(path),
    do: "expected a list of maps at #{path}, got a stream; Enum.to_list/1 makes a list of it"

  defp explain_part(error, value, place, path) do
    case struct_at(value, steps(path), place, nil) do
      nil ->
        {:error, error}

      {path, struct} ->
        hint =
          "; a struct came at #{path}, %#{inspect(struct)}{}, which is taken as the map of its fields"

        {:error, %{error | message: error.message <> hint}}
    end
  end

  @doc """
  Does the same for the result with this index, of a list of inputs.
  """
  @spec explain_at(result, term(), non_neg_integer()) :: result
        when result: {:ok, term()} | {:error, Error.t()}
  def explain_at({:error, %Error{} = error} = result, inputs_list, index)
      when is_list(inputs_list) do
    place = "examples[#{index}]"
    value = Enum.at(inputs_list, index)

    if error.kind == :input and is_binary(error.path) and String.starts_with?(error.path, place),
      do: explain_part(error, value, place, String.replace_prefix(error.path, place, "")),
      else: explain(result, value)
  end

  def explain_at(result, _inputs_list, _index), do: result

  defp steps(path) do
    for [_all | step] <- Regex.scan(~r/\.([^.\[\]]+)|\[(\d+)\]/, path) do
      case step do
        [name] -> name
        ["", index] -> String.to_integer(index)
      end
    end
  end

  # The innermost struct on the path.
  defp struct_at(value, steps, path, found) do
    found =
      if is_struct(value) and value.__struct__ not in @values,
        do: {path, value.__struct__},
        else: found

    with [step | rest] <- steps,
         {:ok, value} <- fetch(value, step) do
      struct_at(value, rest, path <> shown(step), found)
    else
      _end -> found
    end
  end

  defp fetch(map, name) when is_map(map) and is_binary(name) do
    Enum.find_value(map_fields(map), :error, fn {key, value} ->
      if (is_atom(key) or is_binary(key)) and to_string(key) == name, do: {:ok, value}
    end)
  end

  defp fetch(list, index) when is_list(list) and is_integer(index), do: Enum.fetch(list, index)
  defp fetch(_value, _step), do: :error

  defp map_fields(struct) when is_struct(struct), do: Map.from_struct(struct)
  defp map_fields(map), do: map

  defp shown(index) when is_integer(index), do: "[#{index}]"
  defp shown(name), do: "." <> name
end
