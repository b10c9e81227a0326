"""How every command speaks: JSON or a few lines on stdout, words and progress on stderr."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from lineage.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def result(document: dict[str, Any], text: str | Callable[[], str], *, as_json: bool) -> None:
    """Print `document` as JSON, or else `text`, on stdout."""
    if not as_json:
        _print(text if isinstance(text, str) else text(), sys.stdout)
        return
    words = json.dumps(document, indent=2, ensure_ascii=False)
    if not _fits(words, sys.stdout):
        words = json.dumps(document, indent=2)
    _print(words, sys.stdout)


def note(words: str) -> None:
    """Print words for a person on stderr."""
    _print(words, sys.stderr)


def count(number: int, one: str, many: str = "") -> str:
    """Return a number and what is counted: `1 file`, `1,000 entries`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def names(*paths: str) -> tuple[str, ...]:
    """Return what to call some paths, printable: the last component, more to tell them apart."""
    from lineage.report.base import short_names

    return tuple(map(printable, short_names(paths)))


def _print(words: str, stream: TextIO) -> None:
    """Print what a stream's encoding has no characters for as escapes."""
    if not _fits(words, stream):
        words = words.encode("ascii", "backslashreplace").decode()
    print(words, file=stream, flush=True)


def _fits(words: str, stream: TextIO) -> bool:
    try:
        words.encode(stream.encoding or "utf-8", stream.errors or "strict")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def watching(words: str) -> Iterator[Callable[[str], None] | None]:
    """Show on stderr what is being done, and for how long, while somebody watches.

    Args:
        words: What is done first; what is given, if anything, takes the words for what comes next.
    """
    if not interactive():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as line:
        task = line.add_task(words, total=None)
        yield lambda next_words: line.update(task, description=printable(next_words))


def interactive() -> bool:
    """Whether a person is watching stderr."""
    return sys.stderr.isatty()
