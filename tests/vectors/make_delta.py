"""Make the deltas' test vectors: `python tests/vectors/make_delta.py [folder]`.

Every number comes from BLAKE3's stream over a case's own words. A case holds an adapter's files and
the changes that they mean, which are computed here plainly; identities are the second
implementation's (`tests/second/delta.py`), never those of `lineage`.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from second import delta as second  # noqa: E402
from second import fingerprint, stored  # noqa: E402
from second.fingerprint import write_safetensors  # noqa: E402

Array = np.ndarray[Any, Any]
Changes = dict[tuple[str, str], Array]
P = "base_model.model.model.layers.0.self_attn."
Q, V = f"{P}q_proj", f"{P}v_proj"
U = "lora_unet_mid_block_attentions_0_proj_in"


def numbers(seed: str, *shape: int, dtype: str = "F32") -> Array:
    """Numbers in (-2, 2), thicker in the middle, rounded to a dtype."""
    size = math.prod(shape)
    stream = np.frombuffer(blake3(seed.encode()).digest(16 * size), "<i4").reshape(size, 4)
    return (stream.astype("<f8").sum(axis=1) / 2**32).reshape(shape).astype(TYPES[dtype])


TYPES: dict[str, Any] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
NAMES = {np.dtype(value): key for key, value in TYPES.items()}


def wide(array: Array) -> Array:
    """The same in float64."""
    return array.astype("<f8")


def times(b: Array, a: Array) -> Array:
    """B A, summed in the one order, so that the last bits are those of no machine."""
    return sum(b[:, k : k + 1] * a[k : k + 1] for k in range(len(a)))


B, A = numbers("b", 50, 4), numbers("a", 4, 40)
BV, AV = numbers("bv", 30, 4), numbers("av", 4, 40)
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
BOTH = {
    f"{Q}.lora_A.weight": A,
    f"{Q}.lora_B.weight": B,
    f"{V}.lora_A.weight": AV,
    f"{V}.lora_B.weight": BV,
}
SUM: Changes = {
    ("blk.0.attn_q.weight", "delta"): 2 * times(wide(B), wide(A)),
    ("blk.0.attn_v.weight", "delta"): 2 * times(wide(BV), wide(AV)),
}
TURN = np.array([[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0], [4, 0, 0, 1]])
BACK = np.array([[1, -2, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [-4, 8, 0, 1]])
PAD_B, PAD_A = (
    np.concatenate([B, numbers("p", 50, 3)], axis=1),
    np.concatenate([A, np.zeros((3, 40), "<f4")]),
)
W = {
    f"hada_w{n}_{half}": numbers(f"h{n}{half}", *shape)
    for n in (1, 2)
    for half, shape in (("a", (40, 3)), ("b", (3, 45)))
}
K1, KA, KB = numbers("k1", 3, 5), numbers("ka", 14, 2), numbers("kb", 2, 9)
CONV_A, CONV_B = numbers("ca", 4, 6, 3, 3), numbers("cb", 37, 4, 1, 1)
L, M = numbers("l", 150), numbers("m", 50)
EDGE_B, EDGE_A = numbers("border b 1751", 12, 2), numbers("border a 1751", 2, 9)
QKV_B, QKV_A = numbers("fb", 60, 2), numbers("fa", 2, 20)

CASES: dict[str, tuple[str, dict[str, Array], dict[str, Any] | None, Changes]] = {
    "example": (
        "The page's own example.",
        {"x.lora_A.weight": np.array([[1, 2]], "<f4"), "x.lora_B.weight": np.array([[3], [0]], "<f4")},
        {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["x"]},
        {("x.weight", "delta"): np.array([[6.0, 12], [0, 0]])},
    ),
    "peft": ("Two modules as peft saves them. The next ones are the same changes.", BOTH, PEFT, SUM),
    "alpha_folded": ("`peft` with the scale in the factors and none said.", {k: (np.float32(2) * v if "_B" in k else v) for k, v in BOTH.items()}, None, SUM),
    "kohya": (
        "`peft` under names without dots, with alphas.",
        {f"lycoris_{k.removeprefix('base_model.model.').removesuffix(e + '.weight').replace('.', '_')}.{n}.weight": v for k, v in BOTH.items() for e, n in ((".lora_A", "lora_down"), (".lora_B", "lora_up")) if e in k}
        | {f"lycoris_{m.removeprefix('base_model.model.').replace('.', '_')}.alpha": np.array(8, "<f4") for m in (Q, V)},
        None, SUM,
    ),
    "wide_dtype": ("`peft` in F64.", {k: wide(v) for k, v in BOTH.items()}, PEFT, SUM),
    "turned": ("`peft` with factors turned by a matrix whose inverse is exact, in F64.", {k: (times(wide(v), TURN) if "_B" in k else times(BACK, wide(v))) for k, v in BOTH.items()}, PEFT, SUM),
    "padded": ("`peft` with a rank of 7 in one module, of which 3 are nothing.", BOTH | {f"{Q}.lora_A.weight": PAD_A, f"{Q}.lora_B.weight": PAD_B}, {**PEFT, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"q_proj": 14}}, SUM),
    "zero_module": ("`peft` and a module that is changed by nothing.", BOTH | {f"{P}k_proj.lora_A.weight": A, f"{P}k_proj.lora_B.weight": 0 * B}, {**PEFT, "target_modules": ["q_proj", "v_proj", "k_proj"]}, SUM | {("blk.0.attn_k.weight", "delta"): np.zeros((50, 40))}),
    "next_to_nothing": ("`peft` and a module that is changed by less than counts.", BOTH | {f"{P}k_proj.lora_A.weight": A, f"{P}k_proj.lora_B.weight": (np.float32(1e-36) * B).astype("<f4")}, {**PEFT, "target_modules": ["q_proj", "v_proj", "k_proj"]}, SUM | {("blk.0.attn_k.weight", "delta"): 2 * times(wide((np.float32(1e-36) * B).astype("<f4")), wide(A))}),
    "dropped": ("`peft` without one of its modules: another identity.", {k: v for k, v in BOTH.items() if k.startswith(Q)}, PEFT, {("blk.0.attn_q.weight", "delta"): SUM["blk.0.attn_q.weight", "delta"]}),
    "rescaled": ("`peft` times 1.01: another identity, shared codes.", BOTH, {**PEFT, "lora_alpha": 8.08}, {k: 1.01 * v for k, v in SUM.items()}),
    "stabilized": ("rsLoRA: alpha over the root of the rank.", BOTH, {**PEFT, "use_rslora": True}, {k: 2 * v for k, v in SUM.items()}),
    "bf16": ("BF16 factors.", {f"{Q}.lora_A.weight": numbers("a", 4, 40, dtype="BF16"), f"{Q}.lora_B.weight": numbers("b", 50, 4, dtype="BF16")}, {**PEFT, "lora_alpha": 4}, {("blk.0.attn_q.weight", "delta"): times(wide(numbers("b", 50, 4, dtype="BF16")), wide(numbers("a", 4, 40, dtype="BF16")))}),
    "dora": ("DoRA: a magnitude is a change of its own group.", {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, f"{Q}.lora_magnitude_vector": M}, {**PEFT, "use_dora": True}, {("blk.0.attn_q.weight", "delta"): SUM["blk.0.attn_q.weight", "delta"], ("blk.0.attn_q.weight", "magnitude"): wide(M)}),
    "saved_whole": ("A module that peft saves whole, and a bias.", BOTH | {"base_model.model.score.weight": numbers("s", 3, 40), f"{Q}.base_layer.bias": M}, {**PEFT, "modules_to_save": ["score"], "bias": "lora_only"}, SUM | {("score.weight", "whole"): wide(numbers("s", 3, 40)), ("blk.0.attn_q.bias", "whole"): wide(M)}),
    "embedding": ("An embedding's factors: tokens are rows.", {"base_model.model.model.embed_tokens.lora_embedding_A": numbers("ea", 4, 70), "base_model.model.model.embed_tokens.lora_embedding_B": numbers("eb", 20, 4)}, {**PEFT, "target_modules": ["embed_tokens"]}, {("token_embd.weight", "delta"): 2 * times(wide(numbers("ea", 4, 70)).T, wide(numbers("eb", 20, 4)).T)}),
    "kernel": ("A convolution, as kohya saves it.", {f"{U}.lora_down.weight": CONV_A, f"{U}.lora_up.weight": CONV_B, f"{U}.alpha": np.array(2, "<f4")}, None, {("denoiser.mid_block.attentions.0.proj_in.weight", "delta"): 0.5 * times(wide(CONV_B).reshape(37, 4), wide(CONV_A).reshape(4, 54))}),
    "loha": ("LoHa: two products, entry by entry.", {f"{U}.{k}": v for k, v in W.items()} | {f"{U}.alpha": np.array(6, "<f4")}, None, {("denoiser.mid_block.attentions.0.proj_in.weight", "delta"): 2 * (times(wide(W["hada_w1_a"]), wide(W["hada_w1_b"]))) * (times(wide(W["hada_w2_a"]), wide(W["hada_w2_b"])))}),
    "lokr": ("LoKr: a Kronecker product, the second matrix of low rank.", {f"{U}.lokr_w1": K1, f"{U}.lokr_w2_a": KA, f"{U}.lokr_w2_b": KB, f"{U}.alpha": np.array(1, "<f4")}, None, {("denoiser.mid_block.attentions.0.proj_in.weight", "delta"): 0.5 * np.kron(wide(K1), times(wide(KA), wide(KB)))}),
    "border": ("A number next to a line: two ids.", {f"{Q}.lora_A.weight": EDGE_A, f"{Q}.lora_B.weight": EDGE_B}, {**PEFT, "r": 2, "lora_alpha": 2}, {("blk.0.attn_q.weight", "delta"): times(wide(EDGE_B), wide(EDGE_A))}),
    "ia3": ("IA3: gains are kept as what they are beyond 1.", {f"{P}k_proj.ia3_l": L.reshape(150, 1), "base_model.model.model.layers.0.mlp.down_proj.ia3_l": L.reshape(1, 150)}, {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, {("blk.0.attn_k.weight", "gain_out"): wide(L) - 1, ("blk.0.ffn_down.weight", "gain_in"): wide(L) - 1}),
    "fused": ("Flux's fused query, key and value are three changes.", {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": QKV_A, "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": QKV_B}, None, {(f"denoiser.transformer_blocks.0.attn.to_{h}.weight", "delta"): times(wide(QKV_B)[20 * n : 20 * n + 20], wide(QKV_A)) for n, h in enumerate("qkv")}),
}  # fmt: skip

STORED = ("peft", "dora", "zero_module", "next_to_nothing")
"""Cases with a stored form."""

SAME = ("peft", "alpha_folded", "kohya", "wide_dtype", "turned", "padded", "zero_module",
        "next_to_nothing")  # fmt: skip
"""Cases of one identity."""

REFUSED: dict[str, tuple[str, dict[str, Array], dict[str, Any] | None]] = {
    "no_pair": ("A without B.", {f"{Q}.lora_A.weight": A}, None),
    "two_ranks": ("Factors of two ranks.", {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B[:, :3].copy()}, None),
    "another_rank": ("A rank that the configuration denies.", BOTH, {**PEFT, "r": 8}),
    "another_family": ("A family that the configuration denies.", BOTH, {**PEFT, "peft_type": "LOHA"}),
    "no_target": ("A module that the configuration does not name.", BOTH, {**PEFT, "target_modules": ["v_proj"]}),
    "unknown": ("A tensor that no table knows.", BOTH | {"x.other": L}, PEFT),
    "nan": ("A factor that is not a number.", BOTH | {f"{Q}.lora_A.weight": np.full((4, 40), np.nan, "<f4")}, PEFT),
}  # fmt: skip


Made = dict[str, Any]


def entry(key: str, value: object) -> Callable[[Made], None]:
    """Another value in what the metadata says of the delta."""
    return lambda made: made["delta"]["entry"].__setitem__(key, value)


def change(key: str, value: object) -> Callable[[Made], None]:
    """Another value in what it says of the first change."""
    return lambda made: made["delta"]["entry"]["changes"][0].__setitem__(key, value)


def number(array: int, place: int, value: float) -> Callable[[Made], None]:
    """Another number in the cores (0) or the sums (1)."""

    def forge(made: Made) -> None:
        arrays = list(made["delta"]["arrays"])
        held = np.frombuffer(arrays[array], ("<f4", "<f8")[array]).copy()
        held[place] = value
        arrays[array] = held.tobytes()
        made["delta"]["arrays"] = tuple(arrays)

    return forge


def cut(array: int, size: int) -> Callable[[Made], None]:
    """Fewer bytes, or more, of the cores (0) or the sums (1)."""

    def forge(made: Made) -> None:
        arrays = list(made["delta"]["arrays"])
        arrays[array] = arrays[array][:size] if size < 0 else arrays[array] + bytes(size)
        made["delta"]["arrays"] = tuple(arrays)

    return forge


def other_way(made: Made) -> None:
    made["delta"]["entry"]["changes"].reverse()


def twice(made: Made) -> None:
    made["delta"]["entry"]["changes"][1] = dict(made["delta"]["entry"]["changes"][0])


REFUSED_STORED: dict[str, tuple[str, Callable[[Made], None]]] = {
    "scheme": ("Another scheme.", entry("scheme", "delta-v2")),
    "order": ("Changes out of order.", other_way),
    "twice": ("A change twice.", twice),
    "kind": ("A kind that is not known.", change("kind", "product")),
    "no_extent": ("A shape without extents.", change("shape", [])),
    "zero_extent": ("A shape of nothing.", change("shape", [0, 40])),
    "core_nan": ("A core that is not finite.", number(0, 0, math.nan)),
    "core_off": ("A core whose features are others.", number(0, 0, 1e3)),
    "energy_negative": ("A negative energy.", number(1, 0, -1.0)),
    "energy_zero": ("An energy of 0 beside a core that is not.", number(1, 0, 0.0)),
    "feature_off": ("A feature that is not that of the cores.", number(1, 2, 0.123)),
    "cores_short": ("Cores that end too soon.", cut(0, -4)),
    "cores_long": ("Cores of more than the changes.", cut(0, 4)),
    "sums_short": ("Sums that end too soon.", cut(1, -8)),
    "sums_long": ("A feature too many.", cut(1, 8)),
}


def stored_of(name: str) -> Made:
    """The fingerprint of a case's files by the second implementation, with its delta."""
    _, tensors, _, changes = CASES[name]
    made = fingerprint.fingerprint(write_safetensors(held(tensors)))
    found = second.delta(changes)
    said = {"entry": second.entry_of(found, "lora"), "arrays": second.arrays_of(found)}
    return made | {"delta": said}


def held(tensors: dict[str, Array]) -> Any:
    """Arrays as a file holds them."""
    return {
        name: (NAMES[array.dtype], list(array.shape), np.ascontiguousarray(array).tobytes())
        for name, array in tensors.items()
    }


def write(folder: Path, hunts: str, tensors: dict[str, Array], config: Any) -> None:
    """An adapter's files, and what they are for."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(write_safetensors(held(tensors)))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").write_text(hunts + "\n", encoding="utf-8")


def expected_of(changes: Changes) -> dict[str, Any]:
    """What is expected of an adapter: identities, and each change in three numbers."""
    made = second.delta(changes)
    return {
        "delta_id": made["delta_id"],
        "delta_ids": made["delta_ids"],
        "delta_codes": made["delta_codes"],
        "features": [repr(round(x, 9)) for x in made["features"]],
        "changes": [
            {
                "name": c["name"], "kind": c["kind"], "shape": c["shape"],
                "energy": f"{c['energy']:.9e}", "core_sum": f"{c['core'].sum():.9e}",
            }
            for c in made["changes"]
        ],
    }  # fmt: skip


def make(folder: Path) -> None:
    """Write every case into an empty folder."""
    for name, (hunts, tensors, config, changes) in CASES.items():
        write(folder / name, hunts, tensors, config)
        text = json.dumps(expected_of(changes), indent=1)
        (folder / name / "expected.json").write_text(text + "\n")
    for name, (hunts, tensors, config) in REFUSED.items():
        write(folder / f"{name}_fail", hunts, tensors, config)
    for name in STORED:
        (folder / name / "full.lineage").write_bytes(stored.to_bytes(stored_of(name)))
    for name, (why, forge) in REFUSED_STORED.items():
        made = copy.deepcopy(stored_of("dora"))
        forge(made)
        (folder / f"{name}_fail").mkdir(parents=True)
        (folder / f"{name}_fail" / "full.lineage").write_bytes(stored.to_bytes(made))
        (folder / f"{name}_fail" / "README.md").write_text(why + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "delta" / "v1")
