"""The verb `align`: write one model in another's coordinates."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import say
from lineage.cli.options import json_option
from lineage.errors import ArchitectureError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.alignment import Aligned, Alignment, Chain, ChainAlignment, Stream
    from lineage.evidence import Comparison
    from lineage.evidence.base import Copied
    from lineage.fingerprints import Fingerprint

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--write", type=_FILE, metavar="OUT", help="Write B in A's coordinates here.")
@click.option("--certificate", type=_FILE, help="Write the maps here, for others to apply.")
@click.option("--apply", "given", type=_FILE, help="Apply the maps of this certificate.")
@click.option("--decide", "is_short", is_flag=True, help="Look at four of B's blocks, and stop.")
@json_option
def align(
    a: str,
    b: str,
    *,
    write: Path | None,
    certificate: Path | None,
    given: Path | None,
    is_short: bool,
    as_json: bool,
) -> int:
    """Find whether B is A in other coordinates, and undo that.

    A and B are models with their weights. Looked for are streams that were permuted, rotated,
    rescaled or shifted, feed-forward units that were, attention heads that were or that were
    turned, and layers in other places; of convolutions and recurrent layers, channels that were
    permuted, rescaled or changed their sign, gates in another order, embeddings that were turned
    and norms that were folded. B may have been trained, rounded or pruned afterwards. Where only
    parts of B are A's, a layer, the embeddings, a tower, it says which and what share of B's values
    these are, and not that the two are related.
    Exit status 0 if parts of B are A's, 3 if nothing was found, which is no proof of anything.
    `--decide` says that of large models from some units of four blocks, in a fraction of the time.

    \b
    Example:
        lineage align ./base ./suspect --write suspect-as-base.safetensors
    """
    from lineage.alignment import aligned, decide, described, solve
    from lineage.alignment.certificate import check, from_bytes, to_bytes
    from lineage.alignment.writing import chunks_of
    from lineage.artifacts import read
    from lineage.artifacts.tokens import tokens_of
    from lineage.files import write_all, write_whole
    from lineage.fingerprints import fingerprint

    if is_short and (write or certificate or given):
        raise click.UsageError("what --decide finds is no way to write or apply anything")
    with _named(a, b), read(a) as first, read(b) as second:
        one = described(first.items, name=a, tokens=tokens_of(a))
        other = described(second.items, name=b, tokens=tokens_of(b))
        left = shares = None
        if is_short:
            found = decide(one, other)
        else:
            print_a = fingerprint(a, cache=True)
            roots = (print_a.root, fingerprint(b, tier="exact", cache=True).root)
            if given is None:
                found = solve(one, other)
            else:
                found = from_bytes(given.read_bytes(), *roots, file=given)
                check(found, one, other, file=given)
            left, shares = _held_against(print_a, found, one, other, b)
            if certificate is not None:
                write_whole(certificate, to_bytes(found, *roots))
                say.note(f"wrote {certificate}")
            if write is not None:
                write_all(write, chunks_of(aligned(one, other, found)))
                say.note(f"wrote {write}")
    document = {"a": a, "b": b, **to_json(found, left, shares)}
    say.result(document, lambda: _text(a, b, document), as_json=as_json)
    return 0 if found.related or document["shares"] is not None else 3


def _held_against(
    near: Fingerprint, found: Aligned, one: Stream | Chain, other: Stream | Chain, b: str
) -> tuple[Comparison | None, Copied | None]:
    """Return what b still is to a in a's coordinates, and what parts of the two are one."""
    from lineage.alignment import aligned, can_be_written, in_token_order
    from lineage.evidence import compare_fingerprints
    from lineage.fingerprints import fingerprint
    from lineage.fingerprints.measure import Pass

    if found.related:
        if not can_be_written(one, other):
            return None, None
        left = _left(near, Pass("full").over(aligned(one, other, found)))
        shares = left.shares
        if shares is not None and _is_turned(found):
            shares = shares.inside()
        return left, shares
    # Not in other coordinates, but a part may be copied as it is.
    plain = in_token_order(one, other, found)
    moved = fingerprint(b, cache=True) if plain is None else Pass("full").over(plain)
    return None, compare_fingerprints(near, moved).shares


def _left(near: Fingerprint, moved: Fingerprint) -> Comparison:
    """Say what a model still is to another in that other's coordinates; roundings are nothing."""
    from lineage.evidence import compare_fingerprints
    from lineage.graph.rewriting import snapped
    from lineage.relation import Relation

    found = compare_fingerprints(near, moved)
    without = compare_fingerprints(near, snapped(moved, near))
    if without.relation is not Relation.IDENTICAL:
        return found
    return replace(without, change=found.change, shares=found.shares)


@contextmanager
def _named(a: str, b: str) -> Iterator[None]:
    """Say of which of the two files it is that they are not made alike."""
    try:
        yield
    except ArchitectureError as error:
        if error.name != "b":  # one of the two by itself, and its path is said
            raise
        raise ArchitectureError(f"{error.reason} ({printable(a)})", b) from error


def to_json(
    found: Aligned, left: Comparison | None, shares: Copied | None = None
) -> dict[str, Any]:
    """Return an alignment as JSON, without the two models' names."""
    from lineage.alignment import Alignment
    from lineage.evidence.base import MOST

    is_partial = shares is not None and shares.is_partial and found.share <= MOST
    return {
        "related": True if found.related and not is_partial else None,
        "how": list(found.how),
        "share": round(found.share, 6),
        "units_share": round(found.agreement.share, 6),
        "log10_p": float(f"{found.log10_p:.6g}"),
        "null": "the partners that two looks at a unit find are independent (Poisson)",
        **(_stream(found) if isinstance(found, Alignment) else _chain(found)),  # type: ignore[arg-type]
        "shares": {**shares.to_json(), "of": "layers" if _is_turned(found) else "all"}
        if shares is not None and shares.parts
        else None,
        "left": None
        if left is None
        else {
            "relation": None if left.relation is None else str(left.relation),
            "how": left.how,
            "direction": left.direction,
            "change": None if left.change is None else float(f"{left.change:.6g}"),
        },
    }


def _is_turned(found: Aligned) -> bool:
    """Whether a turn was fitted to labelled vectors: then these say nothing by being alike."""
    return "rotated" in found.how


def _stream(found: Alignment) -> dict[str, Any]:
    return {
        "stream": {
            "kind": found.turn.kind,
            "scale": float(f"{found.scale:.6g}"),
            "directions": found.turn.rank,
        },
        "blocks": [
            {
                "b": block.b[1],
                "a": None if block.a is None else block.a[1],
                "units": [
                    {
                        "b": mlp.b,
                        "a": mlp.a,
                        "agreed": mlp.agreement.agreed,
                        "looked": mlp.agreement.looked,
                        "likeness": round(mlp.units.likeness, 6),
                    }
                    for mlp in block.mlps
                ],
                "heads": None if block.heads is None else block.heads.kind,
            }
            for block in found.blocks
        ],
    }


def _chain(found: ChainAlignment) -> dict[str, Any]:
    return {
        "gates": None if found.gates is None else list(found.gates),
        "channels": [
            {
                "name": group.name,
                "found": group.is_found,
                "agreed": group.agreement.agreed,
                "looked": group.agreement.looked,
                "moved": int((group.order != range(len(group.order))).sum()),
                "rescaled": group.scales is not None,
                "turned": group.turn is not None,
                "looked_at": "tokens" if group.of_tokens else "channels",
            }
            for group in found.groups
        ],
    }


def _text(a: str, b: str, found: dict[str, Any]) -> str:
    first, second = say.names(a, b)
    kind = "blocks" if "blocks" in found else "channels"
    blocks = found[kind]
    if found["related"] is None and found["shares"] is not None:
        return "\n".join(_in_parts(first, second, found["shares"]))
    if found["related"] is None:
        kind = kind if kind == "blocks" else "groups of channels"
        return (
            f"{second} in {first}'s coordinates: nothing of {len(blocks)} {kind} was found, "
            f"which is no proof that they are independent\n"
            f"  {found['units_share']:.1%} of units agree beyond chance"
        )
    how = ", ".join(found["how"]) or "not changed"
    of_them = "its" if kind == "channels" or any(b["units"] for b in blocks) else "the looked-at"
    lines = [
        f"{second} has {found['share']:.0%} of {of_them} {kind} from {first}; coordinates: {how}"
    ]
    if kind == "channels":
        lines += [_of_channels(one) for one in blocks]
    for block in blocks if kind == "blocks" else []:
        if block["a"] is None:
            lines.append(f"  block {block['b']}: not found")
            continue
        seen = block["units"]
        if not seen:  # it was only decided that it is
            lines.append(f"  block {block['b']} is {block['a']}")
            continue
        agreed, looked = sum(u["agreed"] for u in seen), sum(u["looked"] for u in seen)
        heads = f", heads {block['heads']}" if block["heads"] else ", heads not told"
        lines.append(
            f"  block {block['b']} is {block['a']}: {agreed} of {looked} units agree{heads}"
        )
    lines.append(f"  p = 10^{found['log10_p']:.1f} if {found['null']}")
    if found["shares"] is not None:  # the blocks are told already
        lines += _in_parts(first, second, {**found["shares"], "parts": []})
    left = found["left"]
    if left is None:
        why = "the streams have two widths: " if of_them == "its" else ""
        lines.append(f"  {why}what is left was not measured")
    elif left["relation"] is None:
        lines.append("  once undone, what is left was not told")
    else:
        change = "" if left["change"] is None else f", a change of {left['change']:.2g} of the norm"
        detail = f" ({left['how']})" if left["how"] else ""
        lines.append(f"  once undone: {left['relation']}{detail}{change}")
    return "\n".join(lines)


def _in_parts(first: str, second: str, shares: dict[str, Any]) -> list[str]:
    """Say what share of the second's values is the first's, part by part."""
    outside = "" if shares["of"] == "all" else "; outside of layers it is not told"
    lines = [f"{second} has {shares['share_b']:.1%} of its values from {first}{outside}"]
    for part in shares["parts"]:
        like = "the same" if part["equal"] else f"cosine {part['cosine']:.3f}"
        lines.append(f"  {printable(part['b'])} is {printable(part['a'])}: {like}")
    return lines


def _of_channels(one: dict[str, Any]) -> str:
    name = printable(one["name"])
    if not one["found"]:
        return f"  {name}: not found"
    done = f", {one['moved']} moved" if one["moved"] else ""
    done += ", rescaled" if one["rescaled"] else ""
    done += ", turned" if one["turned"] else ""
    return f"  {name}: {one['agreed']} of {one['looked']} {one['looked_at']} agree{done}"
