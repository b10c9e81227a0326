"""The values of this room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Declaration:
    """One parent, as somebody wrote it down.

    Attributes:
        parent: The pointer as written.
        relation: The relation as written, where it was.
        where: The file and key it was read from.
    """

    parent: str
    relation: str | None
    where: str
