"""Options that several verbs have, and how numbers in them are read."""

from __future__ import annotations

import re
from fractions import Fraction

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON (a stable contract)."
)

_NUMBER = re.compile(r"\d{1,19}(\.\d{0,18}|/\d{1,19})?|\.\d{1,18}", re.ASCII)
"""What is exact and of bounded length: 1, 0.25, .5, 0.50, 2/6."""


def number(text: str, option: str) -> Fraction:
    """Read an exact number that is not negative, however people spell it."""
    try:
        found = Fraction(text) if _NUMBER.fullmatch(text) else None
    except ZeroDivisionError:
        found = None
    if found is None:
        raise click.UsageError(f"{option}: expected a number like 0.25 or 1/3")
    return found


def fraction(text: str, option: str) -> Fraction:
    """Read an exact number from 0 to 1."""
    found = number(text, option)
    if found > 1:
        raise click.UsageError(f"{option}: expected 0 to 1")
    return found
