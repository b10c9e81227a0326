"""Torch's files are read without torch: honest ones whole, and every lie has one named error."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_bytes import (
    REBUILD,
    Ops,
    archive,
    call,
    floats,
    legacy,
    named,
    ops,
    pickle,
    saved,
    storage,
    tensor,
    within,
    zipped,
)

from lineage import read
from lineage.artifacts import Affine
from lineage.artifacts.opened import Opener
from lineage.artifacts.pickled import Global, Stream, load
from lineage.errors import FormatError

T = tensor()
OPTIMIZER = {"state": {0: {"exp_avg": T}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def contents(path: Path, data: bytes) -> dict[str, bytes]:
    """The tensors of a file with these bytes."""
    path.write_bytes(data)
    with read(path) as artifact:
        found = {}
        for item in artifact.items:
            scratch = memoryview(bytearray(item.size_bytes))
            found[item.name] = bytes(item.source.piece(0, item.size_bytes, scratch))
    return found


def refusal(path: Path, data: bytes) -> str:
    """The one line a file with these bytes is refused with."""
    with pytest.raises(FormatError) as caught:
        contents(path, data)
    words = str(caught.value)
    assert path.name in words
    assert words.isprintable()
    return words


def raw(body: bytes) -> bytes:
    """An archive whose data.pkl is these opcodes."""
    return archive(b"\x80\x02" + body + b".")


def stacked(module: str, name: str) -> Ops:
    """A class or function, named as protocol 4 does."""
    return Ops(ops(module) + ops(name) + b"\x93")


def quantized(*scheme: Any) -> Ops:
    """Six bytes that stand for real numbers."""
    stored = storage("q", 6, "torch.QInt8Storage")
    return call(f"{REBUILD}qtensor", stored, 0, (2, 3), (3, 1), scheme, False, {})


def per_channel(scales: Any, zeros: Any, axis: Any = 0) -> Ops:
    return quantized(named("torch.per_channel_affine"), scales, zeros, axis)


UNPICKLE = "needs full unpickling, which can run any code: it names "

PICKLES: dict[str, tuple[bytes, str]] = {
    # What would run code, if anyone let it
    "a shell": (pickle(call("os.system", "touch owned")), f"{UNPICKLE}os.system"),
    "a shell inside a state dict": (
        pickle({"w": T, "x": call("posix.system", "touch owned")}), f"{UNPICKLE}posix.system",
    ),
    "eval": (pickle(call("builtins.eval", "1")), f"{UNPICKLE}builtins.eval"),
    "getattr": (pickle(call("__builtin__.getattr", T, "x")), f"{UNPICKLE}__builtin__.getattr"),
    "a name that is never called": (pickle([named("subprocess.Popen"), T]), "subprocess.Popen"),
    "a name of protocol 4": (pickle({"w": stacked("nt", "system")}), f"{UNPICKLE}nt.system"),
    "torch's own loader": (pickle(call("torch.load", "x")), f"{UNPICKLE}torch.load"),
    "a whole module": (
        pickle(call("torch.nn.modules.linear.Linear")),
        f"{UNPICKLE}torch.nn.modules.linear.Linear; load it where you trust it, and save its "
        "state_dict as safetensors",
    ),
    "a name that steers a terminal": (pickle(named("os.\x1b[31m\u202eevil")), "\\x1b[31m\\u202e"),
    "an opcode of protocol 0 that calls": (b"(S'x'\nios\nsystem\n.", "opcode b'S'"),
    "an instance by name": (b"\x80\x02(ios\nsystem\n.", "opcode b'i'"),
    "a class by number": (b"\x80\x02\x82\x01.", "opcode b'\\x82'"),
    "a persistent id as text": (b"\x80\x02Pstorage\n.", "opcode b'P'"),
    # What is damaged
    "nothing": (b"", "it ends too soon"),
    "no end": (pickle({"w": T})[:-1], "it ends too soon"),
    "an end with nothing before it": (b"\x80\x02.", "takes a value that is not there"),
    "a call without arguments": (b"\x80\x02R.", "takes a value that is not there"),
    "a pair of one": (b"\x80\x02N\x86.", "takes a value that is not there"),
    "a tuple without a mark": (b"\x80\x02Nt.", "takes a value that is not there"),
    "a mark left over": (b"\x80\x02(N.", "a mark is left over"),
    "a value taken across a mark": (b"\x80\x02](Na.", "takes a value that is not there"),
    "a number never kept": (b"\x80\x02h\x07.", "recalls what it never kept"),
    "a protocol from the future": (b"\x80\x09N.", "newer than 5"),
    "text that is not UTF-8": (b"\x80\x02X\x02\0\0\0\xff\xfe.", "not UTF-8"),
    "half a surrogate pair": (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "not UTF-8"),
    "a list filled that is none": (b"\x80\x02}Na.", "fills what is no list"),
    "a dict filled that is none": (b"\x80\x02]NNs.", "fills what is no dict"),
    "a key without a value": (b"\x80\x02}(Nu.", "a key has no value"),
    "a state on a list": (b"\x80\x02]}b.", "fills what is no dict"),
    "a call of text": (b"\x80\x02" + ops("print") + b")R.", "calls what is no function"),
    "a call with a list": (
        b"\x80\x02" + named("torch.Size") + b"]R.", "calls what is no function",
    ),
    "a name of numbers": (b"\x80\x02NN\x93.", "named by what is no text"),
    "a name without end": (b"\x80\x02c" + b"a" * 5000 + b".", "a name without end"),
    "a name of 5000 letters": (pickle(stacked("a", "b" * 5000)), "a name without end"),
    # What is far larger than its bytes
    "text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "it ends too soon"),
    "text of 2^63 bytes": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "it ends too soon"),
    "bytes of 2^62": (b"\x80\x05\x96" + b"\0" * 7 + b"\x40.", "it ends too soon"),
    "a number of 2^31 bytes": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "it ends too soon"),
    "millions of dicts": (b"\x80\x02(" + b"}" * 1_600_000 + b"t.", "makes more values"),
    "millions of copies": (b"\x80\x02(" + b"N\x94" * 3_300_000 + b"t.", "makes more values"),
    "millions of marks": (b"\x80\x02" + b"(" * 1_600_000 + b".", "makes more values"),
    "lists 100000 deep": (
        b"\x80\x02" + b"](" * 100_000 + T + b"e" * 100_000 + b".", "nested more than 64 deep",
    ),
    "tuples 100000 deep": (b"\x80\x02" + T + b"\x85" * 100_000 + b".", "more than 64 deep"),
    "tuples 100000 deep, of nothing": (b"\x80\x02N" + b"\x85" * 100_000 + b".", "no tensors"),
    "a key of 2^60 parts": (
        pickle({Ops(b"N" + b"2\x86" * 60): T}), "a tensor's key is no text",
    ),
    "names of 100 MB": (pickle({"n" * 2000: T}), "a name of 2000 letters"),
    # What says nothing, or too little
    "None": (pickle(None), "holds no tensors"),
    "numbers": (pickle({"epoch": 3, "lr": 0.5, "name": "x"}), "holds no tensors"),
    "an empty dict": (pickle({}), "holds no tensors"),
    "a bag": (pickle(call("argparse.Namespace")), "holds no tensors"),
    "a dict that holds itself": (b"\x80\x02}q\0(" + ops("a") + b"h\0u.", "holds no tensors"),
    "60 dicts of two each": (
        b"\x80\x02}" + (b"q\0}(" + ops("a") + b"h\0" + ops("b") + b"h\0u") * 60 + b".",
        "holds no tensors",
    ),
    "two tensors of one name": (
        pickle({"a": {"b": T}, "a.b": tensor(stored=storage("1"))}), "stored twice",
    ),
    "a tensor under a fraction": (pickle({0.5: T}), "a tensor's key is no text"),
    "a tensor under None": (pickle({None: [T]}), "a tensor's key is no text"),
    # Persistent ids
    "an id that is text": (pickle(Ops(ops("storage") + b"Q")), "something else than storages"),
    "an id of a module": (
        pickle(Ops(ops(("module", None, "file", "source", 1)) + b"Q")), "else than storages",
    ),
    "a storage of text": (
        pickle(Ops(ops(("storage", "Float", "0", "cpu", 6)) + b"Q")), "a storage of ? is unknown",
    ),
    "a storage of pairs of nibbles": (
        pickle(storage(kind="torch.QUInt4x2Storage")), "a storage of QUInt4x2Storage is unknown",
    ),
    "a storage without a key": (pickle(storage(key=5)), "lacks its key or its size"),
    "a storage of -1 values": (pickle(storage(count=-1)), "lacks its key or its size"),
    "a storage of 2^90 values": (pickle(storage(count=2**90)), "lacks its key or its size"),
    "a storage of True values": (pickle(storage(count=True)), "lacks its key or its size"),
    "a part of a storage without a size": (
        pickle(storage("0", 6, "torch.FloatStorage", ("0", 1))), "lacks its place or its size",
    ),
    # Training state
    "an optimizer alone": (
        pickle(OPTIMIZER), "holds no model, only what training keeps (optimizer state)",
    ),
    "an optimizer in a checkpoint": (
        pickle({"optimizer_state_dict": OPTIMIZER, "epoch": 1}),
        "only what training keeps (optimizer_state_dict); give the file with the weights",
    ),
    "schedulers and random numbers": (
        pickle({"lr_schedulers": [{"a": T}], "rng_state": T}), "(lr_schedulers, rng_state)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_every_lie_of_a_pickle_is_named(tmp_path: Path, name: str) -> None:
    data, reason = PICKLES[name]
    started = time.perf_counter()
    words = refusal(tmp_path / "w.pt", archive(data, {"1": floats()}))
    assert reason in words
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("name", ["text of 4 GB", "bytes of 2^62", "a number of 2^31 bytes"])
def test_no_number_in_a_pickle_asks_for_memory(tmp_path: Path, name: str) -> None:
    with within(4_000_000):
        refusal(tmp_path / "w.pt", archive(PICKLES[name][0]))


def test_a_far_memo_place_costs_nothing(tmp_path: Path) -> None:
    body = b"}(" + ops("w") + T + b"r\xff\xff\xff\xff" + ops("v") + b"j\xff\xff\xff\xffu"
    with within(4_000_000):
        assert contents(tmp_path / "w.pt", raw(body)) == {"w": floats()}


def v3(dtype: Any, *more: Any) -> Ops:
    stored = storage("0", 24, "torch.storage.UntypedStorage")
    return call(f"{REBUILD}tensor_v3", stored, 0, (6,), (1,), False, {}, dtype, *more)


def wrapped(times: int) -> Ops:
    value = T
    for _ in range(times):
        value = call(f"{REBUILD}parameter", value, True, {})
    return value


TENSORS: dict[str, tuple[Ops, str]] = {
    "more values than its storage": (tensor((2, 4), (4, 1)), "ends at byte 32 of its storage"),
    "a place beyond its storage": (tensor(offset=1), "at byte 28 of its storage, which has 24"),
    "strides beyond its storage": (tensor((2, 3), (9, 1)), "ends at byte 48"),
    "strides of 2^59": (tensor((2, 3), (2**59, 1)), "of its storage, which has 24"),
    "a place before its storage": (tensor(offset=-1), "its place in the storage are no counts"),
    "strides that go back": (tensor(strides=(-3, 1)), "its strides are not counts"),
    "a shape of -2": (tensor((-2, -3)), "its shape are not counts"),
    "a shape of text": (tensor(("2", 3)), "its shape are not counts"),
    "a shape of True": (tensor((True, 3)), "its shape are not counts"),
    "a shape that is text": (tensor("ab"), "its shape are not counts"),
    "a shape of a 4000-bit number": (tensor((2**1000, 3)), "its shape are not counts"),
    "a shape of 2^118 values": (tensor((2**59, 2**59), (0, 0)), "more values than any file"),
    "65 dimensions": (tensor((1,) * 65, (1,) * 65), "its shape have 65 dimensions"),
    "fewer strides than extents": (tensor((2, 3), (1,)), "no counts"),
    "values over each other": (tensor((2, 2, 2), (2, 1, 1)), "lay one value over another"),
    "one value 2^50 times": (tensor((2**50,), (0,)), "repeat 24 stored bytes until they are"),
    "no storage": (tensor(stored=(1, 2)), "made in an unknown way"),
    "too few arguments": (call(f"{REBUILD}tensor_v2", storage()), "made in an unknown way"),
    "a parameter of a parameter, ten times": (wrapped(10), "made in an unknown way"),
    "a parameter of text": (call(f"{REBUILD}parameter", "x", True, {}), "made in an unknown way"),
    "a type's function that is text": (
        call("torch._tensor._rebuild_from_type_v2", "x", named("torch.Tensor"), (), {}),
        "made in an unknown way",
    ),
    "a storage that is missing": (tensor(stored=storage("nine")), "'nine' is not in the archive"),
    "a storage outside": (tensor(stored=storage("../data.pkl")), "is not in the archive"),
    "a storage shorter than said": (
        tensor(stored=storage("0", 7)), "its storage has 24 bytes, not 28",
    ),
    "a dtype without a spelling": (v3(named("torch.uint4")), "dtype uint4 has no spelling"),
    "a dtype that is text": (v3("float32"), "dtype ? has no spelling"),
    "a conjugated view": (
        tensor((2, 3), (3, 1), 0, None, {"conj": True, "neg": False}), "conjugated or negated",
    ),
    "a negated view of a new kind": (v3(named("torch.float32"), {"neg": True}), "or negated view"),
    "sparse": (
        call(f"{REBUILD}sparse_tensor", 0, (T, T, (3, 3))), "is stored sparse; save to_dense()",
    ),
    "meta": (
        call(f"{REBUILD}meta_tensor_no_storage", named("torch.float32"), (3,), (1,), False),
        "on the meta device",
    ),
    "nested": (call(f"{REBUILD}nested_tensor", T, T, T, T), "is a nested tensor"),
    "a NumPy array": (
        call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), b"b"),
        "a NumPy array inside the pickle",
    ),
    "quantized in no way": (quantized(), "quantized in an unknown way"),
    "quantized in a way of its own": (quantized(named("torch.qint8"), 1.0, 0), "in an unknown way"),
    "a scale that is text": (
        quantized(named("torch.per_tensor_affine"), "1", 0), "are no numbers",
    ),
    "a scale that is not finite": (
        quantized(named("torch.per_tensor_affine"), float("nan"), 0), "are no numbers",
    ),
    "a zero point of 4000 bits": (
        quantized(named("torch.per_tensor_affine"), 1.0, 2**1000), "are no numbers",
    ),
    "scales along the third dimension": (per_channel([1.0, 1.0], [0, 0], 2), "no dimension of it"),
    "scales along True": (per_channel([1.0, 1.0], [0, 0], True), "no dimension of it"),
    "three scales for two rows": (per_channel([1.0] * 3, [0, 0]), "has 3 scales and 2 zero points"),
    "scales that are text": (per_channel("12", [0, 0]), "no list of numbers"),
    "scales in a matrix": (per_channel(T, [0, 0]), "no list of numbers"),
    "one scale 2^40 times": (
        per_channel(tensor((2**40,), (0,)), [0, 0]), "its scales repeat one value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_every_lie_of_a_tensor_is_named(tmp_path: Path, name: str) -> None:
    value, reason = TENSORS[name]
    words = refusal(tmp_path / "w.pt", saved({"layer": {"w": value}}, {"q": bytes(6)}))
    assert reason in words
    assert "'layer.w'" in words or "repeat 24" in words


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "no torch archive": (zipped({"a.npy": b""}), "it has no FOLDER/data.pkl"),
    "a data.pkl in no folder": (zipped({"data.pkl": pickle(T)}), "it has no FOLDER/data.pkl"),
    "two folders": (
        zipped({"a/data.pkl": pickle(T), "b/data.pkl": pickle(T)}), "has 2 folders with a data.pkl",
    ),
    "torch.export": (zipped({"m/archive_format": b"pt2"}), "an archive of torch.export"),
    "torch.package": (zipped({"m/.data/extern_modules": b""}), "an archive of torch.package"),
    "the first TorchScript": (zipped({"m/model.json": b"{}"}), "TorchScript of torch before 1.2"),
    "an order of bytes in the middle": (saved(T, more={"byteorder": b"mixed"}), "neither little"),
    "an order of bytes without end": (saved(T, more={"byteorder": b"a" * 99}), "more than the 64"),
    "constants that are no tuple": (
        saved(T, more={"constants.pkl": pickle([])}), "its constants are no tuple",
    ),
    "TorchScript without tensors": (
        saved(call("__torch__.M"), more={"constants.pkl": pickle(())}), "holds no tensors",
    ),
    "an old file's wrong version": (legacy(T, version=9), "its magic number or protocol"),
    "an old file's keys are text": (legacy(T, keys="0"), "keys are no list of text"),
    "an old file's keys are numbers": (legacy(T, keys=[0]), "keys are no list of text"),
    "an old file lacks a storage": (legacy(T, keys=[]), "not those its tensors name"),
    "an old file has a storage too many": (legacy(T, keys=["0", "1"]), "not those its tensors"),
    "an old file has a storage twice": (legacy(T, keys=["0", "0"]), "not those its tensors"),
    "an old file cut short": (legacy(T)[:-1], "ends beyond the file; is it truncated?"),
    "an old file cut at a storage": (legacy(T)[:-30], "ends 6 bytes too soon"),
    "an old file cut in its pickle": (legacy(T)[:90], "its pickle is damaged: it ends too soon"),
    "an old storage of 2^63 values": (legacy(T, [("0", 2**63, b"")]), "ends beyond the file"),
    "an old storage shorter than said": (
        legacy(T, [("0", 5, floats(5))]), "tensor 'tensor': its storage has 20 bytes, not 24",
    ),
    "bytes after an old file": (legacy(T, after=b"x"), "1 bytes lie after the last storage"),
    "a storage where none may be": (
        pickle(0x1950A86A20F9469CFC6C) + pickle(storage()), "refers to values outside itself",
    ),
    "a tar archive": (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive; if torch before 0.4"),
    "GGUF": (b"GGUF\3\0\0\0", "a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "safetensors": (b"\x10\0\0\0\0\0\0\0{", "a safetensors file; name it .safetensors"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html>", "was the download refused?"),
    "a plain pickle": (pickle({"w": 1}), "a pickle that torch did not write"),
    "noise": (b"\1\2\3", "of an unknown kind"),
    "no bytes": (b"", "no torch file, but empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_other_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, reason = ARCHIVES[name]
    assert reason in refusal(tmp_path / "w.bin", data)


# What is read


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "jit", "torchscript"])
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    for data in (saved({"w": T}), legacy({"w": T})):
        assert contents(tmp_path / f"x.{suffix}", data) == {"w": floats()}


W, V, U = (tensor(stored=storage(key)) for key in "012")
ONE = tensor((), (), 0, storage("3", 1))
STORED = {key: floats(6 if key < "3" else 1) for key in "123"}

CHECKPOINTS: dict[str, tuple[Any, set[str]]] = {
    "a tensor alone": (W, {"tensor"}),
    "a list": ([W, 3, V], {"0", "2"}),
    "a tuple of a model and an optimizer": (({"a": W}, OPTIMIZER), {"0.a"}),
    "a state dict": ({"a.weight": W, "a.bias": V}, {"a.weight", "a.bias"}),
    "nested": ({"a": {"b": [W], "c": {0: V}}, "n": None, "s": "x"}, {"a.b.0", "a.c.0"}),
    "Lightning": (
        {"state_dict": {"m.w": W}, "epoch": 1, "optimizer_states": [OPTIMIZER], "loops": {"x": V},
         "callbacks": {"c": {"best": ONE}}, "hyper_parameters": {"table": U}}, {"m.w"},
    ),
    "timm": ({"state_dict": {"w": W}, "state_dict_ema": {"w": V}, "metric": ONE}, {"w"}),
    "a tutorial": ({"model_state_dict": {"w": W}, "optimizer_state_dict": OPTIMIZER}, {"w"}),
    "DeepSpeed": ({"module": {"w": W}, "optimizer": None, "param_shapes": [V]}, {"w"}),
    "an average alone": ({"ema": {"module": {"w": W}, "updates": 3}}, {"w"}),
    "two models": ({"model": {"w": W}, "critic": {"w": V}}, {"model.w", "critic.w"}),
    "a model beside a queue": ({"model": {"w": W}, "queue": V}, {"model.w", "queue"}),
    "an encoder and a decoder": ({"encoder": {"w": W}, "decoder": {"w": V}},
                                 {"encoder.w", "decoder.w"}),
    "an optimizer by another name": ({"model": {"w": W}, "adam": OPTIMIZER}, {"w"}),
    "weights that sound like training": (
        {"scheduler": W, "optim.w": V}, {"scheduler", "optim.w"},
    ),
    "tied": ({"a": W, "b": W, "c": tensor(), "d": V}, {"a", "d"}),
    "Python 2": ({b"w": W}, {"w"}),
    "ordered": (Ops(call("collections.OrderedDict") + b"(" + ops("w") + W + b"u}"
                    + b"(" + ops("_metadata") + b"}ub"), {"w"}),
    "ordered by Python 2": (call("collections.OrderedDict", [["v", W], ("w", V)]), {"v", "w"}),
    "counted": (call("collections.Counter", {"w": W}), {"w"}),
    "with a bag beside": ({"w": W, "args": Ops(named("argparse.Namespace") + b")\x81}b")}, {"w"}),
    "a key that is no text, and no tensor": ({"w": W, (1, 2): [3], 0.5: None}, {"w"}),
    "a parameter": ({"w": call(f"{REBUILD}parameter", W, True, {})}, {"w"}),
    "a parameter with state": (
        {"w": call(f"{REBUILD}parameter_with_state", W, True, {}, {"a": 1})}, {"w"},
    ),
    "a tensor with a type": (
        {"w": call("torch._tensor._rebuild_from_type_v2", named(f"{REBUILD}tensor_v2"),
                   named("torch.nn.parameter.Parameter"), (storage(), 0, (6,), (1,), False, {}),
                   {"tag": 1})}, {"w"},
    ),
    "a size": ({"w": tensor(call("torch.Size", (2, 3)))}, {"w"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_model_is_found(tmp_path: Path, name: str) -> None:
    value, expected = CHECKPOINTS[name]
    assert contents(tmp_path / "w.pt", saved(value, STORED)).keys() == expected


WAYS = {
    "pops": (b"NN0", None),
    "forgets to the mark": (b"N(NN1", None),
    "forgets a mark": (b"N(0", None),
    "copies": (b"]2\x86", ([], [])),
    "short text": (b"\x8c\x01a", "a"),
    "long text": (b"\x8d\1" + bytes(7) + b"a", "a"),
    "text of Python 2": (b"U\x01b", "b"),
    "long text of Python 2, in Latin 1": (b"T\2\0\0\0c\xe9", "c\xe9"),
    "numbers": (b"(K\xffM\xff\xffJ\xff\xff\xff\xff\x8b\1\0\0\0\x80t", (255, 65535, -1, -128)),
    "bytes": (b"(B\1\0\0\0x\x8e\1" + bytes(7) + b"x\x96\1" + bytes(7) + b"xt", (b"x",) * 3),
    "tuples": (b"NN\x86\x85NN\x87", ((((None, None),), None, None))),
    "sets": (b"\x8f(K\1\x90(\x91\x86", ([1], ())),
    "a list and a dict from the mark": (b"(NK\1l(K\1Nd\x86", ([None, 1], {1: None})),
    "a list by one": (b"]K\1a", [1]),
    "a dict by one": (b"}K\1Ns", {1: None}),
    "a frame": (b"\x95" + bytes(8) + b"N", None),
    "a value by number": (b"]\x94q\xffr\1\1\0\0h\0h\xffj\1\1\0\0\x87", ([], [], [])),
    "a dict with a state": (named("collections.OrderedDict") + b")\x81}b", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_every_opcode_that_picklers_write_is_read(tmp_path: Path, name: str) -> None:
    body, expected = WAYS[name]
    opener = Opener()
    with opener.stack:
        (tmp_path / "any").touch()
        file = opener.open(tmp_path / "any", label="any")
        found = load(Stream(file, data=b"\x80\x04" + body + b"."), find=Global)
    assert found == expected


def test_calls_are_kept_as_they_are(tmp_path: Path) -> None:
    opener = Opener()
    with opener.stack:
        path = tmp_path / "any"
        path.write_bytes(b"before" + b"\x80\x04" + named("a.b") + b"K\1\x85}\x92K\2b.")
        made = load(Stream(opener.open(path, label="any"), 6), find=Global)
    assert (made.by, made.arguments, made.state) == ("a.b", (1,), 2)


def test_dtypes_and_shapes_are_those_of_the_file(tmp_path: Path) -> None:
    kinds = {"BFloat16": ("BF16", 2), "ComplexDouble": ("C128", 16), "Bool": ("BOOL", 1)}
    value = {
        kind: tensor((2, 1), (1, 7), 0, storage(kind, 2, f"torch.{kind}Storage")) for kind in kinds
    } | {"f8": v3(named("torch.float8_e4m3fn")), "none": tensor((0, 4), (4, 1))}
    path = tmp_path / "w.pt"
    path.write_bytes(saved(value, {kind: bytes(2 * width) for kind, (_, width) in kinds.items()}))
    with read(path) as artifact:
        found = {item.name: (item.dtype, item.shape) for item in artifact.items}
    assert found == {kind: (dtype, (2, 1)) for kind, (dtype, _) in kinds.items()} | {
        "f8": ("F8_E4M3", (6,)), "none": ("F32", (0, 4)),
    }  # fmt: skip


VIEWS = {
    "transposed": ((3, 2), (1, 3), 0, [0, 3, 1, 4, 2, 5]),
    "every other": ((3,), (2,), 1, [1, 3, 5]),
    "a column": ((2, 1), (3, 1), 2, [2, 5]),
    "expanded": ((2, 3), (0, 1), 3, [3, 4, 5, 3, 4, 5]),
    "one value": ((), (), 4, [4]),
    "a slice": ((3,), (1,), 2, [2, 3, 4]),
}


@pytest.mark.parametrize("how", ["stored", "packed", "big-endian", "legacy"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_gives_its_values_in_order(tmp_path: Path, name: str, how: str) -> None:
    shape, strides, offset, values = VIEWS[name]
    value = {"w": tensor(shape, strides, offset)}
    data = {
        "stored": saved(value),
        "packed": saved(value, packed=True),
        "big-endian": saved(
            value, {"0": np.arange(6, dtype=">f4").tobytes()}, more={"byteorder": b"big"}
        ),
        "legacy": legacy(value),
    }[how]
    assert contents(tmp_path / "w.pt", data)["w"] == struct.pack(f"<{len(values)}f", *values)


def test_big_endian_complex_numbers_are_turned_by_halves(tmp_path: Path) -> None:
    values = np.array([1 + 2j, 3 - 4j], "<c8")
    stored = {"c": values.astype(">c8").tobytes(), "b": b"\1\0"}
    value = {
        "c": tensor((2,), (1,), 0, storage("c", 2, "torch.ComplexFloatStorage")),
        "b": tensor((2,), (1,), 0, storage("b", 2, "torch.BoolStorage")),
    }
    data = saved(value, stored, more={"byteorder": b"big"})
    assert contents(tmp_path / "w.pt", data) == {"c": values.tobytes(), "b": b"\1\0"}


def test_an_old_file_may_keep_parts_of_storages(tmp_path: Path) -> None:
    part = storage("0", 6, "torch.FloatStorage", ("1", 2, 3))
    assert contents(tmp_path / "w.pt", legacy({"w": tensor((3,), (1,), 0, part)})) == {
        "w": struct.pack("<3f", 2, 3, 4)
    }
    data = saved({"w": tensor((3,), (1,), 0, part)})
    assert contents(tmp_path / "w.pt", data) == {"w": struct.pack("<3f", 2, 3, 4)}


def test_a_long_old_pickle_is_read_as_it_is_needed(tmp_path: Path) -> None:
    words = ["word" * 20] * 20_000  # more than is read at a time
    value = {"words": words, "w": T, "size": call("torch.Size", (1,))}
    assert contents(tmp_path / "w.pt", legacy(value)) == {"w": floats()}


def test_quantized_numbers_keep_their_scales(tmp_path: Path) -> None:
    numbers = {"s": struct.pack("<2d", 0.5, 0.25), "z": struct.pack("<2q", 1, -1), "q": bytes(6)}
    scales = tensor((2,), (1,), 0, storage("s", 2, "torch.DoubleStorage"))
    zeros = tensor((2,), (1,), 0, storage("z", 2, "torch.LongStorage"))
    path = tmp_path / "w.pt"
    for value, expected in (
        (quantized(named("torch.per_tensor_affine"), 0.5, 3), Affine((0.5,), (3.0,))),
        (per_channel(scales, zeros), Affine((0.5, 0.25), (1.0, -1.0), 0)),
        (per_channel([0.5] * 3, [0] * 3, 1), Affine((0.5,) * 3, (0.0,) * 3, 1)),
    ):
        path.write_bytes(saved(value, numbers))
        with read(path) as artifact:
            assert artifact.items[0].affine == expected
            assert artifact.items[0].dtype == "I8"


def test_torchscript_gives_tensors_of_modules_lists_and_constants(tmp_path: Path) -> None:
    inner = Ops(named("__torch__.torch.nn.Linear") + b")\x81" + ops({"weight": W, "n": 3}) + b"b")
    packed = Ops(named("__torch__.torch.classes.Packed") + b")\x81" + ops((V, None)) + b"b")
    alone = Ops(named("__torch__.Box") + b")\x81" + U + b"b")
    lists = call("torch.jit._pickle.build_tensorlist", [tensor(stored=storage("4"))])
    root = Ops(
        named("__torch__.M") + b")\x81"
        + ops({"fc": inner, "packed": packed, "box": alone, "list": lists, "training": True}) + b"b"
    )  # fmt: skip
    constants = pickle((3, T, call("torch.jit._pickle.build_tensorlist")))
    more = {"constants.pkl": constants, "constants/0": floats(), "code/m.py": b"import os"}
    found = contents(tmp_path / "m.pt", saved(root, STORED | {"4": floats()}, more=more))
    assert list(found) == ["CONSTANTS.c1", "box", "fc.weight", "list.0", "packed.0"]


HONEST = [
    saved({"model": {"a": W, "b": tensor((3, 2), (1, 3))}, "epoch": 3}, STORED),
    saved({"a": T, "n": [1, None, 0.5, b"x"]}, packed=True),
    legacy({"a": T, "b": tensor((3,), (2,))}),
]


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_bytes_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from(HONEST)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    path = tmp_path / "fuzzed.pt"
    try:
        contents(path, bytes(changed))
    except FormatError as error:
        assert "fuzzed.pt" in str(error)
        assert str(error).isprintable()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_pickle_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    # The archive is whole: only what is said in it is changed.
    changed = bytearray(pickle({"a": T, "b": [tensor((3,), (2,)), OPTIMIZER, 2**70]}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path / "fuzzed.pt"
    try:
        contents(path, archive(bytes(changed)))
    except FormatError as error:
        assert "fuzzed.pt" in str(error)
        assert str(error).isprintable()
