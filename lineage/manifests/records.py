"""One record's canonical text and its digest: what it holds, however and wherever it is stored.

A record is a JSON value, in which columnar formats have a few more kinds of value. What JSON can
say is spelled as RFC 8785 spells it; what it cannot say is spelled `!kind"text"`, which is no JSON,
so that the two never meet. Members whose value is null are left out: a table has a column for every
row, and cannot tell a null from a member that is not there.

This page is the definition. Faster code elsewhere takes what it is sure of and leaves the rest to
it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, NoReturn, final

from blake3 import blake3

from lineage.canonical import MAX_INTEGER
from lineage.digest import frame
from lineage.errors import FormatError, printable

RECORD_TAG = "lineage/record/v1"
HIDDEN_TAG = "lineage/hidden-record/v1"
MAX_DEPTH = 128
MAX_RECORD_BYTES = 64 * 1024 * 1024


@final
@dataclass(frozen=True, slots=True)
class Typed:
    """A value that JSON has no spelling for.

    Args:
        kind: `bytes`, `int`, `float`, `decimal`, `date`, `time`, `datetime`, `instant`, `duration`.
        text: Its one spelling, of characters that no JSON string would escape.
    """

    kind: str
    text: str


def decimal_text(unscaled: int, scale: int) -> str:
    """Return `unscaled` / 10^`scale` without an exponent or trailing zeros.

    Example:
        >>> [decimal_text(1250, 2), decimal_text(-5, 3), decimal_text(1200, 2), decimal_text(3, -2)]
        ['12.5', '-0.005', '12', '300']
    """
    if scale <= 0:
        return str(unscaled * 10**-scale)
    whole, rest = divmod(abs(unscaled), 10**scale)
    sign = "-" if unscaled < 0 else ""
    return f"{sign}{whole}.{rest:0{scale}d}".rstrip("0").rstrip(".")


def number_text(value: float) -> str:
    """Return a finite number as ECMAScript, and so RFC 8785, spells it.

    Example:
        >>> [number_text(x) for x in (5.0, 0.1, 1e-7, 1e21, 1e-5, 123456789012345680000.0)]
        ['5', '0.1', '1e-7', '1e+21', '0.00001', '123456789012345680000']
    """
    if value == 0:
        return "0"
    text = repr(value)
    if "e" not in text:  # Python and ECMAScript agree on these, but for the fraction of a whole
        return text.removesuffix(".0")
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    point = len(text) + exponent  # where the decimal point falls, counted from the first digit
    if len(text) <= point <= 21:
        body = text + "0" * (point - len(text))
    elif 0 < point <= 21:
        body = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        body = "0." + "0" * -point + text
    else:
        mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
        body = f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return "-" + body if sign else body


def canonical(value: Any) -> bytes:
    """Return the canonical text of a record.

    Args:
        value: None, booleans, numbers, text, bytes, `Typed`, and lists and dictionaries of such.

    Raises:
        FormatError: On text with half of a surrogate pair, and on values of other types.
    """
    parts: list[str] = []
    _write(value, parts.append, 0)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError:
        raise FormatError("a string holds half of a surrogate pair") from None


def _write(value: Any, out: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FormatError(f"nested more than {MAX_DEPTH} deep")
    match value:
        case None:
            out("null")
        case bool():
            out("true" if value else "false")
        case int():
            is_json = abs(value) <= MAX_INTEGER
            out(str(value) if is_json else f'!int"{value}"')
        case float():
            out(_float_text(value))
        case str():
            out(encode_basestring(value))
        case dict():
            _write_object(value, out, depth)
        case list() | tuple():
            out("[")
            for number, item in enumerate(value):
                if number:
                    out(",")
                _write(item, out, depth + 1)
            out("]")
        case Typed():
            out(f'!{value.kind}"{value.text}"')
        case bytes():
            out(f'!bytes"{blake3(value).hexdigest()}"')
        case _:
            raise FormatError(f"a value of type {type(value).__name__} has no canonical form")


def _write_object(value: dict[Any, Any], out: Any, depth: int) -> None:
    if not all(isinstance(name, str) for name in value):
        raise FormatError("an object with a name that is no string")
    names = [name for name, item in value.items() if item is not None]
    if not all(map(str.isascii, value)):
        try:
            "".join(value).encode()  # with those of what is null
            names.sort(key=lambda name: name.encode("utf-16-be"))
        except UnicodeEncodeError:
            raise FormatError("a name holds half of a surrogate pair") from None
    else:
        names.sort()
    out("{")
    for number, name in enumerate(names):
        out(("," if number else "") + encode_basestring(name) + ":")
        _write(value[name], out, depth + 1)
    out("}")


def _float_text(value: float) -> str:
    if value - value != 0:  # NaN and the infinities
        name = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
        return f'!float"{name}"'
    if value == 0 and str(value)[0] == "-":
        return '!float"-0"'
    return number_text(value)


def parse_json(data: bytes) -> Any:
    """Parse one JSON text in which every value has one meaning.

    Raises:
        FormatError: On bytes that are not UTF-8 or not JSON, on a name twice in one object,
            integers beyond 2^53, -0, numbers that no double holds, NaN, half surrogates and depth
            without end.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 (byte {error.start} of the record)") from error
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg} (character {error.pos} of the record)") from error
    except RecursionError as error:
        raise FormatError(f"nested more than {MAX_DEPTH} deep") from error
    if "\\u" in text:
        canonical(value)  # refuses half surrogates
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"the key '{printable(twice, 80)}' twice in one object")
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) < 20 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise FormatError(f"the integer {printable(text, 40)} is beyond 2^53")
    if text == "-0":
        raise FormatError("the number -0")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise FormatError(f"the number {printable(text, 40)} is beyond what a double holds")
    if value == 0 and text[0] == "-":
        raise FormatError(f"the number {printable(text, 40)}, which is -0")
    return value


def _constant(text: str) -> NoReturn:
    raise FormatError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def record_digest(text: bytes) -> bytes:
    """Return the digest of a record from its canonical text."""
    return blake3(frame(RECORD_TAG, text)).digest()


def salt_of(secret: bytes, digest: bytes) -> bytes:
    """Return the salt that hides one record: nothing without the secret, and of no use for others.

    Args:
        secret: 32 bytes that the owner keeps.
        digest: The record's digest.
    """
    return blake3(digest, key=secret).digest()


def hidden_digest(salt: bytes, digest: bytes) -> bytes:
    """Return what a private manifest holds instead of a record's digest."""
    return blake3(frame(HIDDEN_TAG, salt, digest)).digest()
