"""The rules for single fields of a claim: names, digests, times and exact numbers.

Every check takes the field's name and raises a FormatError that begins with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from fractions import Fraction

from lineage.errors import FormatError

MAX_NAME = 256
DECIMALS = 8
MAX_NUMBER = 2**63

_HEX = re.compile(r"[0-9a-f]*")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,8}|/\d{1,19})?", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,32}(?:\.\d{1,32})?(?:e-?\d{1,8})?", re.ASCII)
_NUMBERS = re.compile(r"(?:(?:0|[1-9]\d{0,8})(?:\.(?:0|[1-9]\d{0,8})){0,15})?", re.ASCII)
_COUNT = re.compile(r"[1-9]\d{0,9}", re.ASCII)
_UNSAFE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


@contextmanager
def within(field: str) -> Iterator[None]:
    """Put `field` in front of the field that a FormatError names."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{field}.{error.reason}") from error


def name(text: str, field: str) -> None:
    """Require a name that looks like what it is: NFC, no control or bidirectional characters."""
    string(text, field)
    if not 1 <= len(text) <= MAX_NAME:
        raise FormatError(f"{field}: expected 1 to {MAX_NAME} characters, found {len(text)}")
    for character in text:
        category = unicodedata.category(character)
        if category in _UNSAFE or (category == "Zs" and character != " "):
            raise FormatError(f"{field}: the character U+{ord(character):04X} may not be in a name")
    if text != text.strip(" "):
        raise FormatError(f"{field}: a name may not begin or end with a space")
    if not unicodedata.is_normalized("NFC", text):
        raise FormatError(f"{field}: a name must be in Unicode normal form C")


def string(value: object, field: str) -> None:
    """Require text."""
    if not isinstance(value, str):
        raise FormatError(f"{field}: expected a string, found {type(value).__name__}")


def hexadecimal(text: str, field: str, digits: int) -> None:
    """Require exactly `digits` lower-case hexadecimal digits."""
    string(text, field)
    if len(text) != digits or not _HEX.fullmatch(text):
        raise FormatError(f"{field}: expected {digits} lower-case hexadecimal digits")


def utc(text: str, field: str) -> None:
    """Require an RFC 3339 time in whole seconds of UTC, such as 2026-01-31T09:30:00Z."""
    string(text, field)
    try:
        real = _UTC.fullmatch(text) and datetime.fromisoformat(text)
    except ValueError:
        real = None
    if not real:
        raise FormatError(f"{field}: expected a time like 2026-01-31T09:30:00Z")


def numbers(text: str, field: str, count: int) -> None:
    """Require so many whole numbers joined by dots."""
    string(text, field)
    if not _NUMBERS.fullmatch(text) or len(text.split(".") if text else []) != count:
        raise FormatError(f"{field}: expected {count} numbers joined by dots")


def count(text: object, field: str) -> int:
    """Read a whole number above 0 from the one spelling it has."""
    if not isinstance(text, str) or not _COUNT.fullmatch(text):
        raise FormatError(f"{field}: expected a whole number above 0 in a string")
    return int(text)


def statistic(text: str, field: str) -> None:
    """Require a decimal number in words, such as -12.75 or 1e-300; its meaning is the method's."""
    string(text, field)
    if not _DECIMAL.fullmatch(text):
        raise FormatError(f"{field}: expected a decimal number in a string")


def fraction(value: object, field: str) -> None:
    """Require an exact number whose spelling `parse_fraction` takes."""
    if not isinstance(value, Fraction):
        raise FormatError(f"{field}: expected an exact Fraction, found {type(value).__name__}")
    if abs(value.numerator) >= MAX_NUMBER or value.denominator >= MAX_NUMBER:
        raise FormatError(f"{field}: numerator and denominator must be below 2^63")


def spell_fraction(value: Fraction) -> str:
    """Return the one spelling of an exact number.

    A decimal without trailing zeros where eight decimals are enough, else `p/q` in lowest terms.

    Example:
        >>> [spell_fraction(Fraction(1, n)) for n in (1, 3, 8)]
        ['1', '1/3', '0.125']
    """
    scaled = value * 10**DECIMALS
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    whole, rest = divmod(abs(scaled.numerator), 10**DECIMALS)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{rest:0{DECIMALS}d}".rstrip("0").rstrip(".")


def parse_fraction(text: str, field: str) -> Fraction:
    """Read what `spell_fraction` wrote, and nothing else.

    Raises:
        FormatError: If `text` is no number or is spelled otherwise (0.50, 2/4, +1, 1e-3).
    """
    string(text, field)
    try:
        value = Fraction(text) if _NUMBER.fullmatch(text) else None
    except ZeroDivisionError:
        value = None
    if value is None or spell_fraction(value) != text:
        raise FormatError(f"{field}: expected a number spelled like 0.25 or 1/3 in a string")
    return value
