"""The result of `real_input.py` as tables."""

from __future__ import annotations

from typing import Any

from paying import AMOUNT


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    parts = (_summary, _models, _compares, _parts, _refused, _times)
    return "\n\n".join(part(result) for part in parts)


def _rows(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _summary(result: dict[str, Any]) -> str:
    m, p = result["measured"], result["proved"]
    copies, edges, pairs, details = m["copies"], m["edges"], m["pairs"], m["details"]
    errors = [row["error"] for row in m["merges"]]
    known = [error for error in errors if error is not None]
    ranks = [(c["true_rank"], c["rank"]) for c in m["compared"] if c["true_rank"]]
    relation_right, compared = details["relation_right"], details["edges"]
    confirmed = [q["confirmed"] for parents in p["verified"].values() for q in parents]
    ordered = [c["direction"] for c in m["compared"] if c["relation"] != "identical"]
    directions = ", ".join(f"{ordered.count(w)} {w}" for w in ("right", "wrong", "not said"))
    steps = sum(c["relation"] is not None for c in m["siblings"])
    refusals = sum(r["exit"] == 1 for r in p["refused"])
    return _rows(("what", "result"), [
        ("exact copies found", f"{len(copies['found'])} of {copies['true']}"),
        ("models falsely called copies", len(copies["spurious"])),
        ("parent edges right", f"{edges['right']} of {edges['true']}"),
        ("parent edges missed", len(edges["missed"])),
        ("parent edges spurious", len(edges["spurious"])),
        ("relation right, of the right edges", f"{relation_right} of {compared}"),
        ("relation and detail right", f"{details['how_right']} of {compared}"),
        ("merge coefficients found", f"{len(known)} of {len(errors)}"),
        ("largest error of a merge coefficient", f"{max(known):.4f}" if known else "none found"),
        ("LoRA rank, true and found", ", ".join(f"{t}: {f}" for t, f in ranks)),
        ("direction by `compare` of one pair alone", directions),
        ("sibling pairs that `compare` alone calls one step", f"{steps} of {len(m['siblings'])}"),
        ("unrelated pairs called related",
         f"{len(pairs['unrelated_called_related'])} of {pairs['unrelated']}"),
        ("related pairs not called related",
         f"{len(pairs['related_missed'])} of {pairs['related']}"),
        ("lowest score of a related pair, highest of an unrelated one",
         f"{pairs['lowest_related_score']:.3f}, {pairs['highest_unrelated_score']:.3f}"),
        ("honest claims verified with weights", f"{len(p['verified'])} of {len(p['claims'])}"),
        ("parents in them confirmed by measurement", f"{sum(confirmed)} of {len(confirmed)}"),
        ("false claims and receipts refused", f"{refusals} of {len(p['refused'])}"),
        ("settlement", f"{sum(p['settlement']['paid'].values())} of {AMOUNT} paid"),
        ("failures of what must not fail", len(result["failures"])),
    ])  # fmt: skip


def _models(result: dict[str, Any]) -> str:
    rows = [(r["model"], r["truth"], r["found"], r["verdict"]) for r in result["measured"]["rows"]]
    return _rows(("model", "truly", "`lineage infer`", "verdict"), rows)


def _compares(result: dict[str, Any]) -> str:
    rows = [
        (c["parent"], c["child"], f"{c['relation']} {c['how'] or ''}".strip(), c["rank"] or "",
         "" if c["change"] is None else f"{c['change']:.2%}", c["direction"])
        for c in result["measured"]["compared"] + result["measured"]["siblings"]
    ]  # fmt: skip
    head = ("one", "other", "`lineage compare` alone", "rank", "change", "direction")
    return _rows(head, rows)


def _parts(result: dict[str, Any]) -> str:
    rows = [
        (title, p["true"], p["right"], p["missed"],
         ", ".join(f"{a} -> {b}" for a, b in p["spurious"]) or 0, p["undetermined"])
        for title, p in result["measured"]["parts"].items()
    ]  # fmt: skip
    head = ("`lineage infer` on a part of the family", "edges", "right", "missed", "spurious",
            "pairs said undetermined")  # fmt: skip
    return _rows(head, rows)


def _refused(result: dict[str, Any]) -> str:
    proved = result["proved"]
    rows = [(r["what"], r["exit"], r["words"]) for r in proved["refused"] + proved["observed"]]
    alone = proved["settlement"]["measured_only"]
    rows.append(("the same settlement without --accept-asserted", alone["exit"], alone["words"]))
    return _rows(("tried", "exit", "last words"), rows)


def _times(result: dict[str, Any]) -> str:
    return _rows(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in result["seconds"].items()])
