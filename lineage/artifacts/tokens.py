"""What the rows of a model's embeddings stand for: the strings of its tokens, by their numbers.

They lie beside the weights, in files that tokenizers write. A model keeps what it computes if its
tokens are numbered anew and its embeddings' rows with them; by the strings that can be undone.

Sources: `tokenizer.json` of Hugging Face tokenizers (BPE, WordPiece: a mapping; Unigram: a list of
pairs), `vocab.json` of GPT-2's, `vocab.txt` of BERT's.
"""

from __future__ import annotations

import json
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["shared_tokens", "tokens_of"]

_MOST_BYTES = 1 << 28
"""A tokenizer larger than this is none."""

_MOST_TOKENS = 1 << 24
"""Numbers of tokens are below this, so that a lie allocates no more than a list that long."""


def tokens_of(source: str | PathLike[str] | Any) -> tuple[str, ...] | None:
    """Return the strings of a model's tokens, in the order of their numbers.

    Args:
        source: A model as `read` takes it; only a folder, or a file in one, has tokens beside it.

    Returns:
        None where nothing says what tokens there are, or two have one number.

    Raises:
        FormatError: If a tokenizer's file is not what it should be.
    """
    if not isinstance(source, str | PathLike):
        return None
    path = Path(fspath(source))
    folder = path if path.is_dir() else path.parent
    for name, read in (
        ("tokenizer.json", _tokenizer),
        ("vocab.json", _mapping),
        ("vocab.txt", _lines),
    ):
        file = folder / name
        if file.is_file() and file.stat().st_size <= _MOST_BYTES:
            try:
                return read(file.read_text("utf-8"))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise FormatError("is no list of tokens", file=file) from error
    return None


def shared_tokens(
    ours: Sequence[str], theirs: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the numbers of the tokens that two vocabularies share, in each, in our order."""
    place = {token: n for n, token in enumerate(theirs) if token}
    pairs = [(n, place[token]) for n, token in enumerate(ours) if token in place]
    both = np.array(pairs, np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _tokenizer(text: str) -> tuple[str, ...] | None:
    whole = json.loads(text)
    vocabulary = whole["model"]["vocab"]
    if isinstance(vocabulary, dict):
        numbers = dict(vocabulary)
    else:
        numbers = {token: place for place, (token, _) in enumerate(vocabulary)}
    numbers |= {added["content"]: added["id"] for added in whole.get("added_tokens", ())}
    return _in_order(numbers)


def _mapping(text: str) -> tuple[str, ...] | None:
    return _in_order(json.loads(text))


def _lines(text: str) -> tuple[str, ...] | None:
    return tuple(text.removesuffix("\n").split("\n"))


def _in_order(numbers: dict[str, int]) -> tuple[str, ...] | None:
    """Return tokens by number; numbers that nothing has are empty strings."""
    if not isinstance(numbers, dict):
        raise TypeError("tokens and their numbers are a mapping")
    if not all(type(n) is int and 0 <= n < _MOST_TOKENS for n in numbers.values()):
        raise ValueError("numbers of tokens are whole and not beyond what models have")
    found = [""] * (1 + max(numbers.values(), default=-1))
    for token, number in numbers.items():
        if found[number]:
            return None
        found[number] = token
    return tuple(found)
