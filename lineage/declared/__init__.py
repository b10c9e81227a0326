"""What a repository says about its parents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lineage.declared.base import Declaration
from lineage.declared.hub_card import read_card

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Declaration", "read_declared"]


def read_declared(path: str | PathLike[str]) -> tuple[Declaration, ...]:
    """Read every declaration of a parent in a model's folder; nothing is believed.

    Args:
        path: A model's folder. A file declares nothing.

    Raises:
        FormatError: If a card is there and cannot be read.
    """
    card = Path(path) / "README.md"
    return read_card(card) if card.is_file() else ()
