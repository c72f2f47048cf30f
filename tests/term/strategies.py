"""Define Hypothesis strategies that generate terms for property tests."""

from datetime import timezone
from typing import Any

from erlang import OtpErlangAtom
from hypothesis import strategies as st

from erlport_bridge.term import Atom, ImproperList, OtpErlangBinary, OtpErlangPid, OtpErlangReference

_NODE = OtpErlangAtom("ł@b")

texts = st.text(max_size=20)
no_texts = st.binary(max_size=20).map(lambda raw: b"\xff" + raw)  # 255 occurs in no UTF-8
atoms = st.text(max_size=20).filter(lambda name: name not in ("nil", "true", "false")).map(Atom)
large_integers = st.integers(240, 270).flatmap(lambda size: st.integers(-9, 9).map(lambda factor: factor * 256**size))
integers = st.integers() | st.integers(-300, 300) | large_integers
floats = st.floats(allow_nan=False, allow_infinity=False)
identifiers = st.one_of(
    st.builds(OtpErlangPid, st.just(_NODE), *[st.binary(min_size=4, max_size=4)] * 3),
    st.builds(OtpErlangReference, st.just(_NODE), st.sampled_from([b"12345678", b"1234"]), st.just(b"\0\0\0\1")),
    st.builds(OtpErlangBinary, st.binary(max_size=5).map(lambda raw: raw + b"\x80"), st.integers(1, 7)),
)
keys = texts | atoms | integers | no_texts | st.tuples(texts, st.integers())
plain_scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts, no_texts, atoms)
scalars = plain_scalars | identifiers
structs = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone.utc)),
    st.dates(),
    st.times(),
    st.decimals(allow_nan=False),
    st.sets(keys, max_size=4),
    st.builds(range, st.integers(), st.integers(), st.integers(-9, 9).filter(bool)),
)


def _lists_and_tuples(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(st.integers(0, 255)),
        st.lists(inner, max_size=5).map(tuple),
    )


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    improper = st.builds(ImproperList, st.lists(inner, min_size=1, max_size=3), scalars | st.tuples(inner))
    return _lists_and_tuples(inner) | improper


def _maps(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, inner, max_size=5)


#: Terms with only one encoded form: no maps, whose order the BEAM chooses.
mapless_terms = st.recursive(scalars, _containers, max_leaves=20)

#: All terms that are equal after encoding and decoding.
terms = st.recursive(scalars | structs, lambda inner: _containers(inner) | _maps(inner), max_leaves=20)

#: Terms that a program usually sends.
ordinary_terms = st.recursive(
    plain_scalars, lambda inner: _lists_and_tuples(inner) | st.dictionaries(texts | atoms, inner), max_leaves=40
)
