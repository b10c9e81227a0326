"""How every command speaks: JSON or a few lines on stdout, words and progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON (a stable contract)."
)


def result(document: dict[str, Any], text: str | Callable[[], str], *, as_json: bool) -> None:
    """Print `document` as JSON, or else `text`, on stdout."""
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        click.echo(text if isinstance(text, str) else text())


def note(words: str) -> None:
    """Print words for a person on stderr."""
    click.echo(words, err=True)


def interactive() -> bool:
    """Whether a person is watching stderr."""
    return sys.stderr.isatty()
