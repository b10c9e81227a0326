"""Asks about pairs of the matrix, in processes, and counts who finds what.

Positive pairs are the child and what was made of it. Negative pairs are drawn by lot from all that
share no root: other bases of the same recipe and data with their descendants, students distilled
from the child's own family, and strangers under every disguise. Pairs that share nothing but their
first random weights are left out of both.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import combinations
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import folders
import numpy as np
import peers
from lists import FOLLOW_UPS
from networks import Network
from others import apart

_HOME = Path(__file__).resolve().parents[2]
_MANY = _HOME / "benchmarks" / "quality" / "many.py"
OURS = ("align", "compare")
_AT_ONCE = 20
_UNITS = re.compile(r"block\.(\d+)\.mlp\.\.b")
_MOVED = re.compile(r".*order/units\.(\d+)")
_SAME_SHARE = 0.005
_NONE = np.zeros(0, np.int64)


@dataclass(slots=True)
class Pair:
    """Two models and what was said of them.

    Attributes:
        family: Theirs.
        a, b: Folders; `b` is what was made, in a positive pair.
        kind: `disguise`, `shape`, `limit`, `partial`, or `none` for strangers.
        steps: What was done to `b`.
        follow_up: And then.
        scores: Method -> number, higher for more alike; not a number where it says nothing.
        called: Method -> whether it calls the two related; only of our own commands.
        log10_p: Of `align`.
        undone: Largest relative error of a tensor once the disguise was undone; null if it was not.
        blocks: The layer of `a` that each layer of `b` is said to come from.
        layers: Whether each layer was found to come from where it does.
        units: Share of units found to come from where they do.
        share: Of `b`'s weights, what truly is `a`'s, where that is a part.
        shares: Method -> that share as it is told; only of our own commands.
        notes: What a command said that gave no answer.
    """

    family: str
    a: str
    b: str
    kind: str
    steps: str
    follow_up: str
    scores: dict[str, float] = field(default_factory=dict)
    called: dict[str, bool | None] = field(default_factory=dict)
    log10_p: float | None = None
    undone: float | None = None
    blocks: list[int | None] = field(default_factory=list)
    layers: bool | None = None
    units: float | None = None
    share: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_positive(self) -> bool:
        """Say whether one of the two was made of the other."""
        return self.kind != "none"


def pairs_of(truth: Mapping[str, Any], strangers: int, seed: int) -> list[Pair]:
    """Return the pairs of a family: every positive one, and so many of the negative ones."""
    family, child = truth["family"], truth["child"]
    made, plain = truth["made"], truth["models"]
    found = [
        Pair(family, child, r["path"], r["kind"], "+".join(_short(r)), r["follow_up"])
        for r in made
        if r["related"]
    ]
    starts = {tuple(m["roots"]) for m in plain if m["role"] == "shared_init"}
    by_id = {m["id"]: frozenset(m["roots"]) for m in plain}
    rooted = [(m["path"], frozenset(m["roots"])) for m in plain if tuple(m["roots"]) not in starts]
    hidden = [
        (r["path"], frozenset().union(*(by_id.get(s, frozenset()) for s in r["sources"])))
        for r in made
        if r["follow_up"] in ("none", "tuned", "lora")
    ]
    ends = [(a, b) for a in rooted for b in hidden] + list(combinations(hidden, 2))
    both = [(a, b) for (a, roots), (b, others) in ends if roots and others and not roots & others]
    lot = random.Random(f"{family}/{seed}")
    lot.shuffle(both)
    steps = {r["path"]: "+".join(_short(r)) for r in made}
    return found + [Pair(family, a, b, "none", steps[b], "none") for a, b in both[:strangers]]


def _short(record: Mapping[str, Any]) -> list[str]:
    """Return the steps as the name of the folder tells them."""
    names: list[str] = record["path"].split("+")
    return names[:-1] if names[-1] == record["follow_up"] else names


# Asking


def ask(
    pairs: Sequence[Pair], out: Path, python: str, cores: int, say: Callable[[str], None]
) -> None:
    """Have `lineage compare` and `lineage align` say what they find, some pairs a process."""
    shares = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    with ThreadPoolExecutor(cores) as pool:
        for number, _ in enumerate(pool.map(lambda share: _ask(share, out, python), shares), 1):
            say(f"{pairs[0].family}: {min(number * _AT_ONCE, len(pairs))} of {len(pairs)} asked")


def _ask(pairs: Sequence[Pair], out: Path, python: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        lines = []
        for number, pair in enumerate(pairs):
            a, b = (str(out / pair.family / name) for name in (pair.a, pair.b))
            more = []
            if pair.is_positive:
                more = ["--certificate", f"{work}/{number}.safetensors"]
            if pair.kind == "disguise":
                more += ["--write", f"{work}/{number}.undone.safetensors"]
            lines += [["compare", a, b, "--json"], ["align", a, b, "--json", *more]]
        told = _many(lines, python, Path(work))
        for number, pair in enumerate(pairs):
            _note_compare(pair, told[2 * number])
            _note_align(pair, told[2 * number + 1])
            _look(pair, out, Path(work) / f"{number}.safetensors")
            undone = Path(work) / f"{number}.undone.safetensors"
            if undone.is_file():
                pair.undone = _error(out / pair.family / pair.a, undone)


def _many(lines: Sequence[Sequence[str]], python: str, work: Path) -> list[dict[str, Any]]:
    env = {
        **os.environ, "PYTHONPATH": str(_HOME), "XDG_CACHE_HOME": str(work / "cache"),
        "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    words = "\n".join(map(json.dumps, lines))
    done = subprocess.run(
        [python, "-P", str(_MANY)], input=words, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    told += [{"out": "", "last": last}] * (len(lines) - len(told))
    return [_document(each) for each in told]


def _document(told: Mapping[str, str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(told["out"])
    except json.JSONDecodeError:
        return {"failed": told["last"]}
    return found


def _note_compare(pair: Pair, told: Mapping[str, Any]) -> None:
    if "failed" in told:
        pair.notes.append(f"compare: {told['failed']}")
    pair.called["compare"] = told.get("related")
    _note_share(pair, "compare", told)
    score = told.get("score")
    pair.scores["compare"] = nan if score is None else float(score)


def _note_align(pair: Pair, told: Mapping[str, Any]) -> None:
    if "failed" in told:
        pair.notes.append(f"align: {told['failed']}")
    pair.called["align"] = told.get("related")
    _note_share(pair, "align", told)
    pair.log10_p = told.get("log10_p")
    pair.scores["align"] = nan if pair.log10_p is None else -float(pair.log10_p)
    pair.blocks = [block["a"] for block in told.get("blocks") or ()]


def _note_share(pair: Pair, method: str, told: Mapping[str, Any]) -> None:
    if told.get("shares") is not None:
        pair.shares[method] = float(told["shares"]["share_b"])


def _look(pair: Pair, out: Path, certificate: Path) -> None:
    """Compare layers and units that were found with what was done."""
    if not pair.is_positive:
        return
    maps = dict(np.load(out / pair.family / f"{pair.b}.maps.npz"))
    if "partial:share" in maps:
        pair.share = float(maps["partial:share"])
    if pair.blocks:
        pair.layers = pair.blocks == _layers(maps, len(pair.blocks))
    if certificate.is_file():
        pair.units = _units(certificate, maps)


def _layers(maps: Mapping[str, np.ndarray], count: int) -> list[int | None]:
    """Return the layer that each layer truly comes from; None for a stranger's."""
    moved = next((m.tolist() for key, m in maps.items() if key.endswith("order/layers")), None)
    if "partial:layers" in maps:
        given = maps["partial:layers"].tolist()
        return [layer if layer in given else None for layer in range(count)]
    return list(range(count)) if moved is None else moved


def _units(certificate: Path, maps: Mapping[str, np.ndarray]) -> float | None:
    """Return how many of a model's units are said to come from where they do.

    Args:
        certificate: Of `lineage align`; `block.N.mlp..b` are units of the N-th block of B and
            `block.N.mlp..a` those of A that they come from.
        maps: What was done; units were moved after layers were.
    """
    arrays = folders.read(certificate).arrays
    found = {int(m[1]) for m in map(_UNITS.fullmatch, arrays) if m}
    moved = {int(m[1]) for m in map(_MOVED.fullmatch, maps) if m}
    right = total = 0
    for block in found | moved:
        orders = [m for key, m in maps.items() if key.endswith(f"order/units.{block}")]
        true = functools.reduce(lambda before, order: before[order], orders) if orders else None
        there = arrays.get(f"block.{block}.mlp..b", _NONE)
        here = arrays.get(f"block.{block}.mlp..a", _NONE)
        right += int(((there if true is None else true[there]) == here).sum())
        total += len(there if true is None else true)
    return right / total if total else None


def _error(model: Path, undone: Path) -> float:
    """Return the largest error of a tensor, over its norm."""
    true, found = folders.read(model).arrays, folders.read(undone).arrays
    errors = []
    for name, array in true.items():
        if folders.is_float(array):
            wide, other = array.astype(np.float64), found.get(name)
            if other is None or other.shape != array.shape:
                return inf
            errors.append(np.linalg.norm(other.astype(np.float64) - wide) / np.linalg.norm(wide))
    return float(max(errors))


def ask_peers(pairs: Sequence[Pair], out: Path) -> None:
    """Have every peer score every pair."""
    kept: dict[tuple[str, str], Network | None] = {}

    def network(family: str, name: str) -> Network | None:
        if (family, name) not in kept:
            if len(kept) > 400:
                kept.clear()
            kept[family, name] = _taken_apart(out / family / name)
        return kept[family, name]

    for pair in pairs:
        a, b = network(pair.family, pair.a), network(pair.family, pair.b)
        if a is None or b is None:
            pair.scores |= dict.fromkeys(peers.PEERS, nan)
        else:
            pair.scores |= peers.scores(a, b)


def ask_modeldna(pairs: Sequence[Pair], out: Path, python: str) -> None:
    """Have `modeldna` say how probably each pair is related; ties go by its sampled cosine.

    Args:
        pairs: Of one family.
        out: Where the matrix lies.
        python: Of an environment that has it.
    """
    names = sorted({name for pair in pairs for name in (pair.a, pair.b)})
    paths = {name: str(out / pairs[0].family / name) for name in names}
    done = subprocess.run(
        [python, str(_MANY.with_name("dna_pairs.py"))], input=json.dumps(paths),
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise OSError(f"modeldna: {last}")
    told = {
        frozenset((said["a"], said["b"])): said["probability"] + 1e-3 * (said["cosine"] or 0.0)
        for said in json.loads(done.stdout)
        if said["probability"] is not None
    }
    for pair in pairs:
        pair.scores["modeldna"] = told.get(frozenset((pair.a, pair.b)), nan)


def _taken_apart(path: Path) -> Network | None:
    try:
        return apart(folders.read(path))
    except (ValueError, KeyError):
        return None


# Counting


def thresholds(pairs: Iterable[Pair]) -> dict[str, float]:
    """Return the highest score that each method gives to strangers: what it must exceed."""
    found: dict[str, float] = {}
    for pair in pairs:
        if not pair.is_positive:
            for name, score in pair.scores.items():
                if not isnan(score):
                    found[name] = max(found.get(name, -inf), score)
    return found


def found_by(pair: Pair, method: str, over: Mapping[str, float]) -> bool:
    """Say whether a method finds a pair related, at no false positive among the strangers.

    Our commands must also say so themselves; of a part that was copied they must tell its share,
    and not call the two related.
    """
    if pair.share is not None and method in OURS:
        told = pair.shares.get(method, nan)
        return pair.called.get(method) is not True and abs(told - pair.share) <= _SAME_SHARE
    score = pair.scores.get(method, nan)
    above = not isnan(score) and score > over.get(method, -inf)
    return above and (method not in OURS or pair.called.get(method) is True)


def markdown(pairs: Sequence[Pair]) -> str:
    """Return the tables: the matrix of disguises and follow-ups, and all methods side by side."""
    strangers = [pair for pair in pairs if not pair.is_positive]
    over = {f: thresholds(p for p in pairs if p.family == f) for f in {p.family for p in pairs}}
    methods = [
        m for m in (*OURS, *peers.PEERS, "modeldna") if any(m in pair.scores for pair in pairs)
    ]
    told = [f"{len(pairs) - len(strangers)} positive pairs, {len(strangers)} of strangers.", ""]
    false = {m: sum(p.called.get(m) is True for p in strangers) for m in OURS if m in methods}
    told += [f"Strangers called related: {', '.join(f'{m} {n}' for m, n in false.items())}.", ""]
    parts = {m: sum(p.shares.get(m, 0) > 0 for p in strangers) for m in OURS if m in methods}
    told += [
        f"Strangers said to share parts: {', '.join(f'{m} {n}' for m, n in parts.items())}.",
        "",
    ]
    for method in methods:
        told += _matrix(pairs, method, over)
    told += _side_by_side(pairs, methods, over)
    told += _undone(pairs)
    told += _calibration(strangers)
    return "\n".join(told)


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)}/{len(hits)}" if hits else "-"


def _matrix(
    pairs: Sequence[Pair], method: str, over: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return disguises by follow-ups: how many pairs one method finds."""
    disguised = [p for p in pairs if p.kind == "disguise"]
    lines = [f"### {method}: found, of all families, at no false positive", ""]
    lines += [f"| disguise | {' | '.join(FOLLOW_UPS)} |", f"| --- |{' --- |' * len(FOLLOW_UPS)}"]
    for steps in dict.fromkeys(p.steps for p in disguised):
        cells = [
            _share([found_by(p, method, over[p.family]) for p in disguised
                    if p.steps == steps and p.follow_up == after])
            for after in FOLLOW_UPS
        ]  # fmt: skip
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return [*lines, ""]


def _side_by_side(
    pairs: Sequence[Pair], methods: Sequence[str], over: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return, for every kind of pair, how many each method finds."""
    lines = ["### All methods, at no false positive", ""]
    lines += [f"| pairs | {' | '.join(methods)} |", f"| --- |{' --- |' * len(methods)}"]
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.kind == "disguise":
            groups.setdefault(f"disguise, then {pair.follow_up}", []).append(pair)
        elif pair.is_positive:
            groups.setdefault(f"{pair.kind}: {pair.steps}, {pair.follow_up}", []).append(pair)
    for title, members in groups.items():
        cells = [_share([found_by(p, m, over[p.family]) for p in members]) for m in methods]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _undone(pairs: Sequence[Pair]) -> list[str]:
    """Return what was found besides that two models are related."""
    pure = [p for p in pairs if p.kind == "disguise" and p.follow_up == "none"]
    exact = [p.undone is not None and p.undone <= 1e-5 for p in pure]
    moved = [p for p in pairs if "layers-" in p.steps and p.is_positive]
    cut = [p.units for p in pairs if p.steps.startswith("units-cut") and p.units is not None]
    mean = f"{np.mean(cut):.3f} of {len(cut)}" if cut else "-"
    return [
        "| what was found | figure |",
        "| --- | --- |",
        f"| pure disguises undone to 1e-5 | {_share(exact)} |",
        f"| maps of layers exactly right | {_share([p.layers is True for p in moved])} |",
        f"| units that are left, right (mean) | {mean} |",
    ]


def _calibration(strangers: Sequence[Pair]) -> list[str]:
    """Return how often strangers get a p of `align` as small as that: its null, put to the test."""
    found = [p.log10_p for p in strangers if p.log10_p is not None]
    if not found:
        return []
    lines = ["", f"p of `align` for {len(found)} pairs of strangers:", "", "| p at most | share |"]
    lines.append("| --- | --- |")
    for limit in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001):
        below = sum(log10_p <= np.log10(limit) for log10_p in found)
        lines.append(f"| {limit} | {below / len(found):.3f} |")
    return lines


def score(
    out: Path, names: Sequence[str], *, rows: Sequence[str], strangers: int, seed: int,
    python: str, cores: int, ours: bool, modeldna: str | None, say: Callable[[str], None],
) -> list[Pair]:  # fmt: skip
    """Ask about every family of a made matrix.

    Args:
        out: Where the matrix lies.
        names: Of families.
        rows: Which of the models that were made; all if there are none.
        strangers: How many negative pairs of each family.
        seed: Of the lot that draws them.
        python: Runs `lineage`.
        cores: Processes at a time.
        ours: Whether to ask `lineage`; peers are asked in any case.
        modeldna: Runs that peer; None leaves it out.
        say: Told how far it is.
    """
    found: list[Pair] = []
    for name in names:
        truth = json.loads((out / name / "truth.json").read_text())
        pairs = pairs_of(truth, strangers, seed)
        pairs = [p for p in pairs if not (rows and p.is_positive) or p.b in rows]
        say(f"{name}: {len(pairs)} pairs")
        if ours:
            ask(pairs, out, python, cores, say)
        ask_peers(pairs, out)
        if modeldna is not None:
            ask_modeldna(pairs, out, modeldna)
        found += pairs
    return found


def document(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return what was said of every pair, for JSON; what is not a number is null."""
    told = [asdict(pair) for pair in pairs]
    for each in told:
        each["scores"] = {k: None if isnan(v) else v for k, v in each["scores"].items()}
    return told


def families(out: Path, only: Sequence[str]) -> list[str]:
    """Return the families that were made."""
    return list(only) or sorted(path.parent.name for path in out.glob("*/truth.json"))


PYTHON = sys.executable
