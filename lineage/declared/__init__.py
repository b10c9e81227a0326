"""What a repository says about its parents, and how well each pointer identifies one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lineage.declared.base import Declaration, Grade
from lineage.declared.hub_card import read_card

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Declaration", "Grade", "read_declared"]


def read_declared(path: str | PathLike[str]) -> tuple[Declaration, ...]:
    """Read every declaration of a parent in a model's folder; nothing is believed.

    Args:
        path: A model's folder. A file declares nothing.

    Raises:
        FormatError: If a card is there and cannot be read.
    """
    card = Path(path) / "README.md"
    return read_card(card) if card.is_file() else ()
