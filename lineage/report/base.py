"""The values a report draws: models, edges, and what was declared, made safe to print.

`read` turns the plain document of `lineage infer --json` into a `Lineage` once, so that the
drawings never look into a dictionary and never meet a name they may not print.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lineage.errors import FormatError, printable

Verdict: TypeAlias = Literal["confirmed", "contradicted", "undetermined", "unchecked"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a repository says of a model's parent, and what the weights say of that.

    `child` and `parent` are paths of the document, or last components of such paths when only one
    path ends so; a parent outside the document is told in the table and not drawn.
    """

    child: str
    parent: str
    verdict: Verdict
    words: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One more part of the page: words, a table, or both; every string is escaped."""

    title: str
    rows: tuple[tuple[str, ...], ...] = ()
    head: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One node: `name` is short and differs from every other; `id` is eight characters."""

    path: str
    name: str
    id: str
    family: int


@dataclass(frozen=True, slots=True)
class Edge:
    """One arrow, from the path of the parent to the path of the child."""

    parent: str
    child: str
    relation: str
    how: str | None
    coefficient: float | None
    probability: float | None

    @property
    def kind(self) -> str:
        """The relation, with its detail if there is one."""
        return self.relation if self.how is None else f"{self.relation} · {self.how}"

    @property
    def figures(self) -> str:
        """The coefficient and the probability, those that are known."""
        share = "" if self.coefficient is None else f"\N{MULTIPLICATION SIGN}{self.coefficient:.2f}"
        return "  ".join(filter(None, (share, chance(self.probability))))


@dataclass(frozen=True, slots=True)
class Lineage:
    """A checked document: every edge, pair and drawn declaration names listed models.

    `loose` are related pairs without an edge, whose direction is not known, as (path, path, why);
    `contradicted` are declarations to draw, as (parent, child).
    """

    models: tuple[Model, ...]
    edges: tuple[Edge, ...]
    loose: tuple[tuple[str, str, str], ...]
    declared: tuple[Declared, ...]
    contradicted: tuple[tuple[str, str], ...]

    @property
    def summary(self) -> str:
        """One sentence for the reader who reads one sentence."""
        families = len({model.family for model in self.models})
        words = (
            f"{_count(len(self.models), 'model')} in {_count(families, 'family')}, "
            f"{_count(len(self.edges), 'measured edge')}"
        )
        if self.loose:
            words += f", {_count(len(self.loose), 'pair')} of undetermined direction"
        if self.declared:
            verdicts = Counter(d.verdict for d in self.declared)
            words += f"; of {_count(len(self.declared), 'declared parent')}, " + ", ".join(
                f"{verdicts[verdict]} {verdict}"
                for verdict in ("confirmed", "contradicted", "undetermined", "unchecked")
                if verdicts[verdict]
            )
        return words + "."

    def name_of(self, path: str) -> str:
        """Return the short name of a listed path, and any other text as it is, printable."""
        return next((m.name for m in self.models if m.path == path), printable(path))


def read(document: Mapping[str, Any], declared: Sequence[Declared] = ()) -> Lineage:
    """Check the document of `lineage infer --json` and make it ready to draw.

    Args:
        document: `models`, `edges`, and optionally `undetermined`; other keys are not looked at.
        declared: What the repositories say of these models.

    Raises:
        FormatError: If an edge or a pair names a model that is not listed, a model is listed
            twice, or a coefficient or probability is not a finite number. (That the edges form
            no circle is found when they are laid out.)
    """
    rows = document["models"]
    names = short_names([str(row["path"]) for row in rows])
    family = _families(document)
    models = tuple(
        Model(str(row["path"]), printable(name), short_id(row.get("id")), family[str(row["path"])])
        for row, name in zip(rows, names, strict=True)
    )
    edges = tuple(
        Edge(
            str(row["parent"]),
            str(row["child"]),
            printable(str(row["relation"])),
            None if row.get("how") is None else printable(str(row["how"])),
            _figure(row, "coefficient"),
            _figure(row, "probability"),
        )
        for row in document["edges"]
    )
    joined = {frozenset((edge.parent, edge.child)) for edge in edges}
    loose = tuple(
        (str(row["a"]), str(row["b"]), printable(str(row.get("why") or "")))
        for row in document.get("undetermined", ())
        if frozenset((row["a"], row["b"])) not in joined
    )
    known = {path: path for path in family}
    by_last = Counter(_last(path) for path in family)
    known |= {_last(path): path for path in family if by_last[_last(path)] == 1} | known
    contradicted = tuple(
        dict.fromkeys(
            (known[d.parent], known[d.child])
            for d in declared
            if d.verdict == "contradicted" and d.parent in known and d.child in known
            if known[d.parent] != known[d.child]
        )
    )
    return Lineage(models, edges, loose, tuple(declared), contradicted)


def _figure(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None or (isinstance(value, int | float) and math.isfinite(value)):
        return None if value is None else float(value)
    raise FormatError(f"an edge's {key} is not a number", file=row["child"])


def _families(document: Mapping[str, Any]) -> dict[str, int]:
    """Return the family of every path; models joined by an edge or a pair are of one family."""
    family: dict[str, int] = {}
    for row in document["models"]:
        if str(row["path"]) in family:
            raise FormatError("the document lists this model twice", file=row["path"])
        family[str(row["path"])] = int(row["family"])
    pairs = [(row["parent"], row["child"]) for row in document["edges"]]
    pairs += [(row["a"], row["b"]) for row in document.get("undetermined", ())]
    for one, other in pairs:
        for path in (one, other):
            if path not in family:
                raise FormatError("an edge names a model that is not listed", file=path)
        if family[one] != family[other]:
            kept, lost = sorted((family[one], family[other]))
            family = {path: kept if f == lost else f for path, f in family.items()}
    return family


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last component of each path, and as many more as it takes to tell them apart."""
    parts = [[part for part in path.split("/") if part] or [path] for path in paths]
    longest = max(map(len, parts), default=0)
    names = ["/".join(part[-1:]) for part in parts]
    for length in range(2, longest + 1):
        seen = Counter(names)
        names = [
            "/".join(part[-length:]) if seen[name] > 1 else name
            for part, name in zip(parts, names, strict=True)
        ]
    return names


def short_id(value: object) -> str:
    """Return the first eight characters of an id, without the name of its scheme."""
    return "" if value is None else printable(str(value).rpartition(":")[2][:8])


def chance(probability: float | None) -> str:
    """Return a probability in two digits; only certainty is printed as 1, and nothing as 0."""
    if probability is None:
        return ""
    if probability >= 1:
        return "1"
    if probability > 0.99:
        return ">.99"
    if probability < 0.01:
        return "<.01"
    return f"{probability:.2f}".removeprefix("0")


def text_width(text: str, size: float) -> float:
    """Return about how wide `text` is at `size` pixels, rather too wide than too narrow."""
    return size * sum(_advance(character) for character in text)


def fit(text: str, size: float, width: float) -> str:
    """Return `text`, its middle replaced by an ellipsis if it is wider than `width`."""
    if text_width(text, size) <= width:
        return text
    kept = len(text)
    while kept > 2 and text_width(_elided(text, kept), size) > width:
        kept -= 1
    return _elided(text, kept)


def _elided(text: str, kept: int) -> str:
    return text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]


def _advance(character: str) -> float:
    # em widths of DejaVu Sans, the widest of the usual sans-serifs, rounded up
    if character in " .,:;|!'ijlI":
        return 0.33
    if character in "()[]/ftr·-":
        return 0.42
    if character in "mwMW@%…":
        return 1.0
    if character in "<>=+~\N{MULTIPLICATION SIGN}":
        return 0.84
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    return 0.74 if character.isupper() else 0.64


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number} {noun}s"
