"""Writes a lineage as one self-contained page: the picture, then the same facts as tables.

No script runs and nothing is fetched: the page forbids both to itself, so a hostile name that got
past the escaping would still do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lineage.report.base import Declared, Lineage, Section, chance, read
from lineage.report.svg import clean, draw

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707c;--line:#e1e6eb;--back:#fff;
--head:#f5f7fa;--good:#1f8a45;--bad:#d93a45;--open:#a86d00}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf3;--soft:#98a3af;--line:#29323c;--back:#0b1016;
--head:#171e27;--good:#4cc274;--bad:#ff6b74;--open:#e0a83a}}
body{margin:0 auto;max-width:1040px;padding:32px 20px 64px;background:var(--back);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}
h2{font-size:18px;margin:40px 0 10px}
p{margin:0 0 12px;max-width:72ch}
.lead{max-width:none}
.soft,td.none{color:var(--soft)}
figure{margin:20px 0 0;overflow-x:auto}
figure svg{display:block;max-width:100%;height:auto;margin:0 auto}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:8px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--line);
overflow-wrap:break-word}
thead th{border-top:0;background:var(--head);font-weight:600;white-space:nowrap}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.confirmed{color:var(--good);font-weight:600}
.contradicted{color:var(--bad);font-weight:600}
.undetermined{color:var(--open);font-weight:600}
"""


def html(
    document: Mapping[str, Any],
    declared: Sequence[Declared] = (),
    title: str = "Model lineage",
    sections: Sequence[Section] = (),
) -> str:
    """Write the document of `lineage infer --json` as a page.

    Args:
        document: Models, edges and undetermined pairs, as a plain dictionary.
        declared: What the repositories say, and what the weights say of that.
        title: The heading of the page.
        sections: More parts, shown last in the order given: claims, receipts, payouts.

    Returns:
        The text of an HTML file. The same input gives the same bytes.

    Raises:
        FormatError: If the document is not consistent, as `read` says, or its edges form a circle.
    """
    lineage = read(document, declared)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{clean(title)}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f'<h1>{clean(title)}</h1><p class="soft lead">{clean(lineage.summary)}</p>',
        f"<figure>{draw(lineage, title, headed=False)}</figure>",
        *_declared(lineage),
        *_edges(lineage),
        *_loose(lineage),
        *_models(lineage),
    ]
    for section in sections:
        parts.append(f"<h2>{clean(section.title)}</h2>")
        if section.words:
            parts.append(f"<p>{clean(section.words, 20_000)}</p>")
        if section.rows:
            rows = ([_cell(value) for value in row] for row in section.rows)
            parts.append(_table(section.head, rows))
    return "\n".join([*parts, "</main></body></html>"]) + "\n"


def _declared(lineage: Lineage) -> Iterable[str]:
    if not lineage.declared:
        return
    yield "<h2>Declared and measured</h2>"
    yield "<p>What each repository says of its parents, and what the weights say of that.</p>"
    yield _table(
        ("model", "declared parent", "verdict", "why"),
        (
            [
                _name(lineage, d.child),
                _name(lineage, d.parent),
                f'<td class="{clean(d.verdict)}">{clean(d.verdict)}</td>',
                _cell(d.words, 2000),
            ]
            for d in lineage.declared
        ),
    )


def _edges(lineage: Lineage) -> Iterable[str]:
    yield "<h2>Measured edges</h2>"
    if not lineage.edges:
        yield '<p class="soft">No model here was measured to descend from another one here.</p>'
        return
    yield _table(
        ("parent", "child", "relation", "how", "coefficient", "probability"),
        (
            [
                _name(lineage, e.parent),
                _name(lineage, e.child),
                _cell(e.relation),
                _cell(e.how or ""),
                _number("" if e.coefficient is None else f"{e.coefficient:.3f}"),
                _number(chance(e.probability)),
            ]
            for e in lineage.edges
        ),
    )


def _loose(lineage: Lineage) -> Iterable[str]:
    if not lineage.loose:
        return
    yield "<h2>Related, direction undetermined</h2>"
    yield _table(
        ("one", "other", "why"),
        ([_name(lineage, a), _name(lineage, b), _cell(why, 2000)] for a, b, why in lineage.loose),
    )


def _models(lineage: Lineage) -> Iterable[str]:
    yield "<h2>Models</h2>"
    yield _table(
        ("model", "id", "family", "path"),
        (
            [
                _name(lineage, m.path),
                f"<td><code>{clean(m.id)}</code></td>",
                _number(str(m.family)),
                _cell(m.path, 1000),
            ]
            for m in lineage.models
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are markup already, the headings are not."""
    top = "".join(f'<th scope="col">{clean(word)}</th>' for word in head)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{top}<tbody>\n{body}\n</tbody></table></div>'


def _name(lineage: Lineage, path: str) -> str:
    return f"<td><bdi>{clean(lineage.name_of(path), 1000)}</bdi></td>"


def _number(text: str) -> str:
    return (
        f'<td class="number">{clean(text)}</td>' if text else '<td class="number none">&ndash;</td>'
    )


def _cell(text: str, limit: int = 500) -> str:
    return f"<td><bdi>{clean(text, limit)}</bdi></td>" if text else '<td class="none">&ndash;</td>'
