"""The whole product on one small family: train, infer, contradict, sign, log, verify, pay, draw."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from lineage import audit, claims, report, settlement
from lineage.claims import Claim, ModelRef, Parent, Split, VerifiedClaim
from lineage.declared import read_declared
from lineage.demo.family import STANDARD, Recipe, Truth, make_family
from lineage.errors import ContradictionError, FormatError
from lineage.fingerprints import Fingerprint, fingerprint, to_bytes
from lineage.graph import LineageGraph, infer_graph
from lineage.ledgers import Ledger, Receipt
from lineage.relation import Relation
from lineage.signing import Ed25519Key, Envelope

if TYPE_CHECKING:
    from lineage.audit import Verdict
    from lineage.settlement import Settlement

ORIGIN = "demo.example/lineage"
EARNER = "blend"
AMOUNT = 100_000
UNIT = "credit"

_MAKERS = {
    "base": (("ada", "base-model maker", "0.9"), ("cora", "dataset curator", "0.1")),
    "base-sft-code": (("ben", "fine-tuner", "1"),),
    "base-sft-code-v2": (("ben", "fine-tuner", "0.8"), ("rui", "red-teamer", "0.2")),
    "base-sft-docs": (("chen", "fine-tuner", "0.7"), ("lea", "labeller", "0.3")),
    "docs-lora": (("dara", "adapter author", "1"),),
    "blend": (("emil", "merger", "1"),),
    "base-sft-docs-int8": (("quin", "quantizer", "1"),),
    "base-mirror": (("mira", "mirror", "1"),),
    "stranger": (("sol", "base-model maker", "1"),),
    "false-heir": (("hal", "fine-tuner", "1"),),
    "false-origin": (("otto", "fine-tuner", "1"),),
}
"""Who made each model of the family, and how they share what it earns."""

_RATE = Fraction(1, 10)
"""What each model asks of its descendants."""

_PARTS = ("models", "fingerprints", "claims", "keys")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration found and made.

    Attributes:
        truth: How the family was really made; read only after everything else was decided.
        graph: What the weights alone gave.
        verdicts: Declared parents held against the weights.
        accepted: Names of the models whose claims the weights bear out.
        refused: Name -> why its signed claim was refused.
        log_size: Entries in the log.
        settlement: The sample payout.
        seconds: Stage -> wall time.
        files: What to look at.
    """

    truth: Truth
    graph: LineageGraph
    verdicts: tuple[Verdict, ...]
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    log_size: int
    settlement: Settlement
    seconds: Mapping[str, float]
    files: tuple[Path, ...]


def tell(
    out: Path,
    *,
    seed: int = 0,
    recipe: Recipe = STANDARD,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the demonstration and leave everything it made in a folder.

    Args:
        out: The folder; an earlier demonstration's files in it are replaced.
        seed: Chooses every weight and batch.
        recipe: How big the networks are.
        progress: Told what is being done, in a few words.

    Raises:
        FormatError: If the folder holds something else.
    """
    _make_room(out)
    clock = _Clock()
    truth = make_family(
        out / "models", seed=seed, recipe=recipe, progress=lambda name: progress(f"trained {name}")
    )
    clock.lap("train")
    progress("fingerprinting")
    prints = {name: fingerprint(out / "models" / name) for name in sorted(truth.members)}
    _write_all(out / "fingerprints", {f"{n}.lineage": to_bytes(p) for n, p in prints.items()})
    clock.lap("fingerprint")
    progress("inferring")
    graph = infer_graph(prints)
    verdicts = audit.judge(graph, {n: read_declared(out / "models" / n) for n in prints})
    clock.lap("infer")
    progress("signing, logging, verifying")
    keys = {name: Ed25519Key.generate() for name in prints}
    declared = {v.child: v.parent for v in verdicts}
    envelopes = {name: _claim(name, prints, declared, graph, keys[name]) for name in prints}
    receipts, size = _log(out, envelopes)
    for name, key in keys.items():
        key.save(out / "keys" / f"{name}.key")
        key.public.save(out / "keys" / f"{name}.key.pub")
    verified, refused = _verify(prints, envelopes, keys)
    paid = settlement.settle(verified.values(), prints[EARNER].root, AMOUNT, UNIT)
    _write_all(out / "claims", {f"{n}.claim.json": e.to_bytes() for n, e in envelopes.items()})
    _write_all(out / "claims", {f"{n}.claim.receipt": r.to_bytes() for n, r in receipts.items()})
    clock.lap("sign, log, verify, pay")
    progress("drawing")
    outcome = Outcome(
        truth, graph, tuple(verdicts), tuple(verified), refused, size, paid, clock.laps,
        (out / "family.svg", out / "family.html", out / "family.json"),
    )  # fmt: skip
    _draw(outcome)
    return outcome


class _Clock:
    """Wall time of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage], self._last = now - self._last, now


def _make_room(out: Path) -> None:
    """Make the folder; clear only what an earlier demonstration left."""
    if out.exists() and not out.is_dir():
        raise FormatError("not a folder", file=out)
    if out.is_dir() and any(out.iterdir()) and not (out / "models" / "truth.json").is_file():
        raise FormatError("holds something that is no demonstration; name another folder", file=out)
    for part in _PARTS:
        if (out / part).is_dir():
            shutil.rmtree(out / part)
        (out / part).mkdir(parents=True)
    for left in out.glob("log.*"):
        left.unlink()


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _claim(
    name: str,
    prints: Mapping[str, Fingerprint],
    declared: Mapping[str, str],
    graph: LineageGraph,
    key: Ed25519Key,
) -> Envelope:
    """Sign what a model's maker says of it: honest ones what was measured, liars their lie."""
    splits = tuple(Split(payee, role, Fraction(share)) for payee, role, share in _MAKERS[name])
    parents = {edge.parent: prints[edge.parent] for edge in graph.parents(name)}
    lie = declared.get(name)
    if lie is None or lie in graph.ancestors(name):
        made = audit.draft(name, prints[name], parents, splits=splits, rate=_RATE)
    else:
        honest = audit.draft(name, prints[name], {}, splits=splits, rate=_RATE)
        named = Parent(ModelRef(lie, prints[lie].root), Relation.FINETUNE, "full")
        made = Claim(
            honest.subject, (named,), honest.splits, honest.rate, honest.issued, honest.nonce
        )
    return claims.sign(made, key)


def _log(out: Path, envelopes: Mapping[str, Envelope]) -> tuple[dict[str, Receipt], int]:
    """Log every claim, true or not: a log proves what was said and when, not that it is so."""
    key = Ed25519Key.generate()
    key.save(out / "keys" / "log.key")
    key.public.save(out / "keys" / "log.key.pub")
    ledger = Ledger.create(out / "log.sqlite", key, ORIGIN)
    receipts = ledger.append([envelope.to_bytes() for envelope in envelopes.values()])
    # One of them, checked as somebody without the log would.
    receipts[0].verify(next(iter(envelopes.values())).to_bytes(), key.public, ORIGIN)
    return dict(zip(envelopes, receipts, strict=True)), len(ledger)


def _verify(
    prints: Mapping[str, Fingerprint],
    envelopes: Mapping[str, Envelope],
    keys: Mapping[str, Ed25519Key],
) -> tuple[dict[str, VerifiedClaim], dict[str, str]]:
    """Hold each claim against the weights of the model and of everything it could come from."""
    verified, refused = {}, {}
    for name, envelope in envelopes.items():
        policy = claims.Policy((keys[name].public,))
        try:
            verified[name] = audit.verify(
                envelope, policy, weights=prints[name], parents=prints.values()
            )
        except ContradictionError as error:
            refused[name] = str(error)
    return verified, refused


def _draw(outcome: Outcome) -> None:
    """Write the picture, the page and the JSON."""
    document = {
        **outcome.graph.to_json(),
        "declared": [verdict.to_json() for verdict in outcome.verdicts],
    }
    declared = tuple(
        report.Declared(v.child, v.parent, v.verdict, v.words) for v in outcome.verdicts
    )
    svg, html, data = outcome.files
    svg.write_text(report.svg(document, declared), encoding="utf-8")
    page = report.html(document, declared, "A small family of models", _sections(outcome))
    html.write_text(page, encoding="utf-8")
    paid = json.loads(outcome.settlement.to_bytes())
    everything = {**document, "refused": dict(outcome.refused), "settlement": paid}
    data.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def _sections(outcome: Outcome) -> tuple[report.Section, ...]:
    """Say what became of the claims and the money."""
    claimed = [(name, "accepted", "the weights bear it out") for name in outcome.accepted]
    claimed += [(name, "refused", why) for name, why in outcome.refused.items()]
    paid = outcome.settlement
    payouts = [
        (p.payee, f"{p.amount:,}", "; ".join(f"{r.role} of {r.name}" for r in p.reasons))
        for p in paid.payouts
    ]
    return (
        report.Section(
            "Signed claims",
            tuple(sorted(claimed)),
            ("model", "claim", "why"),
            f"Every claim is in the log ({outcome.log_size} entries), true or not: a log proves "
            "what was said and when. Whether it is so, the weights decide.",
        ),
        report.Section(
            f"{EARNER} earned {paid.amount:,} {paid.unit}s",
            tuple(payouts),
            ("payee", "amount", "for"),
            "Each ancestor takes the rate it set, once; the rest is the merger's.",
        ),
    )
