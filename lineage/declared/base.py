"""The values of this room."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How well a pointer identifies the parent it names, strongest first."""

    DIGEST = "digest"
    COMMIT = "commit"
    NAME = "name"
    TITLE = "title"
    GUESS = "guess"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One parent, as somebody wrote it down.

    Attributes:
        parent: The pointer as written.
        relation: The relation as written, where it was.
        grade: How well the pointer identifies the parent.
        where: The file and key it was read from.
    """

    parent: str
    relation: str | None
    grade: Grade
    where: str
