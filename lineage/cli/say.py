"""How every command speaks: JSON or a few lines on stdout, words and progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def result(document: dict[str, Any], text: str | Callable[[], str], *, as_json: bool) -> None:
    """Print `document` as JSON, or else `text`, on stdout."""
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)  # noqa: T201
    else:
        print(text if isinstance(text, str) else text(), flush=True)  # noqa: T201


def note(words: str) -> None:
    """Print words for a person on stderr."""
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def interactive() -> bool:
    """Whether a person is watching stderr."""
    return sys.stderr.isatty()
