defmodule DSPex.Python.JSON do
  @moduledoc """
  Encodes and decodes JSON for `serialization_format: :json`, strict in both directions (RFC 8259).

  Elixir has no JSON before 1.18, and this project has no dependencies. Native terms are faster and exact; JSON is for
  looking at what crosses the port.

  | Elixir | JSON |
  | --- | --- |
  | `nil`, `true`, `false` | `null`, `true`, `false` |
  | other atom, UTF-8 binary | string |
  | integer, float | number |
  | list | array |
  | map with binary or atom keys | object, its keys sorted |
  | keyword list | object, in the order of the list |
  | anything else: tuple, pid, struct, other binary, … | an error that names its path |
  """

  @type path_error :: {:error, String.t(), path :: String.t()}

  @doc ~S"""
  Encodes a term.

      iex> DSPex.Python.JSON.encode(%{"k" => [1, 2.5, nil, "é\n"]})
      {:ok, ~S({"k":[1,2.5,null,"é\n"]})}

      iex> DSPex.Python.JSON.encode(question: :string, context: :string)
      {:ok, ~S({"question":"string","context":"string"})}

      iex> DSPex.Python.JSON.encode(%{"k" => [1, {2, 3}]})
      {:error, "JSON cannot carry {2, 3}", "k[1]"}
  """
  @spec encode(term()) :: {:ok, String.t()} | path_error()
  def encode(term) do
    {:ok, term |> encode_value([]) |> IO.iodata_to_binary()}
  catch
    {:json, reason, path} -> {:error, reason, path |> Enum.reverse() |> format_path()}
  end

  @doc ~S"""
  Decodes a text of exactly one JSON value. `position` counts bytes from 0.

      iex> DSPex.Python.JSON.decode(~S({"k":[1,2.5,null,"\u00e9"]}))
      {:ok, %{"k" => [1, 2.5, nil, "é"]}}

      iex> DSPex.Python.JSON.decode("[1,]")
      {:error, {:unexpected, 3}}
  """
  @spec decode(binary()) :: {:ok, term()} | {:error, {:unexpected, position :: non_neg_integer()}}
  def decode(text) when is_binary(text) do
    {value, rest} = text |> skip_space() |> value()

    case skip_space(rest) do
      "" -> {:ok, value}
      rest -> {:error, {:unexpected, byte_size(text) - byte_size(rest)}}
    end
  catch
    {:json, rest} -> {:error, {:unexpected, byte_size(text) - byte_size(rest)}}
  end

  # Encoding ---------------------------------------------------------------------------------------------------------

  defp encode_value(nil, _path), do: "null"
  defp encode_value(true, _path), do: "true"
  defp encode_value(false, _path), do: "false"

  defp encode_value(atom, path) when is_atom(atom),
    do: atom |> Atom.to_string() |> encode_value(path)

  defp encode_value(integer, _path) when is_integer(integer), do: Integer.to_string(integer)
  defp encode_value(float, _path) when is_float(float), do: Float.to_string(float)

  defp encode_value(text, path) when is_binary(text) do
    if String.valid?(text),
      do: [?", escape(text), ?"],
      else: cannot("a binary that is not UTF-8", path)
  end

  defp encode_value([], _path), do: "[]"

  defp encode_value([{name, _value} | _rest] = list, path) when is_atom(name) do
    if Keyword.keyword?(list), do: encode_members(list, path), else: encode_list(list, path)
  end

  defp encode_value(list, path) when is_list(list), do: encode_list(list, path)
  defp encode_value(%name{}, path), do: cannot("the struct #{inspect(name)}", path)

  # A map has no order, and from OTP 26 on another one after each start of the node.
  defp encode_value(map, path) when is_map(map),
    do: map |> Enum.sort_by(fn {key, _value} -> name!(key, path) end) |> encode_members(path)

  defp encode_value(other, path), do: cannot(inspect(other, limit: 5, printable_limit: 50), path)

  defp encode_list(list, path) do
    if List.improper?(list), do: cannot("an improper list", path)

    elements =
      list
      |> Enum.with_index()
      |> Enum.map_intersperse(?,, fn {value, index} -> encode_value(value, [index | path]) end)

    [?[, elements, ?]]
  end

  defp encode_members(pairs, path) do
    names = Enum.map(pairs, fn {key, value} -> {name!(key, path), value} end)

    # A map may have both :a and "a", and a keyword list :a twice; a JSON object may not.
    case names -- Enum.uniq_by(names, &elem(&1, 0)) do
      [] -> :ok
      [{name, _value} | _others] -> cannot("the key #{inspect(name)} twice", path)
    end

    members =
      Enum.map_intersperse(names, ?,, fn {name, value} ->
        [encode_value(name, path), ?:, encode_value(value, [name | path])]
      end)

    [?{, members, ?}]
  end

  defp name!(key, _path) when is_atom(key), do: Atom.to_string(key)

  defp name!(key, path) when is_binary(key) do
    if String.valid?(key), do: key, else: cannot("a key that is not UTF-8", path)
  end

  defp name!(key, path),
    do: cannot("the key #{inspect(key, limit: 5, printable_limit: 50)}", path)

  # Most text has nothing to escape and is returned unchanged.
  defp escape(text) do
    if plain?(text),
      do: text,
      else: for(<<character <- text>>, into: "", do: escape_character(character))
  end

  # `:binary.match/2` with many patterns compiles them each time, which takes longer than a short text.
  defp plain?(<<byte, rest::binary>>) when byte >= 0x20 and byte != ?" and byte != ?\\,
    do: plain?(rest)

  defp plain?(rest), do: rest == ""

  defp escape_character(?"), do: ~S(\")
  defp escape_character(?\\), do: ~S(\\)
  defp escape_character(?\n), do: ~S(\n)

  defp escape_character(byte) when byte < 0x20 do
    ~S(\u) <> String.pad_leading(Integer.to_string(byte, 16), 4, "0")
  end

  defp escape_character(byte), do: <<byte>>

  defp cannot(what, path), do: throw({:json, "JSON cannot carry #{what}", path})

  defp format_path(path) do
    path
    |> Enum.map_join(fn
      index when is_integer(index) -> "[#{index}]"
      name -> ".#{name}"
    end)
    |> String.trim_leading(".")
  end

  # Decoding: each function takes the text at its value, and returns the value and the rest of the text ---------------

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value(<<?", rest::binary>>), do: string(rest, rest, 0, [])

  defp value("[" <> rest) do
    case skip_space(rest) do
      "]" <> rest -> {[], rest}
      rest -> elements(rest, [])
    end
  end

  defp value("{" <> rest) do
    case skip_space(rest) do
      "}" <> rest -> {%{}, rest}
      rest -> members(rest, [])
    end
  end

  defp value(text), do: number(text)

  defp elements(text, read) do
    {value, rest} = value(text)

    case skip_space(rest) do
      "," <> rest -> rest |> skip_space() |> elements([value | read])
      "]" <> rest -> {Enum.reverse(read, [value]), rest}
      rest -> throw({:json, rest})
    end
  end

  defp members(<<?", rest::binary>>, read) do
    {name, rest} = string(rest, rest, 0, [])

    with ":" <> rest <- skip_space(rest) do
      {value, rest} = rest |> skip_space() |> value()

      case skip_space(rest) do
        "," <> rest -> rest |> skip_space() |> members([{name, value} | read])
        "}" <> rest -> {Map.new(Enum.reverse(read, [{name, value}])), rest}
        rest -> throw({:json, rest})
      end
    else
      rest -> throw({:json, rest})
    end
  end

  defp members(rest, _read), do: throw({:json, rest})

  # `start` is the text after the last escape; its first `length` bytes belong to the string.
  defp string(<<?", rest::binary>>, start, length, read) do
    text = IO.iodata_to_binary([read, binary_part(start, 0, length)])
    if String.valid?(text), do: {text, rest}, else: throw({:json, start})
  end

  defp string(<<?\\, rest::binary>>, start, length, read) do
    {character, rest} = escaped(rest)
    string(rest, rest, 0, [read, binary_part(start, 0, length), character])
  end

  defp string(<<byte, rest::binary>>, start, length, read) when byte >= 0x20 do
    string(rest, start, length + 1, read)
  end

  defp string(rest, _start, _length, _read), do: throw({:json, rest})

  for {name, character} <- [
        {?", ?"},
        {?\\, ?\\},
        {?/, ?/},
        {?b, ?\b},
        {?f, ?\f},
        {?n, ?\n},
        {?r, ?\r},
        {?t, ?\t}
      ] do
    defp escaped(<<unquote(name), rest::binary>>), do: {<<unquote(character)>>, rest}
  end

  defp escaped(<<?u, digits::binary-size(4), rest::binary>> = text) do
    case {hexadecimal(digits, text), rest} do
      {high, <<?\\, ?u, low::binary-size(4), rest::binary>>} when high in 0xD800..0xDBFF ->
        case hexadecimal(low, text) do
          low when low in 0xDC00..0xDFFF ->
            {<<0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00)::utf8>>, rest}

          _no_low_surrogate ->
            throw({:json, text})
        end

      {surrogate, _rest} when surrogate in 0xD800..0xDFFF ->
        throw({:json, text})

      {code_point, rest} ->
        {<<code_point::utf8>>, rest}
    end
  end

  defp escaped(text), do: throw({:json, text})

  defp hexadecimal(digits, text) do
    if digits =~ ~r/\A[0-9a-fA-F]{4}\z/,
      do: String.to_integer(digits, 16),
      else: throw({:json, text})
  end

  defp number(text) do
    case Regex.run(~r/\A-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/, text) do
      [digits] ->
        {String.to_integer(digits), after_number(text, digits)}

      [digits, fraction] ->
        {float(digits, fraction, "", text), after_number(text, digits)}

      [digits, fraction, exponent] ->
        {float(digits, fraction, exponent, text), after_number(text, digits)}

      nil ->
        throw({:json, text})
    end
  end

  # Erlang reads a float only with a fraction before its exponent.
  defp float(digits, "", exponent, text) do
    float(String.replace_suffix(digits, exponent, ".0" <> exponent), ".0", exponent, text)
  end

  defp float(digits, _fraction, _exponent, text) do
    String.to_float(digits)
  rescue
    # The number is larger than any float.
    ArgumentError -> throw({:json, text})
  end

  defp after_number(text, digits) do
    binary_part(text, byte_size(digits), byte_size(text) - byte_size(digits))
  end

  defp skip_space(<<space, rest::binary>>) when space in [?\s, ?\t, ?\n, ?\r],
    do: skip_space(rest)

  defp skip_space(rest), do: rest
end
