"""The whole job on real input: copies, casts and trained descendants of a public sentence encoder.

    python benchmarks/real_input.py --json result.json

Fetches public weights (`fetch.py`), makes descendants (`descendants.py`), runs the public commands
as a person would, each in a process of its own, and holds what they say against the truth, which no
command reads. Exit status 1 if an exact copy is missed, an unrelated pair is called related, or a
claim, receipt or payout fails; other misses are in the table.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import fetch
from descendants import BASE, TRUTH, make
from judging import judge, judge_part, name_of, standing_for

_ORIGIN = "benchmark.example/log"
_EARNER = "minilm-merge-uneven"
_AMOUNT = 100_001
_RATE = "0.1"
_LIAR = "bert-scratch"
_HOME = Path(__file__).resolve().parent.parent
_SIBLINGS = (
    ("minilm-full", "minilm-other"),
    ("minilm-full", "minilm-partial"),
    ("minilm-other", "minilm-second"),
    ("minilm-lora8", "minilm-lora16"),
)
"""Related pairs of which neither comes from the other."""

_CHILDREN = ("minilm-full", "minilm-other", "minilm-partial", "minilm-lora8", "minilm-lora16",
             "minilm-second")  # fmt: skip
_PARTS = {
    "all trained children and the base": (BASE, *_CHILDREN),
    "the same, the base absent": _CHILDREN,
    "base and one child": (BASE, "minilm-full"),
    "base and two children": (BASE, "minilm-full", "minilm-other"),
    "three generations": (BASE, "minilm-full", "minilm-second"),
    "base and grandchild, its parent absent": (BASE, "minilm-second", "minilm-other"),
    "base, two children, their merge": (BASE, "minilm-full", "minilm-other", "minilm-merge-even"),
    "base, one child, a merge of it with an absent one": (
        BASE, "minilm-full", "minilm-merge-even"),
}  # fmt: skip
"""Some of the models at a time: in practice a family is never complete."""


class Job:
    """One run of the commands over one folder.

    Attributes:
        folder: Where models, fingerprints, keys, claims and the log are.
        seconds: Stage -> wall time.
        failures: What must never fail and did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.failures: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage's wall time."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)
        say(f"{name}: {self.seconds[name]:.1f} s")

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run one command in the folder; return its exit status, its JSON and its last words."""
        command = [sys.executable, "-m", "lineage", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(_HOME)},
        )  # fmt: skip
        try:
            document = json.loads(done.stdout or "{}")
        except json.JSONDecodeError:
            document = {}
            self.fail(f"{' '.join(command[2:])}: stdout is not JSON")
        words = done.stderr.strip().splitlines()
        return done.returncode, document, words[-1] if words else ""

    def must(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed."""
        status, document, words = self.run(*arguments)
        if status:
            self.fail(f"lineage {' '.join(arguments)}: exit {status}: {words}")
        return document

    def refused(self, what: str, *arguments: str) -> dict[str, Any]:
        """Run a command that must say No with exit status 1."""
        status, _, words = self.run(*arguments)
        if status != 1:
            self.fail(f"{what}: expected exit 1, got {status}: {words}")
        return {"what": what, "exit": status, "words": words}

    def fail(self, reason: str) -> None:
        """Note what must not happen."""
        self.failures.append(reason)
        say(f"FAILED: {reason}")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def saved(name: str) -> str:
    """Return where a model's saved fingerprint is."""
    return f"prints/{name}.lineage"


def measure(job: Job) -> dict[str, Any]:
    """Fingerprint and infer; return what `lineage` said, judged."""
    with job.stage("fingerprint"):
        prints = job.must("fingerprint", "models", "-o", "prints")
    with job.stage("infer from weights"):
        graph = job.must("infer", "models")
    with job.stage("infer from fingerprints"):
        again = job.must("infer", "prints")
    if _named(graph) != _named(again):
        job.fail("infer: weights and saved fingerprints give two answers")
    with job.stage("compare each edge"):
        compared = [_compared(job, p, c) for c, t in TRUTH.items() for p in t.parents]
    with job.stage("compare siblings"):
        siblings = [_compared(job, a, b) for a, b in _SIBLINGS]
    with job.stage("infer parts"):
        parts = {
            title: judge_part(job.must("infer", *map(saved, names)), names)
            for title, names in _PARTS.items()
        }
    found = judge(graph)
    if found["copies"]["missed"] or found["copies"]["spurious"]:
        job.fail(f"copies: {found['copies']}")
    if found["pairs"]["unrelated_called_related"] or found["pairs"]["not_reported"]:
        job.fail(f"pairs: {found['pairs']}")
    size = sum(row["bytes"] for row in prints.get("fingerprints", []))
    return {**found, "bytes": size, "compared": compared, "siblings": siblings, "parts": parts,
            "graph": graph}  # fmt: skip


def _named(graph: dict[str, Any]) -> list[Any]:
    """Return a graph's steps and pairs by model, in one order; copies are one model."""
    steps = {
        json.dumps(
            {**e, "parent": standing_for(name_of(e["parent"])), "child": name_of(e["child"])}
        )
        for e in graph.get("edges", [])
        if e["relation"] != "identical"
    }
    pairs = {
        (*sorted((name_of(p["a"]), name_of(p["b"]))), p["score"], p["related"])
        for p in graph.get("pairs", [])
    }
    return [steps, pairs]


def _compared(job: Job, parent: str, child: str) -> dict[str, Any]:
    """Run `lineage compare` on one true edge."""
    status, seen, _ = job.run("compare", saved(parent), saved(child))
    truth = TRUTH[child]
    has_order = parent in truth.parents and truth.relation != "identical"
    right = {"a->b": "right", "b->a": "wrong", None: "not said"}[seen.get("direction")]
    return {
        "parent": parent, "child": child, "exit": status, "related": seen.get("related"),
        "relation": seen.get("relation"), "how": seen.get("how"), "rank": seen.get("rank"),
        "true_rank": truth.rank, "change": seen.get("change"),
        "direction": right if has_order else {"not said": "right"}.get(right, "wrong"),
        "why": (seen.get("evidence") or [{}])[0].get("words"),
    }  # fmt: skip


def prove(job: Job) -> dict[str, Any]:
    """Sign, log, check, verify, refuse and pay; every failure is noted in the job."""
    claims = {name: f"claims/{name}.claim.json" for name in TRUTH if not _is_same(name)}
    with job.stage("make keys"):
        for name in [*TRUTH, "log"]:
            job.must("key", f"keys/{name}.key")
    with job.stage("claim"):
        stated = {name: _claim(job, name, path) for name, path in claims.items()}
    claims = {name: path for name, path in claims.items() if (job.folder / path).is_file()}
    with job.stage("append"):
        log = job.must("append", "log.sqlite", *claims.values(), "--key", "keys/log.key",
                       "--origin", _ORIGIN)  # fmt: skip
    with job.stage("check receipts"):
        for path in claims.values():
            receipt = str(Path(path).with_suffix(".receipt"))
            job.must("check", path, receipt, "--log-key", "keys/log.key.pub", "--origin", _ORIGIN)
        job.must("check", "log.sqlite", "--log-key", "keys/log.key.pub")
    with job.stage("verify with weights"):
        verified = {name: _verify(job, name, path) for name, path in claims.items()}
    with job.stage("refuse"):
        refusals = _refusals(job, claims)
        observed = _observed(job, claims)
    with job.stage("settle"):
        paid = _settle(job, claims)
    return {"claims": stated, "log_size": log.get("size"), "verified": verified,
            "refused": refusals, "observed": observed, "settlement": paid}  # fmt: skip


def _is_same(name: str) -> bool:
    """Whether a model has its original's very id, so that there is no second model to claim."""
    return TRUTH[name].hows == ("same",)


def _claim(job: Job, name: str, path: str) -> list[dict[str, Any]]:
    """Sign one honest claim; return what it says of the parents."""
    arguments = ["claim", f"models/{name}", "--key", f"keys/{name}.key", "--name", name]
    for parent in TRUTH[name].parents:
        arguments += ["--parent", f"models/{parent}"]
    arguments += ["--rate", _RATE, "--split", f"{name}-maker:maker:1", "-o", path]
    made: list[dict[str, Any]] = job.must(*arguments).get("parents", [])
    return made


def _verify(job: Job, name: str, path: str) -> list[dict[str, Any]]:
    """Verify one claim against its model's and its parents' weights."""
    arguments = ["verify", path, "--key", f"keys/{name}.key.pub", "--weights", f"models/{name}"]
    for parent in TRUTH[name].parents:
        arguments += ["--parent", f"models/{parent}"]
    seen: list[dict[str, Any]] = job.must(*arguments).get("parents", [])
    return seen


def _refusals(job: Job, claims: dict[str, str]) -> list[dict[str, Any]]:
    """Try what must be refused."""
    liar, base = f"models/{_LIAR}", f"models/{BASE}"
    key = ["--key", f"keys/{_LIAR}.key.pub"]
    lie = _signed_lie(job, _LIAR, BASE)
    reverse = _signed_lie(job, BASE, "minilm-full")
    changed = _tampered(job, claims["minilm-full"], b"minilm-full-maker", b"minilm-full-thief")
    full = ["--key", "keys/minilm-full.key.pub"]
    return [
        job.refused("drafting a claim on a stranger's model", "claim", liar, "--parent", base,
                    "--key", f"keys/{_LIAR}.key", "-o", "claims/lie-drafted.json"),
        job.refused("a signed claim on a stranger's model", "verify", lie, *key,
                    "--weights", liar, "--parent", base),
        job.refused("a claim the wrong way round, measured parents required", "verify", reverse,
                    "--key", f"keys/{BASE}.key.pub", "--weights", base,
                    "--parent", "models/minilm-full", "--require-measured"),
        job.refused("a claim held against other weights", "verify", claims["minilm-full"], *full,
                    "--weights", "models/minilm-other"),
        job.refused("a claim with another payee in it", "verify", changed, *full),
        job.refused("a claim under a key that did not sign", "verify", claims["minilm-full"], *key),
        job.refused("another claim's receipt", "check", claims[BASE],
                    "claims/minilm-full.claim.receipt", "--log-key", "keys/log.key.pub"),
    ]  # fmt: skip


def _signed_lie(job: Job, child: str, parent: str) -> str:
    """Sign, past the command that would refuse, that one model is a fine-tune of another."""
    from lineage import claims, fingerprint
    from lineage.relation import Relation
    from lineage.signing import Ed25519Key

    key = Ed25519Key.load(job.folder / f"keys/{child}.key")
    roots = {name: fingerprint(job.folder / saved(name)).root for name in (child, parent)}
    made = claims.Claim(
        subject=claims.ModelRef(child, roots[child]),
        parents=(claims.Parent(claims.ModelRef(parent, roots[parent]), Relation.FINETUNE, "full"),),
        splits=(claims.Split(f"{child}-maker", "maker", Fraction(1)),),
        rate=Fraction(1, 10),
        issued="2026-01-01T00:00:00Z",
        nonce="00" * 16,
    )
    path = f"claims/lie-{child}.json"
    (job.folder / path).write_bytes(claims.sign(made, key).to_bytes())
    return path


def _observed(job: Job, claims: dict[str, str]) -> list[dict[str, Any]]:
    """Try what is worth knowing, without a right answer that must be given."""
    reverse = ["claims/lie-minilm.json", "--key", f"keys/{BASE}.key.pub"]
    broken = _tampered(job, claims["minilm-full"], b'"_type"', b'"_typ\\""')
    tries = {
        "a claim the wrong way round, with weights and parent at hand": (
            "verify", *reverse, "--weights", f"models/{BASE}", "--parent", "models/minilm-full"),
        "a claim that a re-saved copy comes from its original": (
            "claim", "models/minilm-resaved", "--parent", f"models/{BASE}",
            "--key", "keys/minilm-resaved.key", "-o", "claims/copy.json"),
        "a claim whose payload was broken, under its old signature": (
            "verify", broken, "--key", "keys/minilm-full.key.pub"),
        "an honest light fine-tune, measured parents required": (
            "verify", claims["minilm-full"], "--key", "keys/minilm-full.key.pub",
            "--weights", "models/minilm-full", "--parent", f"models/{BASE}", "--require-measured"),
    }  # fmt: skip
    seen = []
    for what, arguments in tries.items():
        status, _, words = job.run(*arguments)
        seen.append({"what": what, "exit": status, "words": words})
    return seen


def _tampered(job: Job, path: str, old: bytes, new: bytes) -> str:
    """Change some bytes of a claim's payload and keep its signature."""
    document = json.loads((job.folder / path).read_bytes())
    payload = base64.b64decode(document["payload"])
    if old not in payload:
        job.fail(f"{path}: no {old!r} to change")
    document["payload"] = base64.b64encode(payload.replace(old, new, 1)).decode()
    torn = f"claims/changed-{hashlib.sha256(new).hexdigest()[:8]}.json"
    (job.folder / torn).write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))
    return torn


def _settle(job: Job, claims: dict[str, str]) -> dict[str, Any]:
    """Pay for one merge, twice with the claims in another order; hold it against arithmetic."""
    makers = [_EARNER, *TRUTH[_EARNER].parents, BASE]
    own_part = {f"{name}-maker": _AMOUNT // 10 for name in makers[1:]}
    expected = {**own_part, f"{_EARNER}-maker": _AMOUNT - sum(own_part.values())}
    keys = [word for name in makers for word in ("--key", f"keys/{name}.key.pub")]
    rest = ["--earner", _EARNER, "--amount", str(_AMOUNT), "--unit", "EUR-cent", *keys,
            "--weights", "prints"]  # fmt: skip
    paid = job.must("settle", *(claims[name] for name in makers), *rest, "--accept-asserted")
    turned = [claims[name] for name in reversed(makers)]
    again = job.must("settle", *turned, *rest, "--accept-asserted")
    if paid.get("sha256") != again.get("sha256"):
        job.fail("settle: the order of claims changes the settlement")
    got = {row["payee"]: int(row["amount"]) for row in paid.get("payouts", [])}
    if sum(got.values()) != _AMOUNT or any(
        abs(got.get(payee, 0) - part) > 1 for payee, part in expected.items()
    ):
        job.fail(f"settle: expected {expected}, got {got}")
    status, _, words = job.run("settle", *turned, *rest)
    return {"expected": expected, "paid": got, "sha256": paid.get("sha256"),
            "asserted": len(paid.get("asserted", [])),
            "measured_only": {"exit": status, "words": words}}  # fmt: skip


def about(seed: int, inputs: dict[str, Path]) -> dict[str, Any]:
    """Say what was run, on what and when."""
    digests = {m.name: m.sha256 for package in fetch.PACKAGES for m in package.members}
    git = [shutil.which("git") or "git", "-C", str(_HOME)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    status = subprocess.run(
        [*git, "status", "--porcelain", "--", "lineage", "benchmarks"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    packages = ("model-lineage", "numpy", "scipy", "torch", "safetensors", "blake3", "cryptography")
    return {
        "commit": head.stdout.strip() or None,
        "changed_since_commit": status.stdout.splitlines(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/real_input.py", *sys.argv[1:]]),
        "seed": seed,
        "inputs": {name: digests[name] for name in inputs},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


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
        ("settlement", f"{sum(p['settlement']['paid'].values())} of {_AMOUNT} paid"),
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


def work(out: Path, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Do everything and return the result."""
    folder = out.resolve()
    for part in ("models", "prints", "keys", "claims"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    for left in folder.glob("log.sqlite*"):
        left.unlink()
    job = Job(folder)
    with job.stage("fetch"):
        inputs = fetch.fetch()
    with job.stage("train and derive"):
        trained = make(inputs, folder / "models", fetch.CACHE, seed, tell)
    measured = measure(job)
    proved = prove(job)
    return {**about(seed, inputs), "trained": trained, "measured": measured, "proved": proved,
            "seconds": job.seconds, "failures": job.failures}  # fmt: skip


def main() -> int:
    """Run, print the tables, write the JSON."""
    sys.path.insert(0, str(_HOME))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=fetch.CACHE / "run", help="working folder")
    parser.add_argument("--json", type=Path, help="write the whole result here")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        result = work(options.out, options.seed, say)
    except (fetch.FetchError, OSError) as error:
        say(f"real_input: {error}")
        return 3
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    for failure in result["failures"]:
        print(f"\nFAILED: {failure}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
