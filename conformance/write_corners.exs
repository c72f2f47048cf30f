# Writes conformance/terms-corners.tsv: the corners of every kind of term, as this BEAM encodes each in both minor
# versions, and the forms that a BEAM reads and no longer writes. Run from the project's root:
#
#     elixir conformance/write_corners.exs
#
# Sources are Erlang; every BEAM makes the same term of one, unless it is of one run only, such as `self()`.

defmodule Corners do
  @moduledoc false

  def all do
    integers() ++ floats() ++ atoms() ++ lists() ++ binaries() ++ bitstrings() ++ tuples() ++ maps() ++ identifiers() ++
      funs() ++ wrapped()
  end

  # 7, 8, 31, 32: widths of the format; 27 and 59: the BEAM's own small integers; 2,040 bits: the longest SMALL_BIG.
  defp integers do
    for bits <- [7, 8, 15, 16, 27, 31, 32, 59, 63, 64, 127, 128, 2032, 2040, 2048, 65_536],
        {sign, word} <- [{"", "plus"}, {"-", "minus"}],
        {change, suffix} <- [{" - 1", "_less_1"}, {"", ""}, {" + 1", "_more_1"}] do
      {"int_#{word}_2p#{bits}#{suffix}", "#{sign}((1 bsl #{bits})#{change})"}
    end
  end

  defp floats do
    bits = [
      float_min_subnormal: 0x0000000000000001,
      float_minus_min_subnormal: 0x8000000000000001,
      float_max_subnormal: 0x000FFFFFFFFFFFFF,
      float_min_normal: 0x0010000000000000,
      float_max: 0x7FEFFFFFFFFFFFFF,
      float_minus_max: 0xFFEFFFFFFFFFFFFF,
      float_after_1: 0x3FF0000000000001,
      float_before_1: 0x3FEFFFFFFFFFFFFF,
      float_minus_0: 0x8000000000000000,
      float_all_mantissa: 0x3FFFFFFFFFFFFFFF,
      float_like_text: 0x4142434445464748
    ]

    literals = ~w(0.1 -0.1 0.2 0.30000000000000004 1.0e-5 1.0e-7 1.0e15 1.0e16 1.0e17 1.0e21 1.0e22 1.0e23 1.0e100
      1.0e-100 1.0e308 255.0 256.0 2147483648.0 4294967296.0 9007199254740991.0 9007199254740992.0 9007199254740994.0
      9223372036854775808.0 18446744073709551616.0 -9223372036854775808.0 123456789.125)

    for({name, bits} <- bits, do: {name, "begin <<F/float>> = <<#{bits}:64>>, F end"}) ++
      for literal <- literals, do: {"float_#{literal}", literal}
  end

  # Characters of one to four bytes in UTF-8; those below 256 are Latin-1 for minor version 1. The counts lead to
  # either side of 64, 128 and 256 bytes, and to 255 characters, which is the most.
  defp atoms do
    counts = [
      {?a, [1, 63, 64, 127, 128, 254, 255]},
      {?é, [1, 31, 32, 63, 64, 127, 128, 254, 255]},
      {?ł, [1, 31, 32, 63, 64, 127, 128, 254, 255]},
      {?中, [1, 21, 22, 42, 43, 85, 86, 254, 255]},
      {0x1F680, [1, 15, 16, 31, 32, 63, 64, 254, 255]}
    ]

    edges = [0, 0x7F, 0x80, 0xFF, 0x100, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFEFF, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF]

    names = ~w(Nil NIL True FALSE None null nan infinity Elixir.Nil __struct__ $erlport.opaque $type ok? a"b a'b a\\b)

    for({char, counts} <- counts, count <- counts, do: {"atom_#{hex(char)}_x#{count}", copied(char, count)}) ++
      for(char <- edges, do: {"atom_edge_#{hex(char)}", copied(char, 1)}) ++
      for(name <- names, do: {"atom_#{name}", "list_to_atom(#{inspect(to_charlist(name), charlists: :as_lists)})"}) ++
      [
        {"atom_mixed_widths", ~S|'a\x{e9}\x{142}\x{4e2d}\x{1F680}'|},
        {"atom_line_and_tab", ~S|'a\nb\tc\r'|},
        {"atom_latin1_and_ascii", ~S|'na\x{ef}ve caf\x{e9}'|},
        {"atoms_repeated", ~S|[ok, error, ok, 'caf\x{e9}', ok, 'caf\x{e9}', '\x{142}', '\x{142}']|},
        {"atoms_as_in_elixir", "[nil, true, false, undefined]"}
      ]
  end

  defp copied(char, count), do: "list_to_atom(lists:duplicate(#{count}, 16##{hex(char)}))"
  defp hex(char), do: Integer.to_string(char, 16)

  defp lists do
    [
      string_1: "[0]",
      string_255: "lists:duplicate(255, 1)",
      string_256: "lists:seq(0, 255)",
      string_65535: "lists:duplicate(65535, 255)",
      list_65536_bytes: "lists:duplicate(65536, 7)",
      list_300_atoms: "lists:duplicate(300, a)",
      list_bytes_then_256: "[1, 2, 256]",
      list_bytes_then_minus_1: "[1, 2, -1]",
      list_bytes_then_float: "[1, 2, 3.0]",
      list_bytes_then_true: "[1, true]",
      list_float_then_bytes: "[1.0, 2, 3]",
      list_of_strings: ~S|["abc", "", "de", [1, 256]]|,
      list_of_empties: "[[], {}, \#{}, <<>>, '', 0]",
      list_string_in_tuple: ~S|{"abc", ["abc"]}|,
      list_utf8_charlist: ~S|"za\x{17c}\x{f3}\x{142}\x{107}"|,
      list_of_lists: "[[1], [[2]], [[[300]]]]",
      list_keyword: "[{a, 1}, {b, [{c, 2}]}]",
      list_proplist_atoms: "[a, {b, 1}, c]",
      list_iodata: ~S|[<<"a">>, [<<"b">>, 99], "d"]|,
      improper_empty_list_item: "[[] | a]",
      improper_atom_nil: "[1 | nil]",
      improper_binary: "[1 | <<2>>]",
      improper_map: "[1 | \#{a => 1}]",
      improper_tuple: "[1 | {2}]",
      improper_float: "[1, 2, 3 | 4.0]",
      improper_big: "[1 | 1 bsl 64]",
      improper_string: ~S("abc" ++ d),
      improper_byte_tail: "[1, 2 | 3]",
      improper_inside: "[[1 | 2], [3 | 4] | 5]",
      improper_long: "lists:seq(1, 300) ++ a",
      deep_list_255: "lists:foldl(fun(_, A) -> [A] end, [], lists:seq(1, 255))",
      deep_list_256: "lists:foldl(fun(_, A) -> [A, 1] end, 1, lists:seq(1, 256))",
      deep_tuple_255: "lists:foldl(fun(_, A) -> {A} end, {}, lists:seq(1, 255))",
      deep_map_255: "lists:foldl(fun(_, A) -> \#{a => A} end, \#{}, lists:seq(1, 255))",
      deep_mixed_300: "lists:foldl(fun(_, A) -> [{\#{<<107>> => A}}] end, [], lists:seq(1, 100))",
      deep_improper_100: "lists:foldl(fun(_, A) -> [A | x] end, y, lists:seq(1, 100))"
    ]
  end

  defp binaries do
    sized =
      for size <- [0, 1, 2, 63, 64, 65, 127, 128, 255, 256, 257, 4096, 65_535, 65_536] do
        {"bin_#{size}_ascii", "binary:copy(<<\"a\">>, #{size})"}
      end

    not_text = for size <- [1, 64, 65, 256], do: {"bin_#{size}_not_text", "binary:copy(<<255>>, #{size})"}

    bytes = [
      utf8_last_of_1: "7F", utf8_first_of_2: "C280", utf8_last_of_2: "DFBF", utf8_first_of_3: "E0A080",
      utf8_before_surrogates: "ED9FBF", utf8_after_surrogates: "EE8080", utf8_noncharacter_fffe: "EFBFBE",
      utf8_noncharacter_ffff: "EFBFBF", utf8_first_of_4: "F0908080", utf8_last: "F48FBFBF", utf8_bom: "EFBBBF",
      utf8_bom_twice: "EFBBBFEFBBBF", utf8_mixed: "61C3A9C582E4B8ADF09F9A80", utf8_combining: "65CC81",
      utf8_replacement: "EFBFBD", utf8_nul_inside: "610062", utf8_nul_last: "6100", utf8_lines: "0D0A0A0D09",
      utf8_line_separator: "E280A8", utf8_right_to_left: "E280AED7A9", not_utf8_lone_continuation: "80",
      not_utf8_cut_2: "C3", not_utf8_cut_3_at_1: "E4", not_utf8_cut_3_at_2: "E4B8", not_utf8_cut_4_at_1: "F0",
      not_utf8_cut_4_at_2: "F09F", not_utf8_cut_4_at_3: "F09F9A", not_utf8_cut_inside: "C3617A",
      not_utf8_overlong_nul: "C080", not_utf8_overlong_2: "C1BF", not_utf8_overlong_3: "E09FBF",
      not_utf8_overlong_4: "F08FBFBF", not_utf8_first_surrogate: "EDA080", not_utf8_last_surrogate: "EDBFBF",
      not_utf8_pair_of_surrogates: "EDA0BDEDBA80", not_utf8_beyond_last: "F4908080", not_utf8_f5: "F5808080",
      not_utf8_5_bytes: "F888808080", not_utf8_fe: "FE", not_utf8_utf16_bom: "FFFE6100", not_utf8_latin1: "636166E9",
      not_utf8_at_the_end: "6162636465666768FF", not_utf8_after_multibyte: "C3A9C3"
    ]

    sized ++
      not_text ++
      for({name, hex} <- bytes, do: {name, "<<16##{hex}:#{4 * byte_size(hex)}>>"}) ++
      [
        {"not_utf8_at_byte_64", "<<(binary:copy(<<\"a\">>, 63))/binary, 233>>"},
        {"utf8_across_byte_64", "<<(binary:copy(<<\"a\">>, 63))/binary, 195, 169>>"},
        {"bin_part_of_larger", "binary:part(binary:copy(<<\"abc\">>, 100), 7, 70)"},
        {"utf8_all_of_latin1", "unicode:characters_to_binary(lists:seq(0, 255))"},
        {"bin_all_bytes", "list_to_binary(lists:seq(0, 255))"}
      ]
  end

  defp bitstrings do
    for bits <- 1..7, {content, word} <- [{"0", "zeros"}, {"-1", "ones"}] do
      {"bits_#{bits}_#{word}", "<<#{content}:#{bits}>>"}
    end ++
      for(bits <- 1..7, do: {"bits_16_more_#{bits}", "<<\"ab\", 85:#{bits}>>"}) ++
      [
        {"bits_8000_more_3", "<<(binary:copy(<<1>>, 1000))/binary, 5:3>>"},
        {"bits_inside", "[<<1:1>>, {<<2:2>>}, \#{a => <<3:3>>}]"}
      ]
  end

  defp tuples do
    for size <- [0, 1, 2, 3, 254, 255, 256, 257] do
      {"tuple_#{size}_zeros", "list_to_tuple(lists:duplicate(#{size}, 0))"}
    end ++
      [
        {"tuple_of_empties", "{{}, [], \#{}, <<>>}"},
        {"tuple_of_every_kind", "{a, 1, -1, 1 bsl 70, 1.5, <<1>>, <<255>>, <<1:1>>, [1], [1 | 2], {}, \#{}, \"s\"}"},
        {"tuple_256_nested", "list_to_tuple(lists:duplicate(256, {a, [300]}))"}
      ]
  end

  defp maps do
    for size <- [1, 2, 31, 32, 33, 64, 255, 256, 300] do
      {"map_#{size}_integers", "maps:from_list([{I, -I} || I <- lists:seq(1, #{size})])"}
    end ++
      for(size <- [32, 33], do: {"map_#{size}_texts", texts(size)}) ++
      [
        map_keys_bytes: "\#{<<>> => 1, <<0>> => 2, <<255>> => 3, <<195, 169>> => 4}",
        map_keys_floats: "\#{0.5 => 1, -0.5 => 2, 1.0e300 => 3, 2.0 => 4}",
        map_keys_bigs: "\#{(1 bsl 64) => 1, -(1 bsl 64) => 2, (1 bsl 64) + 1 => 3}",
        map_keys_lists: "\#{[] => 1, [1] => 2, [[]] => 3, [[1], 300] => 4, \"abc\" => 5}",
        map_keys_tuples: "\#{{} => 1, {1} => 2, {{}} => 3, {a, <<\"b\">>} => 4, {[1]} => 5}",
        map_keys_maps: "\#{\#{} => 1, \#{a => 1} => 2, \#{\#{} => \#{}} => 3, \#{[1] => {2}} => 4}",
        map_keys_list_and_tuple: "\#{[1, 2] => list, {1, 2} => tuple}",
        map_keys_improper: "\#{[1 | 2] => 1, [1, 2] => 2, [1 | {2}] => 3}",
        map_keys_bitstrings: "\#{<<1:1>> => 1, <<1:2>> => 2, <<1:7>> => 3}",
        map_keys_identifiers: "\#{list_to_pid(\"<0.1.0>\") => 1, list_to_ref(\"#Ref<0.1.2.3>\") => 2}",
        map_keys_export: "\#{fun lists:map/2 => 1, fun lists:foldl/3 => 2}",
        map_keys_atoms: ~S|#{nil => 1, true => 2, false => 3, undefined => 4, '' => 5, 'caf\x{e9}' => 6, '\x{142}' => 7}|,
        map_keys_near_each_other: ~S|#{a => 1, <<"b">> => 2, [97] => 3, {a} => 4, 97 => 5, 97.5 => 6}|,
        map_key_deep: "\#{lists:foldl(fun(_, A) -> {A} end, {}, lists:seq(1, 60)) => 1}",
        map_33_tuples: "maps:from_list([{{I, [I]}, \#{I => I}} || I <- lists:seq(1, 33)])",
        map_values_empty: "\#{a => [], b => {}, c => \#{}, d => <<>>, e => ''}",
        map_values_maps: "\#{a => \#{a => \#{a => 1}, b => 2}, b => \#{a => 1}}",
        map_of_list_of_maps: ~S|#{<<"demos">> => [#{<<"q">> => <<"1">>}, #{<<"q">> => <<"2">>, <<"n">> => 1.5}]}|,
        map_string_key_struct: ~S|#{<<"__struct__">> => 1}|,
        map_list_of_33: "[maps:from_list([{I, I} || I <- lists:seq(1, 33)]), \#{}]"
      ]
  end

  defp texts(size), do: "maps:from_list([{integer_to_binary(I), I} || I <- lists:seq(1, #{size})])"

  # Of this node, and of others, whose names and creations a BEAM keeps: NEW_PID, NEW_PORT, V4_PORT, NEWER_REFERENCE.
  defp identifiers do
    nodes = [ascii: "a@b", latin1: "é@b", utf8: "ł@b", long: String.duplicate("n", 250) <> "@host"]

    [
      pid_self: "self()",
      pid_0: ~S|list_to_pid("<0.0.0>")|,
      pid_local_number: ~S|list_to_pid("<0.12345.0>")|,
      port_local: ~S|list_to_port("#Port<0.1>")|,
      port_of_this_run: "hd(erlang:ports())",
      ref_local: ~S|list_to_ref("#Ref<0.1.2.3>")|,
      ref_of_this_run: "make_ref()",
      ref_alias_of_this_run: "erlang:alias()",
      identifiers_inside: ~S|{list_to_pid("<0.1.0>"), [list_to_ref("#Ref<0.1.2.3>")], #{p => list_to_port("#Port<0.1>")}}|
    ] ++
      for({word, node} <- nodes, do: {"pid_of_#{word}_node", read(pid(node, 1, 2, 3))}) ++
      for({word, node} <- nodes, do: {"ref_of_#{word}_node", read(reference(node, 3, 3))}) ++
      for({word, node} <- nodes, do: {"port_of_#{word}_node", read(port(node, 7, 3))}) ++
      for(words <- 1..5, do: {"ref_of_#{words}_words", read(reference("a@b", words, 0xFFFFFFFF))}) ++
      [
        {"pid_largest", read(pid("a@b", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF))},
        {"pid_creation_0", read(pid("a@b", 5, 0, 0))},
        {"port_28_bits", read(port("a@b", 0xFFFFFFF, 1))},
        {"port_64_bits", read(port("a@b", 0xFFFFFFFFFFFFFFFF, 1))}
      ]
  end

  defp pid(node, id, serial, creation), do: <<88, atom(node)::binary, id::32, serial::32, creation::32>>
  defp port(node, id, creation), do: <<120, atom(node)::binary, id::64, creation::32>>

  # 18 bits of the first word are all that a BEAM of today looks at.
  defp reference(node, words, creation) do
    <<90, words::16, atom(node)::binary, creation::32, 1::32, 0x01020304::size(words - 1)-unit(32)>>
  end

  defp atom(name), do: <<119, byte_size(name), name::binary>>

  defp read(bytes), do: "binary_to_term(<<131, #{Enum.join(:binary.bin_to_list(bytes), ", ")}>>)"

  defp funs do
    [
      fun_export: "fun lists:map/2",
      fun_export_arity_0: "fun erlang:node/0",
      fun_export_of_nowhere_255: "fun m:f/255",
      fun_export_of_nowhere_latin1: ~S|fun 'caf\x{e9}':'\x{e9}'/1|,
      fun_export_of_nowhere_utf8: ~S|fun '\x{142}':'\x{1F680}'/1|,
      fun_export_inside: "[{fun lists:map/2}, \#{f => fun lists:foldl/3}]",
      fun_no_environment: read(fun_of("m", [])),
      fun_environment_of_1: read(fun_of("m", [{:a, 1}])),
      fun_environment_of_200: read(fun_of("m", Enum.to_list(1..200))),
      fun_environment_of_fun: read(fun_of("m", [&:lists.map/2, <<5::3>>, self_free_map()])),
      fun_of_latin1_module: read(fun_of("é", ["text"])),
      fun_inside: "[#{read(fun_of("m", [1]))}, \#{f => #{read(fun_of("n", [2]))}}]"
    ]
  end

  defp self_free_map, do: %{"a" => [1, 2.5], b: {nil, :é}}

  # NEW_FUN_EXT as another node would send it: nothing in it is of this run.
  defp fun_of(module, free) do
    bytes_of_free = for term <- free, do: binary_part(utf8(term), 1, byte_size(utf8(term)) - 1)

    fields = [<<2, 1::128, 3::32, length(free)::32>>, atom(module), <<97, 3, 97, 9>>, pid("a@b", 1, 0, 1), bytes_of_free]
    body = IO.iodata_to_binary(fields)
    <<112, byte_size(body) + 4::32, body::binary>>
  end

  defp utf8(term), do: :erlang.term_to_binary(term, minor_version: 2)

  # What ErlPort's Erlang half makes of a term that Python cannot hold, and tuples that only look like it.
  defp wrapped do
    contents = [
      pid: pid("a@b", 1, 2, 3), port: port("a@b", 7, 3), ref: reference("a@b", 3, 3), fun: fun_of("m", [1]),
      export: <<113, atom("lists")::binary, atom("map")::binary, 97, 2>>, bits: <<77, 1::32, 3, 0xA0>>
    ]

    for {word, bytes} <- contents do
      {"opaque_#{word}", "{'$erlport.opaque', erlang, <<#{Enum.join(:binary.bin_to_list(bytes), ", ")}>>}"}
    end ++
      [
        {"like_opaque_of_2", "{'$erlport.opaque', erlang}"},
        {"like_opaque_of_4", "{'$erlport.opaque', erlang, <<1>>, 2}"},
        {"like_opaque_text", "{<<\"$erlport.opaque\">>, python, <<1>>}"},
        {"like_opaque_list", "['$erlport.opaque', python, <<1>>]"}
      ]
  end
end

evaluate = fn source ->
  {:ok, tokens, _line} = :erl_scan.string(to_charlist(source <> "."))
  {:ok, expressions} = :erl_parse.parse_exprs(tokens)
  {:value, term, _bindings} = :erl_eval.exprs(expressions, :erl_eval.new_bindings())
  term
end

forms = fn term ->
  [minor1, minor2] = for version <- [1, 2], do: :erlang.term_to_binary(term, minor_version: version)
  zlib = :erlang.term_to_binary(term, [{:compressed, 9}, {:minor_version, 2}])
  plain = if minor1 == minor2, do: [{"both", minor1}], else: [{"minor1", minor1}, {"default", minor2}]
  if byte_size(zlib) < byte_size(minor2), do: plain ++ [{"zlib", zlib}], else: plain
end

corners = Corners.all()
names = Enum.map(corners, fn {name, _source} -> name end)
[] = names -- Enum.uniq(names)

rows =
  for {name, source} <- corners, {form, encoded} <- forms.(evaluate.(source)) do
    Enum.join([name, System.otp_release(), form, source, Base.encode16(encoded, case: :lower)], "\t")
  end

header = "# name\totp_release\tform (see README.md)\terlang_source\thex of the external term"
File.write!("conformance/terms-corners.tsv", Enum.map([header | rows], &[&1, "\n"]))
