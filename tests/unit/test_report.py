"""A report is well-formed, complete, self-contained and legible whatever the names are."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.errors import FormatError
from lineage.report import Declared, Section, html, mermaid, svg
from lineage.report.base import chance, fit, read, short_names, text_width
from lineage.report.layout import Box, depths
from lineage.report.page import Page, lay_out

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\"><script>alert(1)</script>&'\x00\x1b[31m\u202egnp.exe\ud800]]>"


def document(
    families: dict[str, int],
    edges: list[tuple[Any, ...]],
    loose: list[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    keys = ("parent", "child", "relation", "how", "coefficient", "probability")
    return {
        "models": [
            {"path": path, "id": f"b3:{number:08x}99", "family": family}
            for number, (path, family) in enumerate(families.items())
        ],
        "edges": [dict(zip(keys, edge, strict=True)) for edge in edges],
        "pairs": [],
        "undetermined": [{"a": a, "b": b, "why": "the two are too near"} for a, b in loose or ()],
    }


NAMES = [
    "base",
    "base-mirror",
    "base-sft-code",
    "base-sft-docs",
    "docs-lora",
    "base-sft-code-v2",
    "blend",
    "base-sft-docs-int8",
    "false-origin",
    "stranger",
    "false-heir",
]
DEMO = document(
    {f"hub/{name}": max(0, number - 8) for number, name in enumerate(NAMES)},
    [
        ("hub/base", "hub/base-mirror", "identical", "renamed", None, 1.0),
        ("hub/base", "hub/base-sft-code", "finetune", "full", None, 0.97),
        ("hub/base", "hub/base-sft-docs", "finetune", "full", None, 0.97),
        ("hub/base", "hub/docs-lora", "finetune", "low_rank", None, 0.99),
        ("hub/base-sft-code", "hub/base-sft-code-v2", "finetune", "full", None, 0.91),
        ("hub/base-sft-code", "hub/blend", "merge", "linear", 0.6, 0.99),
        ("hub/base-sft-docs", "hub/blend", "merge", "linear", 0.4, 0.99),
        ("hub/base-sft-docs", "hub/base-sft-docs-int8", "quantized", "int8", None, 0.999),
        ("hub/base-sft-docs", "hub/false-origin", "finetune", "full", None, 0.88),
    ],
    [("hub/base-mirror", "hub/docs-lora")],
)
DECLARED = (
    Declared("hub/base-sft-code", "hub/base", "confirmed", "the weights agree"),
    Declared("hub/false-heir", "hub/base", "contradicted", "independent weights"),
    Declared("false-origin", "stranger", "contradicted", "it comes from base-sft-docs"),
    Declared("hub/docs-lora", "someone/else", "unchecked"),
)


def page_of(doc: dict[str, Any], declared: tuple[Declared, ...] = ()) -> Page:
    return lay_out(read(doc, declared))


def assert_legible(page: Page) -> None:
    """No box or label overlaps another; every box lies in one frame, everything on the page."""
    boxes = list(page.boxes.values())
    labels = [wire.label for wire in page.wires] + [route.label for route in page.routes]
    frames = [frame.box for frame in page.frames]
    for group in (boxes, labels, frames):
        assert not any(a.overlaps(b) for a, b in combinations(group, 2))
    assert not any(box.overlaps(label) for box, label in product(boxes, labels))
    for thing in boxes + labels:
        inside = [
            f
            for f in frames
            if f.x <= thing.x and thing.right <= f.right
            if f.y <= thing.y and thing.bottom <= f.bottom
        ]
        assert len(inside) == 1
    for x, y in (point for route in page.routes for point in route.points):
        assert 0 < x < page.width
        assert 0 < y < page.bottom


def assert_missed(page: Page) -> None:
    """No declared arrow runs through a box: each of its legs is a thin box of its own."""
    for route in page.routes:
        for (ax, ay), (bx, by) in zip(route.points, route.points[1:], strict=False):
            leg = Box(min(ax, bx), min(ay, by) - 0.01, abs(ax - bx), abs(ay - by) + 0.02)
            assert not any(leg.overlaps(box) for box in page.boxes.values())


def test_the_demonstration_is_complete_and_legible() -> None:
    text = svg(DEMO, DECLARED, "The <family>")
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title").text == "The <family>"  # type: ignore[union-attr]
    described = root.find(f"{SVG}desc").text or ""  # type: ignore[union-attr]
    assert "blend is merge · linear of base-sft-docs" in described
    assert "the declared parent stranger of false-origin is contradicted" in described
    words = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert [words.count(name) for name in NAMES] == [1] * len(NAMES)
    assert words.count("declared, contradicted") == 3  # two arrows, one line of the key
    assert "merge · linear\N{MULTIPLICATION SIGN}0.60  .99" in words
    assert len(root.findall(f".//{SVG}g[@class='label']")) == len(DEMO["edges"]) + 2
    assert len(root.findall(f".//{SVG}path[@class='loose']")) == 1
    page = page_of(DEMO, DECLARED)
    assert_legible(page)
    assert_missed(page)
    assert page.width < 960


def test_the_page_holds_picture_tables_verdicts_and_sections() -> None:
    extra = Section("Payouts", (("alice", "600"),), ("who", "cents"), "Split by the claims.")
    text = html(DEMO, DECLARED, "The family", (extra,))
    for words in ("<svg", "someone/else", "independent weights", 'class="contradicted"'):
        assert words in text
    for words in ("0.600", "&gt;.99", "<h2>Payouts</h2>", "Split by the claims.", "<bdi>600</bdi>"):
        assert words in text
    assert text.count("The family") == 3  # the tab, the heading, the picture's accessible title


@pytest.mark.parametrize("draw", [svg, html, mermaid])
def test_nothing_is_fetched_or_run_and_the_bytes_repeat(draw: Any) -> None:
    text = draw(DEMO, DECLARED)
    assert draw(DEMO, DECLARED) == text
    assert not re.search(r"<script|@import|url\(|src=|<link|<iframe|\son\w+=", text)
    assert re.findall(r"\w+://[^\"' ]+", text) in ([], ["http://www.w3.org/2000/svg"])


def test_hostile_names_are_only_text() -> None:
    doc = document({HOSTILE: 0, "b": 0}, [(HOSTILE, "b", HOSTILE, HOSTILE, None, 0.5)], [])
    declared = [
        Declared("b", HOSTILE, "contradicted", HOSTILE),
        Declared(HOSTILE, "b", "unchecked"),
    ]
    section = Section(HOSTILE, ((HOSTILE,),), (HOSTILE,), HOSTILE)
    picture = svg(doc, declared, HOSTILE)
    ET.fromstring(picture)
    page = html(doc, declared, HOSTILE, (section,))
    chart = mermaid(doc, declared)
    for text in (picture, page, chart):
        assert "<script" not in text
        assert not set(text) & set("\x00\x1b\u202e\ud800")
        text.encode()
    assert '"]' not in chart.replace('"]\n', "")  # a name never closes its own quotes


@pytest.mark.parametrize(
    "doc",
    [
        document({}, []),
        document({"only": 0}, []),
        document({"a/model": 0, "b/model": 1, "c": 2}, []),
        document({"x" * 4000: 0, "y" * 4000: 0}, [("x" * 4000, "y" * 4000, "merge", None, 1, 0)]),
        document(dict.fromkeys("abcd", 0), [], [("a", "b"), ("b", "c"), ("a", "d")]),
        document({str(n): n % 3 for n in range(60)}, []),
        document(
            {str(n): 0 for n in range(60)},
            [(str(n // 3), str(n), "finetune", "full", None, 0.5) for n in range(1, 60)],
        ),
    ],
    ids=["nothing", "one", "same-names", "long", "loose", "sixty-alone", "sixty-tree"],
)
def test_extreme_documents_stand(doc: dict[str, Any]) -> None:
    for text in (svg(doc), html(doc)):
        assert text.count('class="model"') == len(doc["models"])
    ET.fromstring(svg(doc))
    assert_legible(page_of(doc))
    assert mermaid(doc).startswith("flowchart LR\n")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_family_is_legible(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    node = st.integers(0, count - 1)
    pairs = data.draw(st.sets(st.tuples(node, node), max_size=20))
    claims = data.draw(st.sets(st.tuples(node, node), max_size=4))
    families = {f"m{n}": data.draw(st.integers(0, 3)) for n in range(count)}
    edges = [(f"m{a}", f"m{b}", "merge", "ties", 0.5, 0.5) for a, b in sorted(pairs) if a < b]
    declared = tuple(Declared(f"m{a}", f"m{b}", "contradicted") for a, b in sorted(claims))
    page = page_of(document(families, edges), declared)
    assert page.boxes.keys() == families.keys()
    assert len(page.wires) == len(edges)
    assert len(page.routes) == sum(a != b for a, b in claims)
    assert_legible(page)
    assert_missed(page)
    for wire in page.wires:
        parent, child = page.boxes[wire.edge.parent], page.boxes[wire.edge.child]
        assert wire.points[0] == (parent.right, parent.middle)
        assert wire.points[-1][0] == child.x
        assert child.y < wire.points[-1][1] < child.bottom
        for (ax, ay), (bx, by) in zip(wire.points[1::2], wire.points[2::2], strict=True):
            assert ay == by
            level = Box(ax, ay - 0.01, bx - ax, 0.02)
            assert not any(level.overlaps(box) for box in page.boxes.values())


def test_layers_are_longest_paths() -> None:
    doc = document(
        dict.fromkeys("abcd", 0),
        [(p, c, "merge", None, None, 1) for p, c in ("ab", "bc", "ac", "dc")],
    )
    assert depths("abcd", read(doc).edges) == {"a": 0, "b": 1, "c": 2, "d": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [{"parent": "a", "child": "z", "relation": "merge"}]},
        {"undetermined": [{"a": "a", "b": "z"}]},
        {"models": [{"path": "a", "family": 0}, {"path": "a", "family": 0}]},
        {
            "edges": [
                {"parent": "a", "child": "b", "relation": "merge"},
                {"parent": "b", "child": "a", "relation": "merge"},
            ]
        },
        {"edges": [{"parent": "a", "child": "b", "relation": "merge", "coefficient": "half"}]},
        {"edges": [{"parent": "a", "child": "b", "relation": "merge", "probability": 1e999}]},
    ],
    ids=["edge", "pair", "twice", "circle", "word", "infinite"],
)
def test_inconsistent_documents_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        svg(document({"a": 0, "b": 0}, []) | change)


def test_models_joined_by_an_edge_stand_in_one_family() -> None:
    lineage = read(document({"a": 0, "b": 1}, [("a", "b", "merge", None, None, 1)]))
    assert {model.family for model in lineage.models} == {0}


def test_names_are_short_and_differ() -> None:
    assert short_names(["x/a/m", "x/b/m", "y/n/"]) == ["a/m", "b/m", "n"]
    assert short_names(["m", "x/m"]) == ["m", "x/m"]
    assert text_width(fit("a" * 100, 13, 90), 13) <= 90
    assert fit("short", 13, 90) == "short"


def test_chances_are_never_rounded_to_certainty() -> None:
    given = [None, 0.0, 0.001, 0.5, 0.97, 0.9999, 1.0]
    assert [chance(p) for p in given] == ["", "<.01", "<.01", ".50", ".97", ">.99", "1"]


def test_the_summary_counts() -> None:
    assert read(DEMO, DECLARED).summary == (
        "11 models in 3 families, 9 measured edges, 1 pair of undetermined direction; "
        "of 4 declared parents, 1 confirmed, 2 contradicted, 1 unchecked."
    )


def test_the_report_does_not_import_numpy() -> None:
    code = "import sys, lineage.report; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
