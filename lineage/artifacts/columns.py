"""Thousands of tensors at once: what takes a microsecond for each, in compiled loops.

A model in ten thousand small tensors is read in a tenth of a second, and so long takes what Python
does for each of them, too. Where nothing was compiled the same comes of it, only later.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = TypeVar("Value")

FEW = 100
"""Fewer values are made sooner one by one than the compiled module is loaded."""


Entries = tuple[list[str], list[str], list[tuple[int, ...]], list[int], list[int], dict[str, str]]
"""Of the tensors in a file, in its order, each a list: names, dtypes, shapes, where they
begin in the file, bytes, which are what dtype and shape take; then the metadata."""


@lru_cache(maxsize=1)
def compiled() -> Any:
    """Return the compiled module (`_columns.c` documents its functions), or None."""
    try:
        return import_module("lineage.artifacts._columns")
    except ImportError:
        return None


def entries(
    header: bytes, bits: Mapping[str, int], *, start: int, room: int, max_marks: int
) -> Entries | None:
    """Read the header of a safetensors file if it is as the usual writers put it.

    Args:
        header: Its bytes, from anywhere.
        bits: Of one value of each dtype that may come.
        start: Where in the file the data begins.
        room: Bytes of the data.
        max_marks: Opening brackets and commas that the header may have.

    Returns:
        None where it is another, good or bad, or nothing was compiled: that takes a closer look.
    """
    if compiled() is None:
        return None
    found = compiled().entries(header, bits, start, room, max_marks)
    if found is None or len(set(found[0])) < len(found[0]):
        return None
    every: Entries = found
    return every


def made(kind: type[Value], *columns: Any) -> list[Value]:
    """Return values of a frozen dataclass with slots, of which nothing needs to be checked.

    Args:
        kind: The class.
        columns: For each of its fields a list, with as many as the others; or, where it is the same
            in all, what is no list. One at least is a list.
    """
    count = next(len(column) for column in columns if type(column) is list)
    if count < FEW or compiled() is None:
        rows = (column if type(column) is list else repeat(column) for column in columns)
        return [*map(kind, *rows)]
    slots = tuple(getattr(kind, name) for name in kind.__match_args__)  # type: ignore[attr-defined]
    found: list[Value] = compiled().made(kind, slots, columns, count)
    return found
