"""What torch itself saves is read as torch reads it, byte for byte."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage import fingerprint, read
from lineage.artifacts import Item
from lineage.errors import FormatError

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR"),
]

torch = pytest.importorskip("torch")
nn = torch.nn

HOWS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 5": {"pickle_protocol": 5},
    "old": {"_use_new_zipfile_serialization": False},
    "old, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
every_how = pytest.mark.parametrize("how", HOWS)


def raw(tensor: Any) -> bytes:
    """A tensor's stored values, row-major."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def found(path: Path) -> dict[str, tuple[Item, bytes]]:
    """The tensors of a file and their bytes, read in pieces of an odd size."""
    with read(path) as artifact:
        out = {}
        for item in artifact.items:
            scratch = memoryview(bytearray(1 << 16))
            step = 65_521
            pieces = [
                bytes(item.source.piece(at, min(step, item.size_bytes - at), scratch))
                for at in range(0, item.size_bytes, step)
            ]
            out[item.name] = item, b"".join(pieces)
    return out


def check(path: Path, expected: dict[str, Any]) -> dict[str, tuple[Item, bytes]]:
    """Compare a file's tensors with torch's own, in names, shapes and bytes."""
    got = found(path)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        item, data = got[name]
        assert item.shape == tuple(tensor.shape), name
        assert data == raw(tensor), name
    return got


def save(value: Any, path: Path, how: str = "zip") -> Path:
    torch.save(value, path, **HOWS[how])
    return path


class Small(nn.Module):
    """Two layers, a norm with buffers, a buffer that is not saved, a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.plain = torch.arange(4.0)

    def forward(self, x):  # type: ignore[no-untyped-def]
        for block in self.blocks:
            x = block(x)
        return x + self.plain


DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "bool": "BOOL", "complex64": "C64", "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip


@every_how
def test_every_dtype_and_shape(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    model = {}
    for dtype in DTYPES:
        for name, shape in {"m": (3, 5), "v": (7,), "s": (), "e": (0, 4), "d": (2, 1, 3)}.items():
            model[f"{dtype}.{name}"] = (10 * torch.rand(shape)).to(getattr(torch, dtype))
    path = save(model, tmp_path / "m.pt", how)
    for name, (item, _) in check(path, model).items():
        assert item.dtype == DTYPES[name.split(".")[0]]
    if how == "zip":  # of the others torch's own loader of weights alone reads less
        check(path, torch.load(path, weights_only=True))


@every_how
def test_views_and_ties(tmp_path: Path, how: str) -> None:
    base = torch.arange(600.0).reshape(20, 30)
    parameter = nn.Parameter(torch.rand(3, 3))
    model = {
        "base": base, "turned": base.T, "sliced": base[3:9, 4:20:3], "row": base[7],
        "expanded": torch.ones(4, 1).expand(4, 50),
        "permuted": base.reshape(4, 5, 30).permute(2, 0, 1),
        "tail": base.reshape(-1)[500:], "one": base[2, 3], "parameter": parameter,
    }  # fmt: skip
    tied = {"base.again": base, "parameter.again": parameter, "same.view": base.T}
    path = save(model | tied, tmp_path / "m.pt", how)
    check(path, model)
    if how in ("zip", "old"):
        loaded = torch.load(path, weights_only=True)
        check(path, {name: loaded[name] for name in model})


def test_many_views_are_fingerprinted_as_torch_holds_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = {"turned": torch.rand(700, 300).T, "cut": torch.rand(400, 400)[:, :77]}
    whole = {name: tensor.contiguous() for name, tensor in model.items()}
    one, other = save(model, tmp_path / "a.pt"), save(whole, tmp_path / "b.pth", "old")
    assert fingerprint(one).root == fingerprint(other).root == fingerprint(whole).root


@every_how
def test_a_training_checkpoint(tmp_path: Path, how: str) -> None:
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        model.first(torch.rand(2, 5)).sum().backward()
        optimizer.step()
        schedule.step()
    kept = {
        "epoch": 3, "best": torch.tensor(0.5), "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(), "scheduler": schedule.state_dict(),
        "rng_state": torch.get_rng_state(),
    }  # fmt: skip
    check(save(kept, tmp_path / "c.pt", how), model.state_dict())
    lightning = {
        "epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.4",
        "state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()], "loops": {"fit": {"n": 1}},
        "callbacks": {"best": {"score": torch.tensor(1.0)}}, "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip
    check(save(lightning, tmp_path / "c.ckpt", how), model.state_dict())
    with pytest.raises(FormatError, match="holds no model, only what training keeps"):
        read(save(optimizer.state_dict(), tmp_path / "optimizer.pt", how))


REFUSED = {
    "a module": (lambda: nn.Linear(2, 2), "which can run any code: it names torch.nn.modules"),
    "a module of one's own": (Small, "it names .*test_torch_saved.Small; load it where you trust"),
    "meta": (lambda: {"w": torch.rand(3, device="meta")}, "'w': is on the meta device"),
    "sparse": (
        lambda: {"w": torch.eye(3).to_sparse()},
        r"'w': is stored sparse; save to_dense\(\)",
    ),
    "sparse rows": (lambda: {"w": torch.eye(3).to_sparse_csr()}, "'w': is stored sparse"),
    "conjugated": (lambda: {"w": torch.rand(2, dtype=torch.complex64).conj()}, "'w': is a conj"),
    "a NumPy array": (lambda: {"w": np.ones(3)}, "'w': is a NumPy array inside the pickle"),
    "nothing": (lambda: {"epoch": 3}, "holds no tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_plain_values_is_refused(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(FormatError, match=reason):
        read(save(make(), tmp_path / "m.pt"))


@every_how
def test_quantized_tensors_keep_their_scales(tmp_path: Path, how: str) -> None:
    numbers = torch.randn(3, 4)
    scales, zeros = torch.tensor([0.5, 0.25, 2.0]).double(), torch.tensor([0, 3, 1])
    model = {
        "whole": torch.quantize_per_tensor(numbers, 0.5, 3, torch.quint8),
        "wide": torch.quantize_per_tensor(numbers, 0.5, 0, torch.qint32),
        "turned": torch.quantize_per_tensor(numbers, 0.25, 1, torch.qint8).T,
        "rows": torch.quantize_per_channel(numbers, scales, zeros, 0, torch.qint8),
    }
    got = check(save(model, tmp_path / "q.pt", how), model)
    for name, (item, data) in got.items():
        assert item.affine is not None
        shape = [1] * len(item.shape)
        shape[item.affine.axis or 0] = -1
        stored = np.frombuffer(data, {"U8": "u1", "I8": "i1", "I32": "<i4"}[item.dtype])
        zero, scale = (np.reshape(part, shape) for part in (item.affine.zeros, item.affine.scales))
        np.testing.assert_allclose(
            (stored.reshape(item.shape) - zero) * scale, model[name].dequantize().numpy(), rtol=1e-6
        )


def test_a_scripted_module_gives_its_state_dict_and_what_that_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jit"
    torch.jit.script(Small().eval()).save(path)
    loaded = torch.jit.load(path)
    check(path, {**loaded.state_dict(), "plain": loaded.plain})


def test_a_frozen_module_gives_its_constants(tmp_path: Path) -> None:
    module = Small().eval()
    path = tmp_path / "m.torchscript"
    torch.jit.freeze(torch.jit.script(module), optimize_numerics=False).save(path)
    got = found(path)
    assert all(name.startswith("CONSTANTS.c") for name in got)
    assert raw(module.blocks[0].weight) in {data for _, data in got.values()}


def test_quantized_layers_give_their_packed_weights(tmp_path: Path) -> None:
    torch.backends.quantized.engine = "qnnpack"
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    scripted = tmp_path / "m.pt"
    torch.jit.script(small).save(scripted)
    for path in (save(small.state_dict(), tmp_path / "s.pt"), scripted):
        got = found(path)
        item, data = got["0._packed_params._packed_params.0"]
        assert data == raw(small[0].weight())
        assert item.affine is not None
        assert item.affine.scales == (small[0].weight().q_scale(),)
        assert got["0._packed_params._packed_params.1"][1] == raw(small[0].bias())


def test_an_exported_program_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),)), path)
    with pytest.raises(FormatError, match=r"an archive of torch\.export; save the module's"):
        read(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_big_endian_archive_is_read_as_torch_reads_it(tmp_path: Path, packed: bool) -> None:
    model = {"w": torch.randn(40, 30).T, "c": torch.randn(5, dtype=torch.complex64),
             "h": torch.randn(9).half(), "b": torch.tensor([True, False])}  # fmt: skip
    made = io.BytesIO()
    torch.save(model, made)
    widths = dict(zip("0123", (4, 4, 2, 1), strict=True))
    path = tmp_path / "big.pt"
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                width = widths[name.rpartition("/")[2]]
                data = np.frombuffer(data, f"<u{width}").byteswap().tobytes()
            new.writestr(name, data)
    if not packed:  # torch reads stored members only
        loaded = torch.load(path, weights_only=True)
        assert all(torch.equal(loaded[name], model[name]) for name in model)
    check(path, model)


def test_a_checksum_left_out_is_not_asked_for(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"w": torch.arange(5)}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    check(path, {"w": torch.arange(5)})
