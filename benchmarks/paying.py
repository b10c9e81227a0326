"""From fingerprints to a payout: keys, claims, the log, what must be refused, the settlement."""

from __future__ import annotations

import base64
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from descendants import BASE, TRUTH
from job import Job, saved

AMOUNT = 100_001

_ORIGIN = "benchmark.example/log"
_EARNER = "minilm-merge-uneven"
_RATE = "0.1"
_LIAR = "bert-scratch"


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
    own_part = {f"{name}-maker": AMOUNT // 10 for name in makers[1:]}
    expected = {**own_part, f"{_EARNER}-maker": AMOUNT - sum(own_part.values())}
    keys = [word for name in makers for word in ("--key", f"keys/{name}.key.pub")]
    rest = ["--earner", _EARNER, "--amount", str(AMOUNT), "--unit", "EUR-cent", *keys,
            "--weights", "prints"]  # fmt: skip
    paid = job.must("settle", *(claims[name] for name in makers), *rest, "--accept-asserted")
    turned = [claims[name] for name in reversed(makers)]
    again = job.must("settle", *turned, *rest, "--accept-asserted")
    if paid.get("sha256") != again.get("sha256"):
        job.fail("settle: the order of claims changes the settlement")
    got = {row["payee"]: int(row["amount"]) for row in paid.get("payouts", [])}
    if sum(got.values()) != AMOUNT or any(
        abs(got.get(payee, 0) - part) > 1 for payee, part in expected.items()
    ):
        job.fail(f"settle: expected {expected}, got {got}")
    status, _, words = job.run("settle", *turned, *rest)
    return {"expected": expected, "paid": got, "sha256": paid.get("sha256"),
            "asserted": len(paid.get("asserted", [])),
            "measured_only": {"exit": status, "words": words}}  # fmt: skip
