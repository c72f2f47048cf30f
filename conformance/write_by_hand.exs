# Writes what no BEAM of today writes, made by hand here and shown to this BEAM before it is kept:
#
# - conformance/terms-by-hand.tsv: forms that a BEAM reads. `binary_to_term` gives the very term of the source.
# - conformance/refused.tsv: bytes that Python refuses. The column "a BEAM" says whether a BEAM writes them, reads them, or
#   refuses them too.
#
# Run from the project's root:  elixir conformance/write_by_hand.exs

defmodule ByHand do
  @moduledoc false

  @node <<115, 3, "a@b">>

  # Name, source in Erlang, bytes without the version byte.
  def old_forms do
    atoms() ++ numbers() ++ lists_tuples_maps() ++ identifiers() ++ compressed()
  end

  defp atoms do
    [
      {"small_atom_ok", "ok", <<115, 2, "ok">>},
      {"small_atom_empty", "''", <<115, 0>>},
      {"small_atom_nil", "nil", <<115, 3, "nil">>},
      {"small_atom_true", "true", <<115, 4, "true">>},
      {"small_atom_false", "false", <<115, 5, "false">>},
      {"small_atom_latin1", ~S|'\x{e9}\x{ff}'|, <<115, 2, 0xE9, 0xFF>>},
      {"small_atom_255_latin1", "list_to_atom(lists:duplicate(255, 233))", <<115, 255, String.duplicate(<<233>>, 255)::binary>>},
      {"atom_nil", "nil", <<100, 0, 3, "nil">>},
      {"atom_255_latin1", "list_to_atom(lists:duplicate(255, 233))", <<100, 255::16, String.duplicate(<<233>>, 255)::binary>>},
      {"atom_utf8_short", "ok", <<118, 2::16, "ok">>},
      {"atom_utf8_nil", "nil", <<118, 3::16, "nil">>},
      {"atom_utf8_empty", "''", <<118, 0::16>>},
      {"atom_utf8_of_latin1", ~S|'\x{e9}'|, <<118, 2::16, 0xC3, 0xA9>>},
      {"atoms_of_every_tag", "[ok, ok, ok, ok]", <<108, 4::32, 100, 2::16, "ok", 115, 2, "ok", 118, 2::16, "ok", 119, 2, "ok", 106>>}
    ]
  end

  defp numbers do
    floats =
      for {word, source} <- [
            {"1", "1.0"}, {"minus_0", "-0.0"}, {"tenth", "0.1"}, {"pi", "3.141592653589793"}, {"1e22", "1.0e22"},
            {"max", "1.7976931348623157e308"}, {"min_subnormal", "5.0e-324"}, {"minus_1e_300", "-1.0e-300"}
          ] do
        # FLOAT_EXT: what minor version 0 wrote, as C's "%.20e" prints it.
        text = :erlang.float_to_list(String.to_float(source)) |> to_string()
        {"float_#{word}", source, <<99, text::binary, 0::size(31 - byte_size(text))-unit(8)>>}
      end

    floats ++
      [
        {"integer_5", "5", <<98, 5::32>>},
        {"integer_255", "255", <<98, 255::32>>},
        {"small_big_of_0_bytes", "0", <<110, 0, 0>>},
        {"small_big_5", "5", <<110, 1, 0, 5>>},
        {"small_big_minus_5", "-5", <<110, 1, 1, 5>>},
        {"small_big_minus_0", "0", <<110, 1, 1, 0>>},
        {"small_big_leading_zeros", "5", <<110, 9, 0, 5, 0::64>>},
        {"small_big_2p31", "1 bsl 31", <<110, 4, 0, 0, 0, 0, 128>>},
        {"small_big_minus_2p31", "-(1 bsl 31)", <<110, 4, 1, 0, 0, 0, 128>>},
        {"small_big_minus_2p63", "-(1 bsl 63)", <<110, 8, 1, 0::56, 128>>},
        {"small_big_in_8_bytes", "300", <<110, 8, 0, 44, 1, 0::48>>},
        {"large_big_of_0_bytes", "0", <<111, 0::32, 0>>},
        {"large_big_7", "7", <<111, 1::32, 0, 7>>},
        {"large_big_minus_7", "-7", <<111, 1::32, 1, 7>>},
        {"large_big_2p64", "1 bsl 64", <<111, 9::32, 0, 0::64, 1>>},
        {"large_big_leading_zeros", "1", <<111, 300::32, 0, 1, 0::size(299)-unit(8)>>}
      ]
  end

  defp lists_tuples_maps do
    [
      {"string_empty", "[]", <<107, 0::16>>},
      {"list_of_bytes", "[1, 2]", <<108, 2::32, 97, 1, 97, 2, 106>>},
      {"list_with_list_tail", "[1, 300]", <<108, 1::32, 97, 1, 108, 1::32, 98, 300::32, 106>>},
      {"list_with_string_tail", "[1, 2, 3]", <<108, 1::32, 97, 1, 107, 2::16, 2, 3>>},
      {"list_with_empty_string_tail", "[1]", <<108, 1::32, 97, 1, 107, 0::16>>},
      {"list_with_improper_tail", "[1, 2 | 3]", <<108, 1::32, 97, 1, 108, 1::32, 97, 2, 97, 3>>},
      {"list_of_0_with_nil", "[]", <<108, 0::32, 106>>},
      {"list_of_0_with_tail", "7", <<108, 0::32, 97, 7>>},
      {"list_of_0_inside", "[[], [1]]", <<108, 2::32, 108, 0::32, 106, 108, 0::32, 107, 1::16, 1, 106>>},
      {"list_with_list_of_0_as_tail", "[1]", <<108, 1::32, 97, 1, 108, 0::32, 106>>},
      {"large_tuple_of_0", "{}", <<105, 0::32>>},
      {"large_tuple_of_2", "{1, a}", <<105, 2::32, 97, 1, 100, 1::16, "a">>},
      {"large_tuple_of_255", "list_to_tuple(lists:duplicate(255, []))", <<105, 255::32, String.duplicate("j", 255)::binary>>},
      {"map_in_another_order", "\#{1 => a, 2 => b}", <<116, 2::32, 97, 2, 119, 1, "b", 97, 1, 119, 1, "a">>},
      {"map_key_of_long_form", "\#{1 => 2}", <<116, 1::32, 98, 1::32, 98, 2::32>>},
      {"map_key_string_as_list", "\#{\"a\" => 1}", <<116, 1::32, 108, 1::32, 97, ?a, 106, 97, 1>>},
      {"bits_with_unused_bits_set", "<<7:3>>", <<77, 1::32, 3, 255>>}
    ]
  end

  # Creations of one byte, and nodes in Latin-1 atoms; the sources are what a BEAM of today writes of the same terms.
  defp identifiers do
    [
      {"pid", read(<<88, 119, 3, "a@b", 7::32, 1::32, 2::32>>), <<103, @node, 7::32, 1::32, 2>>},
      {"pid_node_in_atom", read(<<88, 119, 3, "a@b", 7::32, 1::32, 2::32>>), <<103, 100, 3::16, "a@b", 7::32, 1::32, 2>>},
      {"new_pid_node_in_small_atom", read(<<88, 119, 3, "a@b", 7::32, 1::32, 9::32>>), <<88, @node, 7::32, 1::32, 9::32>>},
      {"pid_latin1_node", read(<<88, 119, 4, "é@b", 7::32, 1::32, 2::32>>), <<103, 115, 3, 0xE9, "@b", 7::32, 1::32, 2>>},
      {"port", read(<<120, 119, 3, "a@b", 7::64, 2::32>>), <<102, @node, 7::32, 2>>},
      {"new_port", read(<<120, 119, 3, "a@b", 7::64, 900::32>>), <<89, @node, 7::32, 900::32>>},
      {"reference", read(<<90, 1::16, 119, 3, "a@b", 2::32, 7::32>>), <<101, @node, 7::32, 2>>},
      {"new_reference_of_1", read(<<90, 1::16, 119, 3, "a@b", 2::32, 7::32>>), <<114, 1::16, @node, 2, 7::32>>},
      {"new_reference_of_3", read(<<90, 3::16, 119, 3, "a@b", 2::32, 7::32, 8::32, 9::32>>),
       <<114, 3::16, @node, 2, 7::32, 8::32, 9::32>>},
      {"newer_reference_node_in_small_atom", read(<<90, 1::16, 119, 3, "a@b", 2::32, 7::32>>), <<90, 1::16, @node, 2::32, 7::32>>},
      {"export_in_small_atoms", "fun lists:map/2", <<113, 115, 5, "lists", 115, 3, "map", 97, 2>>}
    ]
  end

  defp compressed do
    [
      {"compressed_5", "5", inflatable(<<97, 5>>)},
      {"compressed_nothing_saved", "<<1, 2, 3>>", inflatable(<<109, 3::32, 1, 2, 3>>)},
      {"compressed_old_forms", "[ok | 1.5]", inflatable(<<108, 1::32, 115, 2, "ok", 99, "1.50000000000000000000e+00", 0::40>>)}
    ]
  end

  # Name, kind, source: what a BEAM can hold and Python cannot, or must not.
  def terms_refused_by_python, do: merged_keys() ++ pickles_and_depths()

  defp merged_keys do
    for {name, source} <- [
          zero_and_minus_zero: "\#{0 => 1, -0.0 => 2}", big_and_float: "\#{(1 bsl 64) => 1, 18446744073709551616.0 => 2}",
          in_tuples: "\#{{a} => 1, {<<\"a\">>} => 2}", in_lists: "\#{[1] => 1, [1.0] => 2}",
          in_maps: "\#{\#{1 => 2} => 1, \#{1.0 => 2.0} => 2}", in_improper_lists: "\#{[a | 0] => 1, [a | false] => 2}",
          empty_names: "\#{'' => 1, <<>> => 2}", deep: "{r, [\#{x => \#{{ok, [1, true]} => a, {ok, [1, 1]} => b}}]}",
          among_many: "maps:from_list([{float(40), a} | [{I, I} || I <- lists:seq(1, 100)]])"
        ] do
      {"merge_#{name}", "merged_keys", source}
    end
  end

  defp pickles_and_depths do
    [
      {"opaque_python_in_a_list", "pickle", "[{'$erlport.opaque', python, <<128, 4, 78, 46>>}]"},
      {"opaque_of_ruby", "pickle", "{'$erlport.opaque', ruby, <<1>>}"},
      {"opaque_of_a_list", "opaque", "{'$erlport.opaque', erlang, [77]}"},
      {"opaque_of_a_tuple", "opaque", "{'$erlport.opaque', erlang, <<104, 0>>}"},
      {"opaque_of_nothing", "opaque", "{'$erlport.opaque', erlang, <<>>}"},
      {"opaque_cut", "opaque", "{'$erlport.opaque', erlang, <<77, 0, 0, 0>>}"},
      {"opaque_with_more_behind", "opaque", "{'$erlport.opaque', erlang, <<77, 0, 0, 0, 1, 1, 128, 0>>}"},
      {"key_too_deep", "depth", "\#{lists:foldl(fun(_, A) -> {A} end, {}, lists:seq(1, 70)) => 1}"},
      {"too_deep", "depth", "lists:foldl(fun(_, A) -> [A] end, [], lists:seq(1, 600))"}
    ]
  end

  # Name, kind, source, bytes: forms that a BEAM reads and no release has written.
  def forms_refused_by_python do
    [
      {"small_big_sign_2", "sign", "-5", <<110, 1, 2, 5>>},
      {"bits_of_8", "bits", "<<255>>", <<77, 1::32, 8, 255>>},
      {"export_arity_in_4_bytes", "fun", "fun lists:map/2", <<113, 119, 5, "lists", 119, 3, "map", 98, 2::32>>}
    ]
  end

  # The same, of forms that OTP 25 reads and OTP 27 does not.
  def forms_of_which_releases_differ do
    [{"bits_of_0_without_bytes", "bits", "<<>>", <<77, 0::32, 0>>}]
  end

  # Name, kind, bytes.
  def refused_by_both do
    body = <<109, 100::32, 0::800>>

    [
      {"float_nan", "float", <<70, 0x7FF8000000000000::64>>},
      {"float_nan_with_payload", "float", <<70, 0x7FF8DEADBEEF0001::64>>},
      {"float_signaling_nan", "float", <<70, 0x7FF0000000000001::64>>},
      {"float_minus_nan", "float", <<70, 0xFFFFFFFFFFFFFFFF::64>>},
      {"float_infinity", "float", <<70, 0x7FF0000000000000::64>>},
      {"float_minus_infinity", "float", <<70, 0xFFF0000000000000::64>>},
      {"float_nan_inside", "float", <<104, 2, 97, 1, 108, 1::32, 70, 0x7FF8000000000000::64, 106>>},
      {"float_text_nan", "float", <<99, "nan", 0::224>>},
      {"float_text_infinity", "float", <<99, "inf", 0::224>>},
      {"float_text_too_large", "float", <<99, "1.0e+999", 0::184>>},
      {"local_ext", "tag", <<121, 0::64, 119, 1, "a">>},
      {"atom_cache_ref", "tag", <<104, 1, 82, 0>>},
      {"tag_0", "tag", <<0>>},
      {"tag_255", "tag", <<255>>},
      {"compressed_inside", "tag", <<104, 1, 80, 2::32, :zlib.compress(<<97, 5>>)::binary>>},
      {"compressed_declares_more", "size", inflatable(body, 106)},
      {"compressed_declares_less", "size", inflatable(body, 104)},
      {"compressed_declares_nothing", "size", inflatable(body, 0)},
      {"compressed_declares_4_gib", "size", inflatable(body, 0xFFFFFFFF)},
      {"compressed_is_no_zlib", "size", <<80, 5::32, "hello">>},
      {"compressed_cut", "cut", binary_part(inflatable(body), 0, byte_size(inflatable(body)) - 5)},
      {"atom_not_utf8", "atom", <<119, 2, 0xC3, 0x28>>},
      {"atom_overlong_utf8", "atom", <<119, 2, 0xC0, 0x80>>},
      {"atom_surrogate", "atom", <<119, 3, 0xED, 0xA0, 0x80>>},
      {"atom_256_characters", "atom", <<118, 256::16, String.duplicate("a", 256)::binary>>},
      {"atom_256_latin1", "atom", <<100, 256::16, String.duplicate(<<233>>, 256)::binary>>},
      {"map_same_key_twice", "merged_keys", <<116, 2::32, 97, 1, 106, 97, 1, 106>>},
      {"map_same_key_in_two_forms", "merged_keys", <<116, 2::32, 119, 1, "a", 106, 100, 1::16, "a", 106>>},
      {"bits_of_9", "bits", <<77, 1::32, 9, 255>>},
      {"bits_of_0", "bits", <<77, 1::32, 0, 255>>},
      {"bits_without_bytes", "bits", <<77, 0::32, 3>>},
      {"binary_4_gib", "cut", <<109, 0xFFFFFFFF::32, "abc">>},
      {"list_4_gi", "cut", <<108, 0xFFFFFFFF::32, 97, 1>>},
      {"tuple_4_gi", "cut", <<105, 0xFFFFFFFF::32, 97, 1>>},
      {"map_4_gi", "cut", <<116, 0xFFFFFFFF::32, 97, 1>>},
      {"big_4_gi", "cut", <<111, 0xFFFFFFFF::32, 0, 1>>},
      {"list_without_tail", "cut", <<108, 1::32, 97, 1>>},
      {"map_without_value", "cut", <<116, 1::32, 97, 1>>},
      {"nothing", "cut", <<>>}
    ]
  end

  defp read(bytes), do: "binary_to_term(<<131, #{Enum.join(:binary.bin_to_list(bytes), ", ")}>>)"

  defp inflatable(body, declared \\ nil),
    do: <<80, (declared || byte_size(body))::32, :zlib.compress(body)::binary>>
end

evaluate = fn source ->
  {:ok, tokens, _line} = :erl_scan.string(to_charlist(source <> "."))
  {:ok, expressions} = :erl_parse.parse_exprs(tokens)
  {:value, term, _bindings} = :erl_eval.exprs(expressions, :erl_eval.new_bindings())
  term
end

with_version = fn bytes -> <<131, bytes::binary>> end
hex = fn bytes -> Base.encode16(bytes, case: :lower) end

shown = fn name, source, encoded ->
  # On OTP 25 `===` holds for 0.0 and -0.0; their bytes differ.
  term = :erlang.binary_to_term(encoded)
  bytes = &:erlang.term_to_binary(&1, minor_version: 2)
  same = term === evaluate.(source) and (bytes.(term) == bytes.(evaluate.(source)) or source =~ "fun ")
  if not same, do: raise("#{name} is #{inspect(term)} and not #{source}")
end

shown_refused = fn name, encoded ->
  read = try(do: {:read, :erlang.binary_to_term(encoded)}, rescue: (ArgumentError -> :refused))
  if read != :refused, do: raise("#{name} is read by this BEAM: #{inspect(read)}")
end

write = fn file, header, rows ->
  [] = Enum.map(rows, &hd/1) -- Enum.uniq(Enum.map(rows, &hd/1))
  File.write!(file, Enum.map([header | rows], &[Enum.join(&1, "\t"), "\n"]))
end

release = System.otp_release()

old_rows =
  for {name, source, bytes} <- ByHand.old_forms() do
    shown.(name, source, with_version.(bytes))
    ["old_" <> name, release, "old", source, hex.(with_version.(bytes))]
  end

refused_rows =
  for({name, kind, source} <- ByHand.terms_refused_by_python()) do
    [name, kind, "writes", source, hex.(:erlang.term_to_binary(evaluate.(source), minor_version: 2))]
  end ++
    for {name, kind, source, bytes} <- ByHand.forms_refused_by_python() do
      shown.(name, source, with_version.(bytes))
      [name, kind, "reads", source, hex.(with_version.(bytes))]
    end ++
    for {name, kind, source, bytes} <- ByHand.forms_of_which_releases_differ() do
      if String.to_integer(release) < 27,
        do: shown.(name, source, with_version.(bytes)),
        else: shown_refused.(name, with_version.(bytes))

      [name, kind, "differs", source, hex.(with_version.(bytes))]
    end ++
    for {name, kind, bytes} <- ByHand.refused_by_both() do
      shown_refused.(name, with_version.(bytes))
      [name, kind, "refuses", "-", hex.(with_version.(bytes))]
    end

columns = ["# name", "otp_release", "form (see README.md)", "erlang_source", "hex of the external term"]
write.("conformance/terms-by-hand.tsv", columns, old_rows)
write.("conformance/refused.tsv", ["# name", "kind", "a BEAM", "erlang_source", "hex"], refused_rows)
