"""What is asked of adapters: which are in a model (`compare --adapter`), and `verify-base`."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import say
from lineage.cli.measure import load
from lineage.cli.options import json_option
from lineage.cli.prints import untold
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lineage.evidence import Comparison
    from lineage.evidence.contained import Contained
    from lineage.evidence.fitting import Fit
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import Delta


def told_of(
    a: str,
    b: str,
    adapters: Sequence[str],
    one: Fingerprint,
    other: Fingerprint,
    found: Comparison,
    *,
    as_json: bool,
) -> int:
    """Print which of some adapters are in `a`, and return the exit status.

    Raises:
        FormatError: If one of them is no adapter.
    """
    from lineage.evidence.contained import contained
    from lineage.evidence.deltas import combined

    deltas = [delta_of(path, None if other.delta is not None else b) for path in adapters]
    names = list(adapters)
    made: Contained | None = None
    if one.delta is not None and other.delta is not None:
        names, deltas = [b, *names], [other.delta, *deltas]
        fit = combined(one.delta, deltas)
    else:
        deltas = [_on_base(path, b, delta) for path, delta in zip(adapters, deltas, strict=True)]
        made = contained(deltas, other, one)
        fit = None if made is None else made.fit
    document = {"a": a, "b": b, **found.to_json(), "adapters": _json(names, fit, made)}
    say.result(document, lambda: _text(a, b, document["adapters"]), as_json=as_json)
    if fit is None:
        return 3
    present = [share.present for share in fit.shares]
    return 0 if True in present else (3 if None in present else 1)


def delta_of(path: str, base: str | None = None) -> Delta:
    """Return an adapter's delta, read beside a base where that is none that was saved.

    Raises:
        FormatError: If it has none.
    """
    base = None if base is None or PurePath(base).suffix == ".lineage" else base
    made = load(path, base=base).delta
    if made is None:
        raise FormatError(f"what it changes cannot be told: {untold(path, base)}", file=path)
    return made


def _on_base(path: str, base: str, delta: Delta) -> Delta:
    """Return what an adapter adds to a base, if it does more than to add and both are at hand."""
    from lineage.adapters.applied import is_plain
    from lineage.evidence.weights import Weights

    if is_plain(delta.family, delta.changes):
        return delta

    found = Weights.of({"adapter": path, "base": base}).applied("adapter", "base")
    if found is None:
        say.note(
            f"{printable(path)}: what magnitudes, gains and whole tensors do is left out: "
            "that takes the base's weights"
        )
    return found or delta


def _json(names: Sequence[str], fit: Fit | None, made: Contained | None) -> dict[str, Any]:
    if fit is None:
        return {"shares": None, "left": None, "outside": None}
    return {
        "shares": [
            {
                "path": name,
                "present": share.present,
                "weight": float(f"{share.weight:.6g}"),
                "error": float(f"{share.error:.3g}") if share.error < float("inf") else None,
                "log10_p": float(f"{share.log10_p:.6g}"),
            }
            for name, share in zip(names, fit.shares, strict=True)
        ],
        "left": float(f"{fit.left:.6g}"),
        "outside": None if made is None else float(f"{made.outside:.6g}"),
    }


def _text(a: str, b: str, found: dict[str, Any]) -> str:
    shares = found["shares"] or ()
    first, second, *adapters = say.names(a, b, *(share["path"] for share in shares))
    if found["shares"] is None:
        return f"{first} and {second}: the adapters do not fit, or nothing that they change differs"
    lines = [f"{first} beside {second}:"]
    for name, share in zip(adapters, shares, strict=True):
        verdict = {True: "in it", False: "not in it", None: "not told"}[share["present"]]
        error = "" if share["error"] is None else f" +- {share['error']:.2g}"
        lines.append(f"  {name}: {verdict}, with a weight of {share['weight']:.4g}{error}")
    lines.append(f"  {found['left']:.1%} of the change is neither they nor rounding")
    if found["outside"]:
        lines.append(f"  {found['outside']:.1%} of the change is in tensors that they leave alone")
    return "\n".join(lines)


@click.command("verify-base")
@click.argument("adapter")
@click.argument("base")
@click.option("--merged", metavar="MODEL", help="A model that is said to be the two merged.")
@json_option
def verify_base(adapter: str, base: str, *, merged: str | None, as_json: bool) -> int:
    """Say whether an adapter is one of a base.

    Names and shapes can deny a base and never prove one: any model of its architecture fits. A
    digest that the adapter declares proves it, and so does --merged: the model that has the adapter
    merged into this base. Exit status 0 if it is its base, 1 if it is not, 3 if it may be.

    \b
    Example:
        lineage verify-base ./my-lora ./base --merged ./my-model
    """
    from lineage.evidence.contained import contained, fits

    delta = delta_of(adapter, base)
    print_b = load(base, cache=True)
    seen = fits(delta, print_b)
    declared = _declared(delta, base)
    verdict, reason = None, str(seen)
    made = None
    if not seen.is_whole:
        verdict = False if seen.is_denied else None
    elif any(one["agrees"] for one in declared):
        verdict, reason = True, "the adapter declares the digest of this base"
    elif merged is not None:
        on_base = _on_base(adapter, base, delta)
        model = load(merged, cache=True)
        made = contained([on_base], print_b, model)
        verdict, reason = _by_weights(made, print_b, model)
    if verdict is not False and any(one["agrees"] is False for one in declared):
        say.note(f"{printable(adapter)}: it declares another base than {printable(base)}")
    document = {
        "adapter": adapter,
        "base": base,
        "is_base": verdict,
        "reason": reason,
        "missing": list(seen.missing),
        "misshapen": list(seen.misshapen),
        "declared": declared,
        "weight": None if made is None else float(f"{made.fit.shares[0].weight:.6g}"),
        "left": None if made is None else float(f"{made.fit.left:.6g}"),
    }
    say.result(document, lambda: _base_text(document), as_json=as_json)
    return {True: 0, False: 1, None: 3}[verdict]


def _by_weights(
    made: Contained | None, base: Fingerprint, model: Fingerprint
) -> tuple[bool | None, str]:
    from lineage.evidence.contained import MOST_LEFT
    from lineage.evidence.kinship import kinship
    from lineage.evidence.pairing import pair

    if made is None:
        return None, "the merged model is not laid out as the base is, or not changed"
    share = made.fit.shares[0]
    words = f"the merged model is the base and {share.weight:.4g} times the adapter"
    if share.present and made.fit.left <= MOST_LEFT:
        return True, f"{words}, {made.fit.left:.1%} left"
    kin = kinship(pair(base, model))
    if kin.related is False:
        return False, f"the merged model was not made of it: {kin}"
    if share.present:
        return None, f"{words}, but {made.fit.left:.1%} of their difference is something else"
    return False, f"the merged model is not the base and this adapter: {made.fit.left:.0%} is left"


def _declared(delta: Delta, base: str) -> list[dict[str, Any]]:
    """Hold the digests that an adapter declares of its base against the base's files."""
    found: list[dict[str, Any]] = []
    digest = delta.says.get("ss_new_sd_model_hash", "").removeprefix("0x").lower()
    if digest:
        agrees = None
        if len(digest) == 64 and not base.endswith(".lineage"):
            from lineage.artifacts.digests import file_digests

            agrees = any(file.sha256 == digest for file in file_digests(base).files)
        found.append({"key": "ss_new_sd_model_hash", "value": digest[:64], "agrees": agrees})
    names = [key for key in ("base_model_name_or_path", "ss_sd_model_name") if key in delta.says]
    found += [{"key": key, "value": delta.says[key], "agrees": None} for key in names]
    return found  # a name proves nothing


def _base_text(found: dict[str, Any]) -> str:
    adapter, base = say.names(found["adapter"], found["base"])
    verdict = {True: "is its base", False: "is not its base", None: "may be its base"}
    lines = [f"{base} {verdict[found['is_base']]} ({adapter}): {found['reason']}"]
    lines += [
        f"  declared: {one['key']} {printable(one['value'], 80)}"
        + {True: " (agrees)", False: " (another)", None: ""}[one["agrees"]]
        for one in found["declared"]
    ]
    return "\n".join(lines)
