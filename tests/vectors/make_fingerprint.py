"""Make the fingerprint's test vectors: `python tests/vectors/make_fingerprint.py [folder]`.

Every number comes from BLAKE3's stream over a case's own words, so all machines make the same bytes.
Expected values come from the second implementation (`tests/second`), never from `lineage`.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
from blake3 import blake3

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from second import fingerprint as second  # noqa: E402
from second import neurons, stored  # noqa: E402

Tensor = tuple[str, list[int], bytes]
Model = dict[str, Tensor]


def numbers(seed: str, *shape: int) -> np.ndarray[Any, Any]:
    """Numbers in (-2, 2) with 32 bits after the point, thicker in the middle."""
    size = math.prod(shape)
    stream = np.frombuffer(blake3(seed.encode()).digest(16 * size), "<i4").reshape(size, 4)
    return (stream.astype("<f8").sum(axis=1) / 2**32).reshape(shape)


def tensor(dtype: str, values: Any) -> Tensor:
    """Values rounded to a dtype."""
    array = np.asarray(values)
    with np.errstate(all="ignore"):
        exact = array.astype("<f4") if dtype == "BF16" else array
        return dtype, list(array.shape), exact.astype(second.NUMPY[dtype]).tobytes()


def as_(dtype: str, *shape: int, seed: str = "", times: float = 1) -> Tensor:
    """Random values of a dtype."""
    values = times * numbers(f"{dtype}{shape}{seed}", *shape)
    return tensor(dtype, values if dtype[0] in "FB" and dtype != "BOOL" else np.rint(values))


def bits(dtype: str, shape: list[int], seed: str) -> Tensor:
    """Random bytes of a dtype of 8 bits."""
    return dtype, shape, blake3(seed.encode()).digest(math.prod(shape))


BASE = {"a.weight": as_("F32", 6, 8), "a.bias": as_("F32", 6)}
LEAVES = {f"l{n}": as_("BF16", 3, n + 2) for n in range(5)}
MASKED = [[1.5, math.nan, -2.25, 0], [math.inf, 3, -math.inf, -0.0], [2.0**40, 2.0**41, -1e30, 7]]
TRAP = bytes(range(1, 13))

CASES: dict[str, tuple[str, Model]] = {
    "one_tensor": ("The page's own example: a root that is one leaf.", {"w": tensor("F32", np.zeros((2, 2)))}),
    "one_row": ("Two extents are a matrix even where the first is 1: R = 36, not 4.", {"w": as_("F32", 1, 300)}),
    "dtypes": (
        "Every dtype safetensors sketches, from 8 to 64 bits; whole numbers and BOOL keep their content digest as value digest.",
        {
            **{d: as_(d, 5, 7, times=40) for d in ("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")},
            **{d: as_(d, 5, 7, times=60) for d in ("I64", "I32", "I16", "I8")},
            **{d: tensor(d, np.rint(abs(40 * numbers(d, 5, 7)))) for d in ("U64", "U32", "U16", "U8")},
            **{d: tensor(d, abs(numbers(d, 5, 7)) + 0.1) for d in ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")},
            "BOOL": tensor("BOOL", numbers("b", 5, 7) > 0),
        },
    ),
    "not_sketched": (
        "Packed and complex dtypes have digests and no sketch.",
        {
            "c64": ("C64", [2, 2], bytes(range(32))), "f4": ("F4", [3, 4], bytes(range(6))),
            "f6": ("F6_E2M3", [2, 4], bytes(range(6))), "w": as_("F32", 3, 3),
        },
    ),
    "upcast": ("BF16 values; `upcast_wide` holds the same in F32 and F64. Hunts a value digest that sees the stored dtype.", {"w": as_("BF16", 6, 8), "b": as_("BF16", 9)}),
    "upcast_wide": (
        "The values of `upcast` in F32 and F64: other root and content id, the same value id.",
        {name: tensor(d, second.values_of("BF16", as_("BF16", *s)[2]).reshape(s)) for name, s, d in (("w", (6, 8), "F32"), ("b", (9,), "F64"))},
    ),
    "rounded": ("F64, F32 and F16 values that only they hold: digests of what each rounds to.", {"d": as_("F64", 5, 5), "f": as_("F32", 5, 5), "h": as_("F16", 5, 5)}),
    "rounded_edges": (
        "Ties to even, overflow to infinity, subnormals, and F64 that BF16 rounds otherwise by way of F32 than at once.",
        {
            "d": tensor("F64", [1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8 - 2.0**-40, 70000.5, 2.0**-150, 1e-310]),
            "f": tensor("F32", [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 65520, 65519.99, 2.0**-25, 3 * 2.0**-26]),
            "h": tensor("F16", [1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-24, 65504]),
        },
    ),
    "value_f8": ("Few values, held by 8-bit floats: value digests of F8_E5M2, F8_E4M3, BF16, F16, F32 and none, one tensor each.",
        {
            "e5m2": tensor("F32", [1.25, -448 * 64, 2.0**-16]), "e4m3": tensor("BF16", [1.125, -3.75, 448]),
            "bf16": tensor("F64", [1 + 2.0**-7, 2.0**100]), "f16": tensor("F32", [1 + 2.0**-10]),
            "f32": tensor("F64", [1 + 2.0**-23, 1e10]), "f64": tensor("F64", [0.1, 1.0]),
            "mixed": tensor("F32", [1.125, 2.0**16]), "inf": tensor("F32", [math.inf, 1.0]), "fnuz": bits("F8_E4M3FNUZ", [2, 2], "1"),
        },
    ),
    "minus_zero": ("Zeros of both signs: one count, two contents, two values.", {"a": tensor("F32", [0.0, -0.0, 1, 0]), "b": tensor("F32", [0.0, 0.0, 1, 0]), "c": tensor("F16", [[-0.0, -0.0]])}),
    "masked": ("NaN, infinities and values beyond 2^40 count as nothing but in `nonfinite`; 2^40 itself counts.", {"d": tensor("F64", MASKED), "f": tensor("F32", MASKED), "i": tensor("I64", [[2**40 + 1, 2**40 + 2**17, -(2**50), 3, 0]]), "h": tensor("F16", [math.nan, 2, 0.3])}),
    "masked_flat": ("What is masked is not held against `flat`.", {"w": tensor("F32", [[2.0, math.nan, 2.0, 0]]), "x": tensor("F32", [3.0, 2.0**41, math.inf]), "y": tensor("F32", [math.nan])}),
    "tiny": ("Squares too small for float32 still add up: energies of 0 or subnormal beside an exact sum.", {"a": tensor("F32", [[1e-30, -1e-30]]), "b": tensor("F32", [[1e-22] * 3] * 4), "c": tensor("F64", [1e-60, -1e-310, 2.0]), "s": tensor("F32", [1e-41, 3e-42])}),
    "empty": ("A scalar, one value, and tensors without values: no sketch, the first dtype tried holds them.", {"scalar": tensor("F32", 1.5), "one": tensor("I16", [3]), "none": tensor("F32", np.zeros(0)), "rows": tensor("BF16", np.zeros((0, 5))), "cols": tensor("F16", np.zeros((5, 0))), "whole": tensor("I32", np.zeros((2, 0, 3)))}),
    "names": ("Names in the order of UTF-8, which UTF-16's is not; a combining letter apart from a whole one; an empty name.", {name: tensor("F32", [n]) for n, name in enumerate(["\uff5e", "\U0001f600", "e\u0301", "\u00e9", "z", "Z", "", "z.", "\x01", "\"\\\n"])}),
    "base": ("A model to compare `renamed` with.", BASE),
    "renamed": ("`base` under other names: the same content id and value id, another root.", {"b.weight": BASE["a.weight"], "b.bias": BASE["a.bias"]}),
    "trap_base": ("The bytes the traps share, as I16 [2, 3] under a/b.", {"a/b": ("I16", [2, 3], TRAP)}),
    "trap_name": ("The name is in the root and not in the ids.", {"x/y": ("I16", [2, 3], TRAP)}),
    "trap_shape": ("The shape is in every digest.", {"a/b": ("I16", [3, 2], TRAP)}),
    "trap_dtype": ("The dtype is in every digest.", {"a/b": ("BF16", [2, 3], TRAP)}),
    "trap_joined": ("A name longer by what a dtype or another tensor begins with: lengths keep parts apart.", {"a": ("I16", [6], TRAP), "a/bI16": ("I16", [2], TRAP[:4]), "ab": ("I16", [], TRAP[:2])}),
    "leaves_3": ("Three leaves: the tree is not balanced.", dict(list(LEAVES.items())[:3])),
    "leaves_5": ("Five leaves: the tree is not balanced.", LEAVES),
    "twice": ("The same content under two names: the ids keep both.", {"a": LEAVES["l1"], "b": LEAVES["l1"], "c": LEAVES["l2"]}),
    "vectors": ("Vectors about the row of 144, and one that fills four row buckets and more.", {f"v{n}": as_("F32", n) for n in (143, 144, 145, 1000)}),
    "long": ("A vector of 40 rows: with rows=1in8 only 8 of them are taken.", {"v": as_("F16", 40 * 144 - 5)}),
    "matrices": ("Matrices about 36 by 36, and one of three blocks by five.", {"a": as_("F16", 35, 37), "b": as_("F16", 36, 36), "c": as_("F16", 73, 145)}),
    "tall": ("300 rows: rows=1in8 takes two blocks of 36, the ninth beside the first.", {"w": as_("BF16", 300, 3)}),
    "tall_masked": ("What rows=1in8 does not take is not counted: not a NaN, not a zero.", {"w": tensor("BF16", np.where(np.arange(80)[:, None] == [40, 41], [math.nan, 0], numbers("t", 80, 2)))}),
    "conv": ("A kernel of four extents is a matrix of its first extent by the rest.", {"k": as_("F32", 5, 4, 3, 3)}),
    "scaled": ("Whole numbers and 8-bit floats beside their scales: sketched as what they stand for, identified by what is stored. The last two have none that fits.",
        {
            "row": as_("I8", 5, 9, times=60), "row_scale": tensor("F32", [0.5, 0.25, 3, 0.75, 0.125]),
            "col": as_("I8", 5, 9, times=50), "col.scale": tensor("F16", [[2], [0.25], [1], [0.5], [3]]),
            "x.weight": as_("I8", 3, 4, times=60), "x.SCB": tensor("F32", [12.7, 1.27, 3]), "x.weight_scale": tensor("F32", [5.0]),
            "f8": as_("F8_E4M3", 4, 4), "f8_scale": tensor("BF16", 0.75),
            "wide": as_("I16", 5, 4, times=60), "wide_scale": tensor("F32", 2.0),
            "bad": as_("I8", 5, 4, times=60), "bad_scale": tensor("F32", [1.0, 2, 3, 4]),
        },
    ),
    "scaled_blocks": ("8-bit floats with a scale for each block of 128 by 128, the last ones narrow. The other has too few.",
        {
            "w": as_("F8_E4M3", 130, 140), "w_scale_inv": tensor("F32", [[0.5, 3], [0.25, 2]]),
            "row": as_("I8", 129, 3, times=50), "row_scale_inv": tensor("BF16", [[0.75], [2]]),
            "bad": as_("F8_E4M3", 130, 40), "bad_scale_inv": tensor("F32", [[1.0, 2]]),
        },
    ),
    "scaled_edges": ("Scales of 0, NaN, infinity and beyond 2^40: `zeros` and `nonfinite` are of what the numbers stand for.",
        {"w": tensor("I8", [[1, 2], [3, 0], [5, 6], [7, 8], [9, 1]]), "w_scale": tensor("F32", [0, 1, math.nan, math.inf, 2.0**60])},
    ),
    "flat_mask": ("A mask of one value and zeros is flat; so are zeros alone; two values are not.", {"causal": tensor("F32", np.tril(np.full((9, 9), -1e4))), "ones": tensor("BOOL", np.ones((4, 4))), "zeros": tensor("I32", np.zeros(7)), "signs": tensor("F32", [1.0, -1, 0])}),
}  # fmt: skip


def text_of(number: float) -> str:
    """A number as the shortest decimal that reads back."""
    return repr(float(number))


def expected_of(made: dict[str, Any]) -> dict[str, Any]:
    """What is expected of one tier, but for identities: sketches in a few numbers."""
    return {
        tensor["name"]: {
            "rounded": tensor["rounded"],
            "nonfinite": tensor["nonfinite"],
            "sketch": tensor["sketch"] and some_of(tensor["sketch"]),
        }
        for tensor in made["tensors"]
    }


def some_of(sketch: dict[str, Any]) -> dict[str, Any]:
    """A sketch's sums whole, and its first and last numbers."""
    core = sketch["core"]
    rows, cols = core.shape
    ends = [(0, 0), (rows // 2, cols // 3), (rows - 1, cols - 1)]
    return {
        **{key: sketch[key] for key in ("zeros", "flat")},
        **{key: text_of(sketch[key]) for key in ("energy", "fourth")},
        "shape": list(core.shape),
        "core": {f"{i},{j}": text_of(core[i, j]) for i, j in ends},
        "rows": [text_of(sketch["rows"][n]) for n in (0, -1)],
        "cols": [text_of(sketch["cols"][n]) for n in (0, -1)],
    }


def write_case(folder: Path, hunts: str, model: Model) -> None:
    """A case: the model, its stored fingerprint, what is expected, and what the case hunts."""
    folder.mkdir(parents=True)
    file = second.write_safetensors(model)
    made = {tier: second.fingerprint(file, tier) for tier in second.SCHEMES}
    full = made["full"]
    same = ("name", "dtype", "shape", "content", "value")
    found = {key: full[key] for key in ("root", "content_id", "value_id", "size_bytes")}
    found["tensors"] = [{key: tensor[key] for key in same} for tensor in full["tensors"]]
    found |= {tier: expected_of(made[tier]) for tier in second.SCHEMES}
    (folder / "model.safetensors").write_bytes(file)
    (folder / "full.lineage").write_bytes(stored.to_bytes(full))
    (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(hunts + "\n", encoding="utf-8")


def network(width: int, units: int, layers: int, *, gated: bool, **labelled: list[int]) -> Model:
    """What of a transformer the neuron sketch reads, under GGUF's names."""
    model = {f"{role}.weight": as_("F32", *shape, seed=role) for role, shape in labelled.items()}
    for n in range(layers):
        stem, seed = f"blk.{n}.", f"{n}"
        model[f"{stem}ffn_norm.weight"] = tensor("F32", 1.5 + 0.25 * numbers(f"n{n}", width))
        if gated:
            model[f"{stem}ffn_gate.weight"] = as_("BF16", units, width, seed=f"gate{seed}")
        else:
            model[f"{stem}ffn_norm.bias"] = as_("F32", width, seed=seed)
        model[f"{stem}ffn_up.weight"] = as_("BF16", units, width, seed=f"up{seed}")
        model[f"{stem}ffn_down.weight"] = as_("BF16", width, units, seed=f"down{seed}")
    return model


def without_units(model: Model, name: str, *units: int) -> Model:
    """The same with some rows of a matrix zero."""
    dtype, shape, data = model[name]
    rows = second.values_of(dtype, data).reshape(shape).copy()
    rows[list(units)] = 0
    return model | {name: (dtype, shape, rows.tobytes())}


NEURONS: dict[str, tuple[str, Model, list[str] | None]] = {
    "neurons_gated": (
        "A neuron sketch with gates: more tokens than 256 labels and more units than 128; tokens by strings and by numbers.",
        network(24, 140, 3, gated=True, token_embd=[300, 24]),
        [f"word {n}" if n % 7 else "" for n in range(310)],
    ),
    "neurons_plain": (
        "A neuron sketch without gates: norms with biases, ten blocks, units that read nothing, and places and pixels for want of tokens.",
        without_units(
            network(20, 12, 10, gated=False, class_embd=[1, 1, 20], position_embd=[1, 17, 20], patch_embd=[20, 3, 2, 2]),
            "blk.1.ffn_up.weight", 0, 7,
        ),
        None,
    ),
}  # fmt: skip


def write_neurons(folder: Path, hunts: str, model: Model, tokens: list[str] | None) -> None:
    """A model with what its tokens are, and its stored fingerprint with a neuron sketch."""
    folder.mkdir(parents=True)
    file = second.write_safetensors(model)
    (folder / "model.safetensors").write_bytes(file)
    (folder / "full.lineage").write_bytes(stored.to_bytes(with_neurons(model, tokens)))
    if tokens is not None:
        named = {token: number for number, token in enumerate(tokens) if token}
        (folder / "vocab.json").write_text(json.dumps(named) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(hunts + "\n", encoding="utf-8")


def with_neurons(model: Model, tokens: list[str] | None) -> dict[str, Any]:
    """A fingerprint with a neuron sketch."""
    made = second.fingerprint(second.write_safetensors(model))
    return made | {"neurons": neurons.sketch(model, tokens)}


class Forged:
    """A stored form taken apart, to be changed and put together again."""

    def __init__(self, file: bytes) -> None:
        self.held, _ = second.read_safetensors(file)
        self.metadata, self.manifest = copy.deepcopy(stored.parts_of(file))

    def change(self, name: str, place: int, value: float) -> None:
        """Change one number of an array."""
        dtype, shape, data = self.held[name]
        array = np.frombuffer(data, "<f8" if dtype == "F64" else "<f4").copy()
        array[place] = value
        self.held[name] = dtype, shape, array.tobytes()

    def cut(self, name: str, values: int) -> None:
        """Cut an array short, or add to it."""
        dtype, _, data = self.held[name]
        data = data[: 4 * values] if values < 0 else data + bytes(4 * values)
        self.held[name] = dtype, [len(data) // (8 if dtype == "F64" else 4)], data

    def file(self) -> bytes:
        """The stored form."""
        manifest = rfc8785.dumps(self.manifest)
        held = {**self.held, "manifest": ("U8", [len(manifest)], manifest)}
        return second.write_safetensors(held, {"lineage": rfc8785.dumps(self.metadata).decode()})


def renamed(forged: Forged) -> None:
    forged.manifest[0]["name"] = "aa"


def upper(forged: Forged) -> None:
    forged.manifest[0]["content"] = forged.manifest[0]["content"].upper()


def short_value(forged: Forged) -> None:
    forged.manifest[0]["value"] = "ab" * 31


def reordered(forged: Forged) -> None:
    """Two entries of the same shape change places, and the root is made of what is left."""
    forged.manifest[0], forged.manifest[1] = forged.manifest[1], forged.manifest[0]
    rooted(forged)


def repeated(forged: Forged) -> None:
    forged.manifest[1]["name"] = forged.manifest[0]["name"]
    rooted(forged)


def rooted(forged: Forged) -> None:
    leaves = [second.leaf(entry["name"], entry["content"]) for entry in forged.manifest]
    forged.metadata["root"] = second.tree(leaves).hex()


def set_neurons(**changes: object) -> Callable[[Forged], None]:
    return lambda forged: forged.metadata["neurons"].update(changes)


def without_neurons(forged: Forged) -> None:
    del forged.metadata["neurons"]


def without_bits(forged: Forged) -> None:
    del forged.held["neurons"]


def unit_more(forged: Forged) -> None:
    forged.metadata["neurons"]["blocks"][0][2] += 1


def set_metadata(key: str, value: str) -> Callable[[Forged], None]:
    return lambda forged: forged.metadata.__setitem__(key, value)


def set_entry(key: str, value: object) -> Callable[[Forged], None]:
    return lambda forged: forged.manifest[0].__setitem__(key, value)


def without_zeros(forged: Forged) -> None:
    del forged.manifest[0]["zeros"]


def rename_array(forged: Forged) -> None:
    forged.held = {("core" if n == "cores" else n): held for n, held in forged.held.items()}


def retype_array(forged: Forged) -> None:
    forged.held["cores"] = ("I32", *forged.held["cores"][1:])


def extra_array(forged: Forged) -> None:
    forged.held["more"] = ("U8", [0], b"")


def changed(name: str, place: int, value: float) -> Callable[[Forged], None]:
    return lambda forged: forged.change(name, place, value)


def cut(name: str, values: int) -> Callable[[Forged], None]:
    return lambda forged: forged.cut(name, values)


ZEROS64 = "0" * 64
REFUSED: dict[str, tuple[str, Callable[[Forged], None]]] = {
    "type": ("Another `_type`.", set_metadata("_type", "urn:model-lineage:fingerprint:v2")),
    "scheme": ("A scheme of another side.", set_metadata("scheme", "bilinear-v1/side=35/vector=4x144/seed=blake3")),
    "root": ("A root that is not the root of the leaves.", set_metadata("root", ZEROS64)),
    "renamed": ("A tensor renamed: the root is that of the old name.", renamed),
    "upper_case_digest": ("A digest in upper case.", upper),
    "short_digest": ("A digest of 62 digits.", short_value),
    "name_order": ("Names out of order, under their own root.", reordered),
    "name_twice": ("A name twice, under its own root.", repeated),
    "energies_off": ("Row energies that do not add up to the sum of squares.", changed("energies", 0, 5.0)),
    "energy_negative": ("An energy below 0.", changed("energies", 0, -1.0)),
    "energy_nan": ("An energy that is not a number.", changed("energies", 0, math.nan)),
    "core_infinite": ("A core that is not finite.", changed("cores", 0, math.inf)),
    "sum_infinite": ("A sum of fourth powers that is not finite.", changed("sums", 1, math.inf)),
    "cores_short": ("An array shorter than the manifest asks for.", cut("cores", -1)),
    "energies_long": ("An array longer than the manifest asks for.", cut("energies", 1)),
    "sums_long": ("Sums for one tensor more.", cut("sums", 4)),
    "array_name": ("An array of another name.", rename_array),
    "array_dtype": ("An array of another dtype.", retype_array),
    "array_extra": ("An array too many.", extra_array),
    "zeros_above": ("More zeros than values.", set_entry("zeros", 10**6)),
    "zeros_below": ("Fewer zeros than none.", set_entry("zeros", -1)),
    "nonfinite_above": ("More masked values than values.", set_entry("nonfinite", 10**6)),
    "no_zeros": ("A sketch without its count of zeros.", without_zeros),
    "rounded_dtype": ("Rounded to a dtype that the page does not name.", set_entry("rounded", {"F8_E4M3": ZEROS64})),
    "rounded_digest": ("A rounded digest that is none.", set_entry("rounded", {"BF16": "x"})),
}  # fmt: skip


BLOCKS = [["blk", 0, 12], ["blk", 1, 12]]
REFUSED_NEURONS: dict[str, tuple[str, Callable[[Forged], None]]] = {
    "neurons_no_entry": ("The bits of a neuron sketch without its entry.", without_neurons),
    "neurons_no_bits": ("The entry of a neuron sketch without its bits.", without_bits),
    "neurons_scheme": ("A neuron sketch of another scheme.", set_neurons(scheme="neurons-v2")),
    "neurons_labels": ("Labels of no known kind.", set_neurons(labels=["tokens"])),
    "neurons_gated": ("Neither gated nor not.", set_neurons(gated=1)),
    "neurons_no_blocks": ("A neuron sketch of no blocks.", set_neurons(blocks=[])),
    "neurons_block_order": ("Blocks out of order.", set_neurons(blocks=BLOCKS[::-1])),
    "neurons_block_twice": ("A block twice.", set_neurons(blocks=[BLOCKS[0]] * 2)),
    "neurons_no_units": ("A block without units.", set_neurons(blocks=[["blk", 0, 24], ["blk", 1, 0]])),
    "neurons_many_units": ("More units than 128.", set_neurons(blocks=[["blk", 0, 129], ["blk", 1, 12]])),
    "neurons_short": ("Bits of fewer units than the entry says.", unit_more),
}  # fmt: skip


def write_refused(folder: Path, why: str, forge: Callable[[Forged], None], file: bytes) -> None:
    """A stored form that must be refused, forged from one that must not."""
    folder.mkdir(parents=True)
    forged = Forged(file)
    forge(forged)
    (folder / "full.lineage").write_bytes(forged.file())
    (folder / "README.md").write_text(why + "\n", encoding="utf-8")


REFUSED_FROM: Model = {"a": as_("F32", 6, 8), "b": as_("F32", 6, 8), "c": as_("F32", 3)}


NETWORK = network(20, 12, 2, gated=True, token_embd=[40, 20])


def make(folder: Path) -> None:
    """Write every case into an empty folder."""
    for name, (hunts, model, tokens) in NEURONS.items():
        write_neurons(folder / name, hunts, model, tokens)
    for name, (hunts, model) in CASES.items():
        write_case(folder / name, hunts, model)
    plain = stored.to_bytes(second.fingerprint(second.write_safetensors(REFUSED_FROM)))
    for name, (why, forge) in REFUSED.items():
        write_refused(folder / f"{name}_fail", why, forge, plain)
    sketched = stored.to_bytes(with_neurons(NETWORK, None))
    for name, (why, forge) in REFUSED_NEURONS.items():
        write_refused(folder / f"{name}_fail", why, forge, sketched)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "fingerprint" / "v1")
