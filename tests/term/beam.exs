# A BEAM that the tests use as an oracle: one question per line, one answer per line. `hex` is an external term with its
# version byte.
#
#     hex                the same term, encoded again in minor version 2
#     hex hex            "true" if both are the same term, to the last bit
#     source hex elixir  the term of this source, encoded in minor version 2; or what differs, if hex is another term
#     random seed        a random term: its bytes, and "merged" if a map in it has keys that are one key in Python
#     again hex          "true" if this is the last random term
#     version            the version of this Elixir

defmodule RandomTerm do
  # Makes terms of every type, in every size class. The question has seeded `:rand`.

  def term(0), do: scalar()

  def term(depth) do
    case :rand.uniform(9) do
      1 -> list(depth)
      2 -> List.to_tuple(list(depth))
      3 -> map(depth)
      4 -> improper(depth)
      5 -> List.duplicate(Enum.random([:a, 300, "x", 1.5, []]), Enum.random([1, 255, 256]))
      6 -> struct()
      _ -> scalar()
    end
  end

  # Keys of any nesting, so that some are equal in Python: 1 and 1.0, :a and "a".
  defp map(depth), do: Map.new(list(depth), &{key(depth - 1), &1})

  defp key(0), do: Enum.random([scalar(), Enum.random([0, 1, 0.0, 1.0, true, false, :a, "a", nil, "nil"])])

  defp key(depth) do
    case :rand.uniform(6) do
      1 -> for _ <- 1..:rand.uniform(3), do: key(depth - 1)
      2 -> {key(depth - 1), key(0)}
      3 -> %{key(0) => key(depth - 1)}
      _ -> key(0)
    end
  end

  defp list(depth), do: for(_ <- 1..(:rand.uniform(6) - 1)//1, do: term(depth - 1))

  defp improper(depth) do
    tail = Enum.random([scalar(), {:tail}, %{}])
    if is_list(tail), do: [1 | :tail], else: [term(depth - 1) | tail]
  end

  defp scalar do
    case :rand.uniform(12) do
      1 -> integer()
      2 -> Enum.random([0, 1, 255, 256, -1, 0x7FFFFFFF, 0x80000000, -0x80000000, -0x80000001])
      3 -> float()
      4 -> Enum.random([nil, true, false, :ok, :undefined, :"", :é, :ł, :"🚀", __MODULE__])
      5 -> :erlang.binary_to_atom(text(40))
      6 -> text(300)
      7 -> :rand.bytes(:rand.uniform(300))
      8 -> bits(:rand.uniform(20))
      9 -> for _ <- 1..:rand.uniform(300), do: :rand.uniform(256) - 1
      10 -> Enum.random([[], {}, %{}, "", ~c"abc", 0.0])
      11 -> of_a_node()
      12 -> fun()
    end
  end

  defp bits(count) do
    <<bits::bits-size(count), _::bits>> = :rand.bytes(3)
    bits
  end

  defp integer do
    count = :rand.uniform(2_100)
    <<number::size(count)-signed, _::bits>> = :rand.bytes(300)
    number
  end

  defp float do
    case :rand.bytes(8) do
      <<number::float>> -> Enum.random([number, :rand.normal(), -0.0, 5.0e-324, 0.1])
      _no_number -> Enum.random([1.7976931348623157e308, 1.0e22, 2.0])
    end
  end

  defp text(most) do
    for _ <- 1..(:rand.uniform(most) - 1)//1,
        into: "",
        do: <<Enum.random([0, ?a, ?\n, 0x7F, ?é, 0x7FF, ?ł, ?中, 0xFFFF, 0x1F680, 0x10FFFF])::utf8>>
  end

  defp of_a_node do
    node = Enum.random([<<119, 3, "a@b">>, <<119, 4, "é@b">>, <<119, 4, "ł@b">>])
    [a, b, c] = for _ <- 1..3, do: <<:rand.uniform(0xFFFFFFFF)::32>>

    Enum.random([
      self(),
      make_ref(),
      hd(:erlang.ports()),
      :erlang.binary_to_term(<<131, 88, node::binary, a::binary, b::binary, c::binary>>),
      :erlang.binary_to_term(<<131, 120, node::binary, a::binary, b::binary, c::binary>>),
      :erlang.binary_to_term(<<131, 90, 2::16, node::binary, a::binary, 5::32, c::binary>>)
    ])
  end

  defp fun do
    free = Enum.random([1, "text", [1, 2], :é])
    Enum.random([&:lists.map/2, :erlang.make_fun(:é, :ł, 3), fn -> free end, fn number -> {number, free} end])
  end

  defp struct do
    microsecond = {Enum.random([0, 120_000, 999_999]), Enum.random([0, 2, 6])}
    at = %{~U[2024-02-29 23:59:59Z] | microsecond: microsecond, year: :rand.uniform(9_999), day: :rand.uniform(28)}

    Enum.random([
      at,
      DateTime.to_naive(at),
      DateTime.to_date(at),
      DateTime.to_time(at),
      %{at | time_zone: "Europe/Berlin", zone_abbr: "CEST", utc_offset: 3600, std_offset: 3600},
      %{__struct__: Decimal, sign: Enum.random([1, -1]), coef: abs(integer()), exp: :rand.uniform(99) - 50},
      MapSet.new([key(1), key(0), text(5)]),
      Range.new(:rand.uniform(9), integer(), Enum.random([1, -1, 7]))
    ])
  end
end

defmodule PythonKeys do
  # Returns a key as Python compares it, defined independently of the codec.

  def merged?(map) when is_map(map) do
    {keys, values} = {Map.keys(map), Map.values(map)}
    length(Enum.uniq_by(keys, &same/1)) < length(keys) or Enum.any?(keys ++ values, &merged?/1)
  end

  def merged?(tuple) when is_tuple(tuple), do: merged?(Tuple.to_list(tuple))
  def merged?([first | rest]), do: merged?(first) or merged?(rest)
  def merged?(_scalar), do: false

  defp same(true), do: 1
  defp same(false), do: 0
  defp same(nil), do: nil
  defp same(atom) when is_atom(atom), do: Atom.to_string(atom)
  defp same(float) when is_float(float), do: if(trunc(float) == float, do: trunc(float), else: float)
  defp same(tuple) when is_tuple(tuple), do: {:tuple, same(Tuple.to_list(tuple))}
  defp same([first | rest]), do: [same(first) | same(rest)]
  defp same(map) when is_map(map), do: {:map, Map.new(map, fn {key, value} -> {same(key), same(value)} end)}
  defp same(other), do: other
end

defmodule Answers do
  def to(["random", seed]) do
    :rand.seed(:exsss, String.to_integer(seed))
    term = RandomTerm.term(4)
    Process.put(:random, {:is, term})  # `Process.get` would make nil of :undefined
    options = [{:minor_version, Enum.random([1, 2])}, {:compressed, Enum.random([0, 0, 6])}]
    word = if PythonKeys.merged?(term), do: "merged", else: "distinct"
    hex(:erlang.term_to_binary(term, options)) <> " " <> word
  end

  def to(["again", hex]) do
    {:is, term} = Process.get(:random)
    to_string(same?(decoded(hex), term))
  end

  def to(["source", hex | words]) do
    {term, _bindings} = Code.eval_string(Enum.join(words, " "))
    if same?(decoded(hex), term), do: hex(encoded(term)), else: inspect({decoded(hex), :is_not, term})
  end

  def to(["version"]), do: System.version()

  def to([hex]), do: hex(encoded(decoded(hex)))
  def to([left, right]), do: to_string(same?(decoded(left), decoded(right)))

  # Until OTP 27, `===` holds for 0.0 and -0.0.
  defp same?(left, right), do: left === right and encoded(left) == encoded(right)

  defp encoded(term), do: :erlang.term_to_binary(term, minor_version: 2)
  defp decoded(hex), do: hex |> Base.decode16!(case: :lower) |> :erlang.binary_to_term()
  defp hex(bytes), do: Base.encode16(bytes, case: :lower)
end

Enum.each(IO.stream(:stdio, :line), fn line ->
  line |> String.trim() |> String.split(" ") |> Answers.to() |> IO.puts()
end)
