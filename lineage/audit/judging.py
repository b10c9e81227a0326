"""What models declare of their parents, held against the graph that their weights gave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.declared import Declaration
    from lineage.graph import LineageGraph

ACCUSING = 0.9
"""Probability that a model's other parents must have before a related one it declares is denied."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the weights say of one declared parent.

    Attributes:
        child: Path of the model that declares.
        parent: Path of the model it means, or the name as written if no such model is at hand.
        verdict: `unchecked` where the parent is not at hand.
        words: Why, in one line.
    """

    child: str
    parent: str
    verdict: Literal["confirmed", "contradicted", "undetermined", "unchecked"]
    words: str

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {
            "child": self.child, "parent": self.parent, "verdict": self.verdict,
            "words": self.words,
        }  # fmt: skip


def judge(graph: LineageGraph, declared: Mapping[str, Sequence[Declaration]]) -> list[Verdict]:
    """Hold what models declare against the graph their weights gave.

    Args:
        graph: The inferred graph.
        declared: Path -> what that model's repository says.
    """
    by_name: dict[str, list[str]] = {}
    for node in graph.nodes:
        by_name.setdefault(PurePath(node.path).name.removesuffix(".safetensors"), []).append(
            node.path
        )
    verdicts = []
    for child, declarations in declared.items():
        for declaration in declarations:
            meant = [p for p in by_name.get(PurePath(declaration.parent).name, []) if p != child]
            if len(meant) != 1:
                why = "it is not at hand" if not meant else "several models have that name"
                verdicts.append(Verdict(child, declaration.parent, "unchecked", why))
            else:
                verdicts.append(_judge(graph, child, meant[0]))
    return verdicts


def _judge(graph: LineageGraph, child: str, parent: str) -> Verdict:
    seen = graph.between(parent, child)
    inferred = graph.parents(child)
    others = " and ".join(PurePath(edge.parent).name for edge in inferred)
    if seen.related is None:
        return Verdict(child, parent, "undetermined", "the weights cannot be compared")
    if seen.related is False and graph.family(child) != graph.family(parent):
        return Verdict(
            child, parent, "contradicted", f"unrelated: {seen.evidence[0].told(parent, child)}"
        )
    if any(edge.parent == parent for edge in inferred):
        return Verdict(child, parent, "confirmed", "the weights say the same")
    if parent in graph.ancestors(child):
        return Verdict(child, parent, "confirmed", f"an ancestor, through {others}")
    # They are related. Another parent accuses nobody unless it is all but certain.
    if child in graph.ancestors(parent, at_least=ACCUSING):
        return Verdict(child, parent, "contradicted", "the other way round: it is a descendant")
    if inferred and min(edge.probability for edge in inferred) >= ACCUSING:
        return Verdict(child, parent, "contradicted", f"the weights come from {others}")
    return Verdict(child, parent, "undetermined", "related, but no order is clear")
