"""What is in memory is read where it lies: no whole copy, no wrapper, no shard, nothing twice.

There is no GPU here: that a tensor is sliced before it leaves its device is seen from the sizes of
what torch allocates.
"""

from __future__ import annotations

import collections
import tracemalloc
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import BFLOAT16, raw, small_model, write_model

from lineage import fingerprint, read
from lineage.artifacts.memory import Held
from lineage.errors import FormatError

NOWHERE = memoryview(b"")
"""Scratch that nothing may be written to."""

MIB = 1 << 20

LAYOUTS: dict[str, Any] = {
    "plain": lambda a: a,
    "fortran": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian fortran": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder(">"))),
    "every other": lambda a: np.repeat(a[..., None], 2, -1)[..., 1],
    "backwards": lambda a: a[::-1].copy()[::-1] if a.ndim else a,
    "broadcast": lambda a: np.broadcast_to(a.reshape(-1)[:1].reshape((1,) * a.ndim), a.shape),
}


def read_whole(value: Any, size: int) -> bytes:
    """A value's bytes, read in pieces."""
    return b"".join(
        bytes(Held(value).piece(start, min(size, value.nbytes - start), NOWHERE))
        for start in range(0, value.nbytes, size)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (4, 1, 6), (1, 1, 9), (2, 3, 4, 5), (5, 1, 1)])
def test_any_piece_of_any_layout_is_the_bytes_there(layout: str, shape: tuple[int, ...]) -> None:
    value = LAYOUTS[layout](np.random.default_rng(0).normal(size=shape).astype(np.float32))
    whole = raw(value)
    held = Held(value)
    for start in range(len(whole)):
        for end in range(start + 1, len(whole) + 1, 3):
            assert bytes(held.piece(start, end - start, NOWHERE)) == whole[start:end]
        assert not held.piece(start, 0, NOWHERE)


@pytest.mark.parametrize("dtype", [np.complex64, np.int64, np.uint16, np.bool_, BFLOAT16])
@pytest.mark.parametrize("layout", ["plain", "fortran", "every other"])
def test_every_dtype_is_cut_anywhere(layout: str, dtype: Any) -> None:
    value = LAYOUTS[layout]((7 * np.random.default_rng(1).normal(size=(9, 7))).astype(dtype))
    assert read_whole(value, 13) == raw(value)
    assert read_whole(value, 64) == raw(value)


@pytest.mark.parametrize("layout", ["plain", "fortran", "big-endian", "every other", "broadcast"])
@pytest.mark.parametrize("shape", [(2048, 2048), (2, 2 * MIB), (1023, 4099)])
def test_no_layout_costs_a_copy_of_the_tensor(layout: str, shape: tuple[int, ...]) -> None:
    value = LAYOUTS[layout](np.zeros(shape, np.float32))
    held = Held(value)
    tracemalloc.start()
    try:
        for start in range(0, value.nbytes, MIB):
            size = min(MIB, value.nbytes - start)
            assert len(held.piece(start, size, NOWHERE)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    copies = {"plain": 0}.get(layout, 3)  # two pieces that follow each other, and one being joined
    assert peak < copies * MIB + 100_000


def test_a_file_mapped_into_memory_is_not_loaded(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "w.bin", np.float32, "w+", shape=(4096, 1024))
    mapped[:] = np.arange(1024)
    tracemalloc.start()
    try:
        with read({"w": mapped, "again": mapped, "turned": mapped.T}) as artifact:
            assert [item.name for item in artifact.items] == ["turned", "w"]
            for item in artifact.items:
                item.source.piece(5 * MIB, MIB, NOWHERE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * MIB
    assert fingerprint({"w": mapped}).root == fingerprint({"w": np.array(mapped)}).root


def test_mappings_in_a_mapping_have_dotted_names(tmp_path: Path) -> None:
    tensors = small_model()
    nested = {
        "embed": {"weight": tensors["embed.weight"]},
        "layer": types.MappingProxyType(
            {"0": collections.OrderedDict(weight=tensors["layer.0.weight"])}
        ),
        "norm.weight": tensors["norm.weight"],
        "nothing": {},
    }
    flat = fingerprint(write_model(tmp_path / "m.safetensors", tensors)).root
    assert fingerprint(nested).root == flat
    with pytest.raises(FormatError, match="stored twice") as caught:
        read({"a": {"b": np.zeros(2)}, "a.b": np.ones(2)})
    assert caught.value.tensor == "a.b"
    with pytest.raises(TypeError, match=r"'outer\.step' is a int"):
        read({"outer": {"w": np.zeros(2), "step": 3}})
    with pytest.raises(TypeError, match="names are text, got 0"):
        read({"state": {0: np.zeros(2)}})


def test_a_mapping_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {"w": np.zeros(2)}
    loop["self"] = loop
    with pytest.raises(FormatError, match="nested more than"):
        read(loop)


def test_a_subclass_of_arrays_is_its_plain_values() -> None:
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = plain.view(np.matrix)
    assert fingerprint({"w": rows}).root == fingerprint({"w": plain}).root


# torch


class Allocations:
    """How large the largest tensor was that torch made, views of others left out."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        held = self
        self.largest = 0

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                out = func(*args, **(kwargs or {}))
                given = {a.untyped_storage().data_ptr() for a in args if hasattr(a, "data_ptr")}
                if hasattr(out, "data_ptr") and out.untyped_storage().data_ptr() not in given:
                    held.largest = max(held.largest, out.nbytes)
                return out

        self.mode = Mode()


@pytest.mark.torch
def test_torch_pieces_are_cut_before_they_are_copied() -> None:
    import torch

    whole = torch.arange(4 * MIB, dtype=torch.float32).reshape(2048, 2048)
    cases = {
        "contiguous": (whole, 0),
        "transposed": (whole.t(), MIB + 16384),
        "sliced": (torch.zeros(2048, 4096)[:, ::2], MIB + 16384),
        "channels last": (
            whole.reshape(16, 64, 64, 64).contiguous(memory_format=torch.channels_last),
            MIB + 16384,
        ),
        "negated": (torch._neg_view(whole), MIB),
    }
    for name, (tensor, allowed) in cases.items():
        seen = Allocations()
        expected = tensor.resolve_neg().contiguous().numpy().tobytes()
        with seen.mode:
            held = Held(tensor)
            for start in range(0, tensor.nbytes, MIB):
                assert bytes(held.piece(start, MIB, NOWHERE)) == expected[start : start + MIB], name
        assert seen.largest <= allowed, name
    assert seen.largest > 0


@pytest.mark.torch
def test_conjugate_views_and_lone_values_are_read_as_they_are() -> None:
    import torch

    numbers = torch.tensor([[1 + 2j, 3 - 4j]], dtype=torch.complex64)
    with read({"w": numbers, "conjugate": numbers.conj()}) as artifact:
        assert [item.name for item in artifact.items] == ["conjugate", "w"]
    resolved = numbers.conj().resolve_conj()
    assert fingerprint({"w": numbers.conj()}).root == fingerprint({"w": resolved}).root
    lone = torch.arange(6.0).reshape(2, 3)[:, 1:2][:1]
    assert lone.stride() == (3, 1)
    assert read_whole(lone.squeeze(1), 4) == np.float32(1).tobytes()
    assert read_whole(torch.arange(6.0)[::3][1:], 4) == np.float32(3).tobytes()


@pytest.mark.torch
def test_tied_weights_count_once_and_views_of_another_shape_for_themselves() -> None:
    import torch

    weight = torch.randn(8, 8)
    shared = {"embed.weight": weight, "lm_head.weight": weight, "alias": weight.view(8, 8)}
    with read(shared) as artifact:
        assert [item.name for item in artifact.items] == ["embed.weight"]
    others = {"turned": weight.t(), "flat": weight.view(-1), "rows": weight[:4], "half": weight[4:]}
    with read({"w": weight, **others}) as artifact:
        assert [item.name for item in artifact.items] == sorted([*others, "w"])
    assert fingerprint({"w": weight.t()}).root == fingerprint({"w": weight.t().contiguous()}).root


def refusal(model: Any, tensor: str = "w") -> str:
    with pytest.raises(FormatError) as caught:
        read(model)
    assert caught.value.tensor == tensor
    return caught.value.reason


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_without_plain_values_are_refused_by_name() -> None:
    import torch
    from torch._subclasses import FakeTensorMode

    assert "meta device" in refusal({"w": torch.zeros(3, device="meta")})
    with torch.device("meta"):
        assert "meta device" in refusal(torch.nn.Linear(3, 2), "weight")
    with FakeTensorMode():
        fake = torch.zeros(3)
    assert "no values" in refusal({"w": fake})
    assert "not initialized" in refusal(torch.nn.LazyLinear(3), "weight")
    scaled = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    assert "int_repr" in refusal({"w": scaled})
    assert "sparse" in refusal({"w": torch.eye(3).to_sparse()})
    ragged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    assert "wraps other tensors" in refusal({"w": ragged})
    assert "complex128" in refusal({"w": torch.zeros(2, dtype=torch.complex128)})


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_one_process_s_shard_of_a_tensor_is_refused() -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        shard = DTensor.from_local(torch.zeros(4, 2), mesh, [Shard(0)])
        reason = refusal({"w": shard})
        assert "shard" in reason
        assert "DTensor" in reason
    finally:
        dist.destroy_process_group()

    class ShardedTensor:
        """As torch's own: no tensor, but a set of them in several processes."""

        def local_shards(self) -> list[Any]:
            return []

    assert "ShardedTensor" in refusal({"w": ShardedTensor()})
    flat = torch.nn.Parameter(torch.zeros(3))
    flat._is_flat_param = True  # as FSDP marks its own
    assert "shard" in refusal({"w": flat})
