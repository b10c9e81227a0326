"""Puts parts of one model of the zoo into strangers, and counts whether their share is told.

A layer, two layers, or the embeddings are copied as they are, or as a descendant that is absent
has them, so that they were trained on; two towers are joined by a projector. Beside them strangers
of the same recipe and data, students and twins of one initialisation must be said to share nothing.

    python benchmarks/parts.py FAMILY... [--vision FAMILY] [--zoo DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

_HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_HOME))

from lineage.artifacts import read  # noqa: E402
from lineage.artifacts.dialects import canonical_name, layered  # noqa: E402
from lineage.evidence.weights import some_rows  # noqa: E402
from lineage.fingerprints import Fingerprint, fingerprint  # noqa: E402
from lineage.graph import compare, infer  # noqa: E402
from lineage.relation import Relation  # noqa: E402

Arrays = dict[str, np.ndarray]

FAMOUS = ("medium", "middle")
LATER = ("medium-chat", "middle-chat", "medium-chat-w", "middle-z", "medium-words")
"""Descendants of the famous model, of which one lends parts and is not among the models."""

OTHERS = (
    ("other", "other-z", "other-w", "other-x"),
    ("third", "third-x", "third-y", "third-w", "third-z"),
)
"""Strangers, kin of each other: the last that a family has takes parts, the others stand beside."""

_SAME = 0.005
"""By how much a share that is told may be off."""


def arrays(path: str) -> Arrays:
    """Return a model's tensors of floats."""
    with read(path) as model:
        return {
            item.name: _values(item).reshape(item.shape)
            for item in model.items
            if item.dtype in {"F32", "F16", "BF16"} and item.shape
        }


def _values(item: Any) -> np.ndarray:
    if len(item.shape) > 1:
        return np.asarray(some_rows(item, item.shape[0], 1 << 62))
    from lineage.fingerprints.values import as_float32

    raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
    return np.array(as_float32(raw, item.dtype))


def is_in(part: str, name: str, layers: list[int]) -> bool:
    """Say whether a tensor belongs to a part: `embeddings`, `a layer`, `two layers`."""
    at = layered(name)
    if part == "embeddings":
        return canonical_name(name).startswith(("token_embd.", "patch_embd."))
    count = 1 if part == "a layer" else 2
    return at is not None and at.number in layers[1 : 1 + count]


def with_part(model: Arrays, source: Arrays, part: str) -> tuple[Arrays, float]:
    """Return a model with a part of another's, and the share of its values that this is."""
    layers = sorted({at.number for name in model if (at := layered(name)) is not None})
    taken = {n for n in model if is_in(part, n, layers) and source[n].shape == model[n].shape}
    child = {name: source[name] if name in taken else value for name, value in model.items()}
    sizes = {value.tobytes()[:4096] + name.encode(): value.size for name, value in child.items()}
    share = sum(child[name].size for name in taken) / sum(sizes.values())
    return child, share


def score(zoo: Path, family: str) -> list[dict[str, Any]]:
    """Return what was said of every composed model, and of every pair of strangers."""
    truth = json.loads((zoo / f"{family}.truth.json").read_text())
    path = {m["name"]: str(zoo / family / m["path"]) for m in truth["models"] if m["path"]}
    roots = {m["name"]: frozenset(m["root"]) for m in truth["models"]}
    famous = next(name for name in FAMOUS if name in path)
    later = next((name for name in LATER if name in path), None)
    found: list[dict[str, Any]] = []
    for names in OTHERS:
        kin = [name for name in names if name in path and not roots[name] & roots[famous]]
        if not kin:
            continue
        taker = kin[-1]
        stranger = arrays(path[taker])
        own = [n for n in ("base", "other", famous) if n in path and roots[n] & roots[famous]]
        beside = {name: path[name] for name in (*own, *kin[:-1])}
        for lender in (famous, later):
            if lender is None:
                continue
            source = arrays(path[lender])
            for part in ("embeddings", "a layer", "two layers"):
                child, share = with_part(stranger, source, part)
                if not share:
                    continue
                how = part + ("" if lender == famous else ", trained on")
                told = _told(beside, own, child, share)
                found.append(told | {"what": how, "family": family})
                if len(kin) == 1:  # nothing of its own family tells that it took the part
                    found[-1]["infer"] = None
    prints = {
        name: fingerprint(path[name])
        for name in ("base", "base-40", famous, "heavy", "other", "other-w", "third", "third-x",
                     "student", "twin")
        if name in path
    }  # fmt: skip
    for a, b in combinations(prints, 2):
        if not roots[a] & roots[b]:
            found.append(_stranger(prints[a], prints[b]) | {"a": a, "b": b, "family": family})
    return found


def _stranger(a: Fingerprint, b: Fingerprint) -> dict[str, Any]:
    seen = compare(a, b)
    has_parts = seen.shares is not None and bool(seen.shares.parts)
    is_called = seen.relation is Relation.MERGE or bool(seen.related) or has_parts
    return {"what": "strangers: nothing said", "compare": not is_called, "infer": None}


def _told(beside: dict[str, str], own: list[str], child: Arrays, share: float) -> dict[str, Any]:
    seen = compare(beside[own[-1]], child)
    share_told = 0.0 if seen.shares is None else seen.shares.share_b
    is_right = abs(share_told - share) <= _SAME and seen.related is not True
    graph = infer({**beside, "child": child})
    edges = {e.parent: e.coefficient for e in graph.edges if e.child == "child"}
    near = [part for name in own if (part := edges.get(name)) is not None]
    is_apart = graph.family("child") != graph.family(own[-1])
    return {
        "compare": is_right,
        "infer": bool(near) and abs(near[0] - share) <= _SAME and is_apart,
        "share": share,
        "told": share_told,
        "edges": edges,
        "is_apart": is_apart,
    }


def towers(zoo: Path, vision: str, language: str) -> dict[str, Any]:
    """Return what is said of a model made of a vision tower, a language model and a projector."""
    bases = {}
    for family in (vision, language):
        truth = json.loads((zoo / f"{family}.truth.json").read_text())
        name = next(m["path"] for m in truth["models"] if m["name"] == "base")
        bases[family] = str(zoo / family / name)
    eye, tongue = arrays(bases[vision]), arrays(bases[language])
    draw = np.random.default_rng(0)
    projector = draw.standard_normal((64, 64)).astype(np.float32)
    child = {
        **{f"vision_tower.{name.removeprefix('vit.')}": value for name, value in eye.items()},
        "multi_modal_projector.linear.weight": projector,
        **{f"language_model.{name}": value for name, value in tongue.items()},
    }
    size = sum(value.size for value in child.values())
    graph = infer({**bases, "child": child})
    edges = {e.parent: e.coefficient for e in graph.edges if e.child == "child"}
    true = {
        vision: sum(value.size for value in eye.values()) / size,
        language: sum(value.size for value in tongue.values()) / size,
    }
    is_apart = graph.family(vision) != graph.family(language)
    near = [abs((edges.get(name) or 0.0) - part) <= 4 * _SAME for name, part in true.items()]
    return {
        "what": "two towers, both sources", "compare": None, "infer": all(near) and is_apart,
        "family": f"{vision}+{language}", "edges": edges, "true": true, "is_apart": is_apart,
    }  # fmt: skip


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="+", metavar="FAMILY")
    parser.add_argument("--vision", metavar="FAMILY", help="Join this one's tower to each.")
    parser.add_argument("--zoo", type=Path, default=_HOME / "benchmarks" / ".cache" / "zoo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write every answer here.")
    args = parser.parse_args()
    found = []
    for family in args.families:
        found += score(args.zoo, family)
        if args.vision is not None:
            found.append(towers(args.zoo, args.vision, family))
    print("| what | compare | infer |\n| --- | --- | --- |")
    for what in dict.fromkeys(one["what"] for one in found):
        rows = [one for one in found if one["what"] == what]
        cells = []
        for verb in ("compare", "infer"):
            told = [one[verb] for one in rows if one[verb] is not None]
            cells.append(f"{sum(told)}/{len(told)}" if told else "-")
        print(f"| {what} | {' | '.join(cells)} |")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
