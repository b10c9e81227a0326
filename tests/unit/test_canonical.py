"""JSON with one spelling, in and out."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from lineage import canonical
from lineage.errors import FormatError


def test_the_published_example_sorts_and_escapes() -> None:
    # RFC 8785, section 3.2.3: keys sort by UTF-16 code units.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    wanted = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    found = canonical.dumps(dict.fromkeys(keys, 0)).decode()
    places = [found.index("\\r" if key == "\r" else key) for key in wanted]
    assert places == sorted(places)


def test_there_is_one_spelling() -> None:
    value = {"b": [1, True, None, "ü\n"], "a": {"x": -5}}
    data = b'{"a":{"x":-5},"b":[1,true,null,"\xc3\xbc\\n"]}'
    assert canonical.dumps(value) == data
    assert canonical.loads(data) == value


@pytest.mark.parametrize(
    "value", [1.0, 2**53, -(2**53), {"a": 0.5}, {1: 2}, {"\ud800": 1}, ["\udfff"], {1, 2}, b"x"]
)
def test_what_is_not_signed_is_not_written(value: object) -> None:
    with pytest.raises(ValueError):
        canonical.dumps(value)  # type: ignore[arg-type]


def test_the_largest_integers_are_written() -> None:
    assert canonical.dumps([2**53 - 1, 1 - 2**53]) == b"[9007199254740991,-9007199254740991]"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":1,"a":1}', "'a' twice"),
        (b'{"a:":1,"a:":":"}', "'a:' twice"),
        (b'{"b":{"a":1},"c":[{"a":1,"a":{"d":2}}]}', "'a' twice"),
        (b'[{"a":1,"\\u0061":1}]', "'a' twice"),
        (b"1.0", "only integers"),
        (b"1e3", "only integers"),
        (b"NaN", "only integers"),
        (b"-Infinity", "only integers"),
        (b"9007199254740992", "beyond 2"),
        (b"1" * 5000, "too long"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b"[" * 40 + b"]" * 40, "nested"),
        (b"[" * 100_000, "nested"),
        (b"[1,]", "not JSON"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        canonical.loads(data, file="x.json")
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leaf", [1, "a", "\u00e9", None, [], {"a": 1}])
def test_every_value_is_as_deep_as_another(leaf: canonical.Json) -> None:
    value = leaf
    for _ in range(canonical.MAX_DEPTH - isinstance(leaf, dict)):
        value = [value]
    assert canonical.loads(canonical.dumps(value)) == value
    with pytest.raises(ValueError, match="nested"):
        canonical.dumps([value])


def test_long_input_is_not_even_parsed() -> None:
    with pytest.raises(FormatError, match="more than the 3 allowed"):
        canonical.loads(b"[1,2]", max_bytes=3)


def test_errors_say_where() -> None:
    with pytest.raises(FormatError) as caught:
        canonical.loads(b'{"a": x}')
    assert caught.value.offset == 6


_LEAVES = st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text()


@given(st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_written_is_what_the_package_for_it_writes(value: canonical.Json) -> None:
    assert canonical.dumps(value) == rfc8785.dumps(value)


def test_every_ascii_character_is_written_as_the_package_does() -> None:
    value = {chr(code): chr(code) for code in range(128)}
    assert canonical.dumps(value) == rfc8785.dumps(value)
