"""Writes a lineage as Mermaid text, which code hosts draw inside Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lineage.errors import printable
from lineage.report.base import Declared, read
from lineage.report.layout import CONTRADICTED
from lineage.report.svg import ALARM, COLOURS, ROOT


def mermaid(document: Mapping[str, Any], declared: Sequence[Declared] = ()) -> str:
    """Write the document of `lineage infer --json` as a Mermaid flowchart.

    Args:
        document: Models, edges and undetermined pairs, as a plain dictionary.
        declared: What the repositories say; contradicted declarations are drawn in red.

    Returns:
        The text of a flowchart, one line a node and one an arrow, without a Markdown fence.

    Raises:
        FormatError: If the document is not consistent, as `read` says.
    """
    lineage = read(document, declared)
    node = {model.path: f"n{number}" for number, model in enumerate(lineage.models)}
    relation = {edge.child: edge.relation for edge in reversed(lineage.edges)}
    lines = ["flowchart LR"]
    for family in sorted({model.family for model in lineage.models}):
        members = [model for model in lineage.models if model.family == family]
        lines.append(f'  subgraph f{family}["Family {family}"]')
        for m in members:
            label = f"<b>{_quoted(m.name)}</b>" + (f"<br>{_quoted(m.id)}" if m.id else "")
            lines.append(f'    {node[m.path]}["{label}"]')
        lines.append("  end")
    styles = []
    for e in lineage.edges:
        label = _quoted(f"{e.kind} {e.figures}".strip())
        lines.append(f'  {node[e.parent]} -->|"{label}"| {node[e.child]}')
        styles.append(COLOURS.get(e.relation, ROOT))
    for a, b, _ in lineage.loose:
        lines.append(f"  {node[a]} -.- {node[b]}")
        styles.append(ROOT)
    for parent, child in lineage.contradicted:
        lines.append(f'  {node[parent]} -. "{CONTRADICTED}" .-> {node[child]}')
        styles.append(ALARM)
    lines += [f"  linkStyle {n} stroke:{colour}" for n, colour in enumerate(styles)]
    for m in lineage.models:
        colour = COLOURS.get(relation.get(m.path, ""), ROOT)
        lines.append(f"  style {node[m.path]} stroke:{colour},stroke-width:2px")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return text as it may stand between Mermaid's quotes: what could mean more, by its number."""
    return "".join(c if c.isalnum() or c in " ._/-" else f"#{ord(c)};" for c in printable(text, 80))
