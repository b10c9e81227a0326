"""Sums records up into the figures of the table, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan
from typing import Any

from intervals import NOTHING, Figure, auroc, bootstrap, share
from scores import Record, only

SEED = 0
"""Of every bootstrap."""

BINS = ((0, 0.01), (0.01, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.5), (0.5, inf))
"""Of the relative change, for the direction of lone pairs."""

LONG_ENOUGH = 0.05
"""The change from which a lone pair is asked more of."""

LARGEST_RANK = 32


@dataclass(slots=True)
class Scored:
    """One answerer's records over some families.

    Each list is what the function of that name in `scores.py` returns, all families' in a row, each
    record with its `family` and `architecture`. `pairs` are of all families of an architecture
    together; `pooled_edges` and `pooled_said` are of the same run.
    """

    pairs: list[Record] = field(default_factory=list)
    edges: list[Record] = field(default_factory=list)
    said: list[Record] = field(default_factory=list)
    models: list[Record] = field(default_factory=list)
    roots: list[Record] = field(default_factory=list)
    initialisation: list[Record] = field(default_factory=list)
    initialisation_alone: list[Record] = field(default_factory=list)
    lone: list[Record] = field(default_factory=list)
    lone_edges: list[Record] = field(default_factory=list)
    lone_siblings: list[Record] = field(default_factory=list)
    pooled_edges: list[Record] = field(default_factory=list)
    pooled_said: list[Record] = field(default_factory=list)
    misses: list[Record] = field(default_factory=list)

    def of(self, **wanted: Any) -> Scored:
        """Return the records of one family or architecture."""
        return Scored(**{name: list(only(getattr(self, name), **wanted)) for name in LISTS})


LISTS = tuple(Scored.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure, and what it has to reach.

    Attributes:
        least, aim: In words, as they are set; empty where nothing is.
        of: Sums the records up.
    """

    key: str
    title: str
    of: Callable[[Scored], Figure]
    least: str = ""
    aim: str = ""


def related_auroc(scored: Scored) -> Figure:
    """Return how surely a related pair outscores another."""
    cases = only(scored.pairs, same_sizes=True)
    return auroc(
        [p["score"] for p in cases],
        [p["kind"] == "related" for p in cases],
        [(p["a"], p["b"]) for p in cases],
        seed=SEED,
    )


def related_at_zero(scored: Scored) -> Figure:
    """Return the share of related pairs that outscore every pair that is not."""
    cases = only(scored.pairs, same_sizes=True)
    others = [p["score"] for p in cases if p["kind"] != "related"]
    kin = [p["score"] for p in cases if p["kind"] == "related"]
    return share([score > max(others) for score in kin]) if others else NOTHING


UNRELATED = ("shared_init", "distilled", "stranger")


def called_related(*kinds: str, same_sizes: bool = True) -> Callable[[Scored], Figure]:
    """Return the share of pairs of some kinds that are called related by default.

    Args:
        kinds: As `Truth.kind` names them.
        same_sizes: Whether the two are of families whose networks have the same sizes.
    """

    def of(scored: Scored) -> Figure:
        if all(p["related"] is None for p in scored.pairs):
            return NOTHING  # it has no threshold
        cases = [p for p in only(scored.pairs, same_sizes=same_sizes) if p["kind"] in kinds]
        return share([p["related"] is True for p in cases])

    return of


def balanced(name: str) -> Callable[[Scored], Figure]:
    """Return the mean of how often a step and how often a shared initialisation is told right."""

    def accuracy(records: Sequence[Record]) -> float:
        parts = [[r["right"] for r in only(records, kind=k)] for k in ("step", "shared_init")]
        return nan if not all(parts) else sum(sum(p) / len(p) for p in parts) / 2

    def of(scored: Scored) -> Figure:
        records = getattr(scored, name)
        return NOTHING if isnan(accuracy(records)) else bootstrap(records, accuracy, seed=SEED)

    return of


def recall(name: str = "edges") -> Callable[[Scored], Figure]:
    """Return the share of true edges that were found with the right direction."""
    return lambda scored: share([e["found"] for e in getattr(scored, name) if e["needed"]])


def undirected(scored: Scored) -> Figure:
    """Return the share of true edges that were found in either direction."""
    return share([e["found"] or e["reversed"] for e in scored.edges if e["needed"]])


def precision(name: str = "said") -> Callable[[Scored], Figure]:
    """Return the share of the edges said that are right."""
    return lambda scored: share([e["right"] for e in getattr(scored, name)])


def exact_parents(scored: Scored) -> Figure:
    """Return the share of models whose set of parents is exactly right."""
    return share([m["right"] for m in scored.models])


def right_roots(scored: Scored) -> Figure:
    """Return the share of families whose root was found."""
    return share([r["right"] for r in scored.roots])


def full_steps(scored: Scored, *, least: float = 0.0, most: float = inf) -> list[Record]:
    """Return the lone pairs with one full fine-tune between them, by the size of the change."""
    return [
        r for r in scored.lone
        if r["how"] in {"full", "continued"} and r["change"] is not None
        and least <= r["change"] < most
    ]  # fmt: skip


def answered(*, least: float = 0.0) -> Callable[[Scored], Figure]:
    """Return the share of lone pairs that are given a direction."""
    return lambda scored: share([r["answered"] for r in full_steps(scored, least=least)])


def right_when_answered(*, least: float = 0.0) -> Callable[[Scored], Figure]:
    """Return how often the direction that a lone pair is given is right."""

    def of(scored: Scored) -> Figure:
        return share([r["right"] for r in full_steps(scored, least=least) if r["answered"]])

    return of


def siblings_given_direction(scored: Scored) -> Figure:
    """Return how often two siblings alone are given a direction, which is never right."""
    return share([r["answered"] for r in scored.lone_siblings])


def direction_curve(scored: Scored) -> list[Record]:
    """Return, for each size of change, how often a direction is said and how often it is right."""
    rows = []
    for least, most in BINS:
        steps = full_steps(scored, least=least, most=most)
        rows.append(
            {"least": least, "most": most, "answered": share([s["answered"] for s in steps]),
             "right": share([s["right"] for s in steps if s["answered"]])}
        )  # fmt: skip
    return rows


def described(edges: Iterable[Record]) -> list[Record]:
    """Return the edges found and described."""
    return [e for e in edges if e["found"] and e["relation"] is not None]


def relation_right(scored: Scored) -> Figure:
    """Return how often the relation of an edge found is right."""
    cases = described(scored.edges)
    return share([e["relation"] in {relation for relation, _ in e["true"]} for e in cases])


def how_right(scored: Scored) -> Figure:
    """Return how often the relation of an edge found and its detail are right."""
    return share([is_described_right(e) for e in described(scored.edges)])


def is_described_right(edge: Record) -> bool:
    """Whether an edge's relation is right and, where the truth has one, its detail."""
    return any(
        edge["relation"] == relation and how in {None, edge["how"]}
        for relation, how in edge["true"]
    )


def confusion(scored: Scored) -> dict[tuple[str, str], dict[str, int]]:
    """Return, for each true relation and detail, how often each was said of the edges found."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for edge in scored.edges:
        if edge["needed"] or edge["found"]:
            row = table.setdefault(kind_of(edge), {})
            row["true"] = row.get("true", 0) + 1
            if not edge["found"]:
                words = "missed" if not edge["reversed"] else "reversed"
            elif edge["relation"] is None:
                words = "found"
            else:
                right = is_described_right(edge)
                words = "right" if right else f"{edge['relation']} {edge['how'] or ''}".strip()
            row[words] = row.get(words, 0) + 1
    return dict(sorted(table.items()))


def kind_of(edge: Record) -> tuple[str, str]:
    """Return the true relation and detail of an edge, the best words for them."""
    if not edge["is_direct"]:
        return "through a hidden model", ""
    relation, how = edge["true"][0]
    return relation, how or ""


def coefficient_error(*hows: str) -> Callable[[Scored], Figure]:
    """Return the mean absolute error of the coefficients of merges of some kinds."""

    def of(scored: Scored) -> Figure:
        errors = [abs(e["coefficient"] - e["true_coefficient"]) for e in _ingredients(scored, hows)
                  if e["coefficient"] is not None]  # fmt: skip
        return bootstrap(errors, lambda drawn: sum(drawn) / len(drawn), seed=SEED)

    return of


def coefficients_found(*hows: str) -> Callable[[Scored], Figure]:
    """Return the share of those coefficients that were given at all."""

    def of(scored: Scored) -> Figure:
        cases = _ingredients(scored, hows)
        has_words = any(e["relation"] is not None for e in scored.edges)
        return share([e["coefficient"] is not None for e in cases]) if has_words else NOTHING

    return of


def _ingredients(scored: Scored, hows: Sequence[str]) -> list[Record]:
    return [
        e for e in scored.edges
        if e["true_coefficient"] is not None and kind_of(e) in {("merge", how) for how in hows}
    ]  # fmt: skip


def rank_right(scored: Scored) -> Figure:
    """Return how often the rank of a merged adapter, alone with its base, is exactly right."""
    adapters = [
        r for r in scored.lone
        if r["true_rank"] is not None and r["true_rank"] <= LARGEST_RANK and r["how"] == "low_rank"
    ]  # fmt: skip
    return share([r["said_how"] == "low_rank" and r["rank"] == r["true_rank"] for r in adapters])


def probable(scored: Scored) -> list[tuple[float, bool]]:
    """Return the probability of every edge said and whether it is right; copies have no order."""
    return [
        (e["probability"], e["right"]) for e in scored.said
        if e["probability"] is not None and not e["is_copy"]
    ]  # fmt: skip


def probable_alone(scored: Scored) -> list[tuple[float, bool]]:
    """Return the probability of every direction said of a pair alone and whether it is right."""
    return [(e["probability"], e["right"]) for e in scored.lone_edges]


Probable = Callable[[Scored], Sequence[tuple[float, bool]]]
"""Chooses the cases that have a probability."""


def calibration_error(of: Probable = probable) -> Callable[[Scored], Figure]:
    """Return the expected calibration error over ten bins of equal width (Naeini et al., 2015)."""
    return lambda scored: bootstrap(of(scored), expected_error, seed=SEED)


def expected_error(cases: Sequence[tuple[float, bool]]) -> float:
    """Return the mean distance of the probability said from the share right, bin by bin.

    Example:
        >>> expected_error([(0.9, True), (0.9, False)])
        0.4
    """
    bins = [row for row in reliability(cases) if row["count"]]
    distance = sum(row["count"] * abs(row["said"] - row["right"].value) for row in bins)
    return round(distance / len(cases), 12)


def brier(of: Probable = probable) -> Callable[[Scored], Figure]:
    """Return the mean squared distance of the probability from what is (Brier, 1950)."""

    def squared(cases: Sequence[tuple[float, bool]]) -> float:
        return sum((p - y) ** 2 for p, y in cases) / len(cases)

    return lambda scored: bootstrap(of(scored), squared, seed=SEED)


def reliability(cases: Sequence[tuple[float, bool]]) -> list[Record]:
    """Return, for each tenth, the mean probability said and the share right."""
    rows = []
    for tenth in range(10):
        inside = [(p, y) for p, y in cases if min(9, int(p * 10)) == tenth]
        said = sum(p for p, _ in inside) / len(inside) if inside else nan
        right = share([y for _, y in inside])
        rows.append({"from": tenth / 10, "count": len(inside), "said": said, "right": right})
    return rows


ROWS = (
    Row("auroc", "related or not: AUROC", related_auroc, ".999", "1"),
    Row("at_zero", "true positives at zero false positives", related_at_zero, ".98", "1"),
    Row("related_said", "related pairs called related", called_related("related")),
    Row("strangers", "unrelated pairs, same shapes, called related",
        called_related(*UNRELATED), "0", "0"),
    Row("strangers_sizes", "unrelated pairs, other sizes, called related",
        called_related(*UNRELATED, same_sizes=False)),
    Row("init_in_graph", "shared init told from parenthood, in the graph",
        balanced("initialisation"), ".95", ".99"),
    Row("init_alone", "the same, by the pair alone", balanced("initialisation_alone")),
    Row("recall", "parent edges: recall", recall(), ".85", ".97"),
    Row("precision", "parent edges: precision", precision(), ".85", ".97"),
    Row("undirected", "parent edges: recall in either direction", undirected),
    Row("pooled_recall", "recall, families of one architecture together", recall("pooled_edges")),
    Row("pooled_precision", "precision, likewise", precision("pooled_said")),
    Row("parents", "exact set of parents", exact_parents, ".85", ".95"),
    Row("roots", "root of the family", right_roots, ".95", "1"),
    Row("lone_right", "lone full fine-tune: direction right when said", right_when_answered(),
        ".95", ".99"),
    Row("lone_said", "lone full fine-tune: direction said", answered(), ".5", ""),
    Row("lone_right_5", "the same, change of 5 % or more: right",
        right_when_answered(least=LONG_ENOUGH), ".95", ".99"),
    Row("lone_said_5", "the same, change of 5 % or more: said", answered(least=LONG_ENOUGH),
        "", ".8"),
    Row("lone_siblings", "lone siblings given a direction", siblings_given_direction),
    Row("relation", "relation of edges found", relation_right, ".90", ".98"),
    Row("how", "relation and detail of edges found", how_right, ".90", ".98"),
    Row("coefficients", "merge coefficient, mean absolute error (linear, SLERP)",
        coefficient_error("linear", "slerp"), ".02", ".005"),
    Row("coefficients_said", "those coefficients given at all",
        coefficients_found("linear", "slerp")),
    Row("rank", f"rank of a merged LoRA, of {LARGEST_RANK} at most", rank_right, ".95", "1"),
    Row("calibration", "edge probability: expected calibration error", calibration_error(),
        ".10", ".03"),
    Row("brier", "edge probability: Brier score", brier()),
    Row("lone_calibration", "lone pair's direction: expected calibration error",
        calibration_error(probable_alone)),
    Row("lone_brier", "lone pair's direction: Brier score", brier(probable_alone)),
)  # fmt: skip


def table(scored: Scored) -> dict[str, Figure]:
    """Return every figure of the table."""
    return {row.key: row.of(scored) for row in ROWS}
