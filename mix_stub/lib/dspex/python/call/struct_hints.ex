defmodule DSPex.Python.Call.StructHints do
  @moduledoc false

  # Says in errors about arguments that a struct came. Python takes a struct as the map of its fields, and so its errors name fields
  # that the caller has never written: `unknown input "authority"`. What is a stream, or a MapSet in the place of a list, is told
  # how to make a list of it.

  alias DSPex.Python.Error
  alias DSPex.Suggestion

  # Structs that are one value in Python.
  @values [Date, DateTime, NaiveDateTime, Time, Decimal, MapSet, Range]
  # Where the last argument of an operation is a list, and names of lists in the others.
  @lists ["inputs", "examples", "trainset", "turns"]
  @named_lists @lists ++ ["demos", "fallbacks", "modules", "passages", "tools", "valset"]
  # Where a function of two arguments is no stream.
  @functions ["embedder", "function", "lm", "metric", "retriever", "reward"]

  @doc """
  Adds to an error about a part of `inputs`, the last argument, or of the `others`, by their names, which struct is at its path; says if a
  stream is.
  """
  @spec explain(result, term(), %{String.t() => term()}) :: result
        when result: {:ok, term()} | {:error, Error.t()}
  def explain(result, inputs, others \\ %{})

  def explain({:error, %Error{kind: kind, path: path} = error} = result, inputs, others)
      when kind in [:input, :signature] and is_binary(path) do
    [root] = Regex.run(~r/^[^.\[]*/, path)
    rest = String.replace_prefix(path, root, "")

    case if(root in @lists, do: {:ok, inputs}, else: Map.fetch(others, root)) do
      {:ok, value} -> explain_part(error, value, root, steps(rest))
      :error -> result
    end
  end

  def explain(result, _inputs, _others), do: result

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
      do: explain_part(error, value, place, steps(String.replace_prefix(error.path, place, ""))),
      else: explain(result, value)
  end

  def explain_at(result, _inputs_list, _index), do: result

  defp explain_part(error, value, place, steps) do
    case {stream_at(value, steps, place), struct_at(value, steps, place, nil)} do
      {{path, value}, _struct} ->
        {:error, %{error | message: got_stream(error, path, value), path: path}}

      # Its fields are those of the compiled expression.
      {nil, {path, Regex}} ->
        message = "a Regex cannot be sent, at #{path}; Regex.source/1 returns its text"
        {:error, %{error | message: message, path: path}}

      {nil, {path, struct}} ->
        hint =
          "; a struct came at #{path}, %#{inspect(struct)}{}, which is taken as the map of its fields"

        {:error, %{error | message: error.message <> hint}}

      {nil, nil} ->
        {:error, error}
    end
  end

  # The outermost stream on the path: what is below it are the fields of its struct.
  defp stream_at(value, steps, path) do
    if stream?(value, path, steps) do
      {path, value}
    else
      with [{step, text} | rest] <- steps, {:ok, part} <- fetch(value, step) do
        stream_at(part, rest, path <> text)
      else
        _end -> nil
      end
    end
  end

  # A MapSet is a value of fields.
  defp stream?(%MapSet{}, path, []), do: name(path) in @named_lists
  defp stream?(%struct{}, _path, _steps) when struct in @values, do: false

  defp stream?(function, path, []) when is_function(function, 2),
    do: name(path) not in @functions

  defp stream?(value, _path, _steps), do: is_struct(value) and Suggestion.enumerable?(value)

  defp name(path), do: path |> String.split(".") |> List.last()

  # One map, or the list of a batch.
  defp got_stream(_error, "inputs", value) do
    "expected a map, or a list of maps for a batch, at inputs, got #{kind(value)}#{Suggestion.list_hint(value)}, and " <>
      "stream_batch and stream_program_batch read it piece by piece"
  end

  defp got_stream(%Error{path: path, message: message}, path, value) do
    case String.split(message, ", got ", parts: 2) do
      # The sentence ends with the fields of the struct.
      [expected, _fields] -> "#{expected}, got #{kind(value)}#{remedy(path, value)}"
      [_about_a_field] -> not_expected(path, value)
    end
  end

  defp got_stream(_error, path, value), do: not_expected(path, value)

  defp not_expected(path, value),
    do: "expected a map or a list at #{path}, got #{kind(value)}#{remedy(path, value)}"

  # A field may be text.
  defp remedy("inputs" <> _path, _stream), do: "; read it before the call, as Enum.to_list/1 does"
  defp remedy(_path, value), do: Suggestion.list_hint(value)

  defp kind(%struct{}) when struct in [Stream, File.Stream, IO.Stream], do: "a stream"
  defp kind(%struct{}), do: "%#{inspect(struct)}{}"
  defp kind(_function), do: "a stream"

  # The names and indexes of a path, each with its text.
  defp steps(path) do
    for [text | step] <- Regex.scan(~r/\.([^.\[\]]+)|\[(\d+)\]|\["([^"]*)"\]/, path) do
      case step do
        ["", index] -> {String.to_integer(index), text}
        name -> {List.last(name), text}
      end
    end
  end

  # The innermost struct on the path.
  defp struct_at(value, steps, path, found) do
    found =
      if is_struct(value) and value.__struct__ not in @values,
        do: {path, value.__struct__},
        else: found

    with [{step, text} | rest] <- steps,
         {:ok, value} <- fetch(value, step) do
      struct_at(value, rest, path <> text, found)
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

  # A model, or its options.
  defp fetch({_provider, options}, name) when is_binary(name), do: fetch(options, name)

  defp fetch([{_name, _value} | _more] = keywords, name) when is_binary(name),
    do: if(Keyword.keyword?(keywords), do: keywords |> Map.new() |> fetch(name), else: :error)

  defp fetch(_value, _step), do: :error

  defp map_fields(struct) when is_struct(struct), do: Map.from_struct(struct)
  defp map_fields(map), do: map
end
