"""JSON with one spelling: RFC 8785 on the way out, a strict reader on the way in.

What is signed is bytes, and two readers of the same bytes must see the same value. So the reader
refuses what parsers disagree about: duplicate keys, floats, integers beyond 2^53, lone surrogates,
depth without end.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, NoReturn

from lineage.errors import FormatError, printable

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 32
MAX_MARKS = 1 << 22
"""Brackets and commas: three bytes of text can ask for seventy of memory."""

_LONG_NUMBER = b"," + 16 * b"0"
"""What text has somewhere that has an integer beyond `MAX_INTEGER`, once `_MARKED`."""

_MARKED = bytes.maketrans(b"123456789:[- \t\n\r", b"000000000,,,,,,,")
"""For `bytes.translate`: digits become one, and so does what may stand before a number."""

_UNSURE = object()

_KINDS = {dict, list, str, int, bool, type(None)}

Json = dict[str, Any] | list[Any] | str | int | bool | None


def dumps(value: Json) -> bytes:
    """Return the RFC 8785 form of `value`.

    Raises:
        ValueError: If `value` holds a float or something that is not JSON.
    """
    is_simple = _is_simple(value)
    if not is_simple:
        _check(value, ValueError)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if is_simple and not _is_plain_text(text):
        _check(value, ValueError)
    if text.isascii():  # then code points sort as UTF-16 does, and the standard library is RFC 8785
        return text.encode()
    import rfc8785

    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def loads(
    data: bytes,
    *,
    file: object = None,
    max_bytes: int = 64 * 1024 * 1024,
    max_marks: int = MAX_MARKS,
    floats: bool = False,
) -> Any:
    """Parse JSON that came from elsewhere.

    Args:
        data: UTF-8 text, without a byte-order mark.
        file: What to call it in an error.
        max_bytes: Longer input is refused before it is parsed.
        max_marks: So is input with more brackets and commas.
        floats: Whether numbers with a fraction may come; never in what is signed.

    Raises:
        FormatError: On anything two parsers could read differently.
    """

    def fail(reason: str) -> FormatError:
        return FormatError(reason, file=file)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise fail(f"JSON has the key '{printable(key, 80)}' twice")
            found[key] = value
        return found

    def number(text: str) -> NoReturn:
        raise fail(f"JSON has the number {text[:40]}; only integers are allowed")

    if len(data) > max_bytes:
        raise fail(f"JSON is {len(data)} bytes long, more than the {max_bytes} allowed")
    marks = sum(map(data.count, (b"{", b"[", b",")))
    if marks > max_marks:
        raise fail(f"JSON has {marks} brackets and commas, more than the {max_marks} allowed")
    try:
        text = data.decode("utf-8")
        value = _quickly(text)
        if value is not _UNSURE:
            return value
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_float=float if floats else number,
            parse_constant=number,
        )
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", file=file, offset=error.start) from error
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg}", file=file, offset=error.pos) from error
    except RecursionError as error:
        raise fail("JSON is nested too deeply") from error
    except ValueError as error:  # int() refuses a literal of more than 4300 digits
        if isinstance(error, FormatError):
            raise
        raise fail(f"JSON has a number that is too long: {error}") from error
    _check(value, fail, floats=floats)
    return value


def _quickly(text: str) -> Any:
    """Parse JSON that has one meaning, as nearly all has; `_UNSURE` where that takes a closer look.

    What has as many keys as colons has no key twice, as each key that is written has its colon.
    """
    if "\\u" in text or not _is_plain_text(text):
        return _UNSURE
    try:
        value = json.loads(text, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _UNSURE
    return value if _keys_if_simple(value) == text.count(":") else _UNSURE


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _is_plain_text(text: str) -> bool:
    """Whether JSON has ASCII characters alone, and surely no integer beyond `MAX_INTEGER`."""
    if not text.isascii():
        return False
    return _LONG_NUMBER not in b"," + text.encode().translate(_MARKED)


def _is_simple(value: Any) -> bool:
    """Whether `value` is JSON without floats and not too deep; text and numbers are not asked."""
    return _keys_if_simple(value) is not None


def _keys_if_simple(value: Any) -> int | None:
    """Return how many keys its objects have in all; None where `value` is not simple.

    It looks at one depth after the other, which is much faster than `_check` for long documents.
    """
    level, keys = [value], 0
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        if not kinds <= _KINDS:
            return None
        if not kinds & {dict, list}:
            return keys
        objects = level if kinds == {dict} else [one for one in level if type(one) is dict]
        lists = [one for one in level if type(one) is list] if list in kinds else []
        if not {str}.issuperset(map(type, chain.from_iterable(objects))):
            return None
        keys += sum(map(len, objects))
        level = [*chain.from_iterable(map(dict.values, objects)), *chain.from_iterable(lists)]
    return None


def _check(value: Any, fail: Any, depth: int = 0, *, floats: bool = False) -> None:
    """Raise `fail(reason)` where `value` is not a JSON value with one meaning."""
    if depth > MAX_DEPTH:
        raise fail(f"JSON is nested more than {MAX_DEPTH} deep")
    match value:
        case bool() | None:
            pass
        case int():
            if abs(value) > MAX_INTEGER:
                raise fail(f"the integer {str(value)[:40]} is beyond 2^53; write it as a string")
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise fail("a string holds half of a surrogate pair") from None
        case float() if floats:
            pass
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise fail(f"the key {key!r} is not a string")
                if not key.isascii():
                    _check(key, fail, depth)
                if not _is_plain(item, depth + 1):
                    _check(item, fail, depth + 1, floats=floats)
        case list() | tuple():
            for item in value:
                if not _is_plain(item, depth + 1):
                    _check(item, fail, depth + 1, floats=floats)
        case _:
            raise fail(f"{type(value).__name__} is not a JSON value that can be signed")


def _is_plain(value: Any, depth: int) -> bool:
    """Whether this is ASCII text or a small number, as most of a long document is."""
    kind = type(value)
    is_small = (kind is str and value.isascii()) or (
        kind is int and -MAX_INTEGER <= value <= MAX_INTEGER
    )
    return is_small and depth <= MAX_DEPTH
