"""What a pickle written by torch says about tensors, read without torch.

Every class and function that such a pickle may name is in one table here; any other name ends the
reading. What they would do is read off their arguments.

Source: torch/_weights_only_unpickler.py and torch/_utils.py of PyTorch 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lineage.artifacts.base import BITS, MAX_EXTENTS, MAX_VALUES
from lineage.artifacts.pickled import Global, Made
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from lineage.artifacts.base import Source
    from lineage.artifacts.opened import OpenFile

_STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64",
    "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
    "ComplexFloat": "C64", "ComplexDouble": "C128",
    "QInt8": "I8", "QUInt8": "U8", "QInt32": "I32", "Untyped": "U8",
}  # fmt: skip
"""`torch.FloatStorage` and its like: what lies in them."""

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "complex64": "C64", "complex128": "C128", "qint8": "I8", "quint8": "U8", "qint32": "I32",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ",
}  # fmt: skip

_UNSPELLED = (
    "complex32", "quint4x2", "quint2x4", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2",
    "float4_e2m1fn_x2", *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)  # fmt: skip
"""dtypes of torch that have no spelling here; a tensor of one is refused by name."""

_REBUILD = "torch._utils._rebuild_"

_NO_VALUES = {
    f"{_REBUILD}sparse_tensor": "is stored sparse; save to_dense() instead",
    f"{_REBUILD}meta_tensor_no_storage": "is on the meta device: it has a shape but no values",
    f"{_REBUILD}nested_tensor": "is a nested tensor; save its parts instead",
    f"{_REBUILD}device_tensor_from_numpy": "comes from a device whose values torch saves through "
    "NumPy; move it to the CPU before it is saved",
}
_WRAPS = {
    f"{_REBUILD}parameter", f"{_REBUILD}parameter_with_state",
    f"{_REBUILD}device_tensor_from_cpu_tensor", "torch.nn.parameter.Parameter",
}  # fmt: skip
_TYPED = "torch._tensor._rebuild_from_type_v2"
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")

_MADE_OTHERWISE = frozenset((*_WRAPS, _TYPED, *_ARRAYS))
"""What makes a tensor, or an array, beside torch's functions to rebuild one."""

LISTS = ("torch.jit._pickle.build_tensorlist",)
"""What makes a list of its one argument."""

_SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
            "per_channel_symmetric", "per_channel_affine_float_qparams")  # fmt: skip

_KNOWN = frozenset((
    *(f"torch.{name}" for name in (*_DTYPES, *_UNSPELLED, *_SCHEMES)),
    *(f"{module}.{name}Storage" for name in (*_STORAGES, "QUInt4x2", "QUInt2x4", "Typed")
      for module in ("torch", "torch.cuda", "torch.storage")),
    *(f"{_REBUILD}{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor")),
    *_NO_VALUES, *_WRAPS, _TYPED, *_ARRAYS, *LISTS,
    "torch.Tensor", "torch.Size", "torch.device", "torch.serialization._get_layout",
    *(f"torch.jit._pickle.{name}" for name in (
        "build_intlist", "build_doublelist", "build_boollist", "restore_type_tag")),
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("set", "frozenset", "bytearray", "complex", "dict", "list", "int", "float")),
    "_codecs.encode", "argparse.Namespace", "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of values outside the pickle.

    Attributes:
        pool: The part of the file it is kept in.
        key: Its name there.
        dtype: As its class says.
        size_bytes: As the pickle says.
        start: Bytes before it in what the key names.
    """

    pool: str
    key: str
    dtype: str
    size_bytes: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor looks at a storage.

    Attributes:
        storage: What it looks at.
        dtype: A key of `BITS`.
        shape: Row-major.
        strides: Values from one to the next along each extent.
        start: Bytes of the storage before the first value.
        scheme: How its values are quantized, as torch says; empty if they are not.
    """

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    scheme: tuple[Any, ...] = ()


class Pool(Protocol):
    """The storages of a file."""

    def source(self, storage: Storage, tensor: str, passes: int = 1) -> Source:
        """Return where a storage's bytes are, anew for every tensor, which goes over them so often.

        A storage that the file does not hold whole is a `FormatError` naming the tensor.
        """
        ...


def finder(file: OpenFile) -> Callable[[str], Global]:
    """Return what stands for a class or function by its name, refusing those not in the table."""
    known: dict[str, Global] = {}

    def find(name: str) -> Global:
        if name not in known:
            if name not in _KNOWN and not name.startswith("__torch__."):
                raise FormatError(
                    f"needs full unpickling, which can run any code: it names {printable(name)}; "
                    "load it where you trust it, and save its state_dict as safetensors",
                    file=file.path,
                )
            known[name] = Global(name)
        return known[name]

    return find


def storages(file: OpenFile, pool: str) -> Callable[[Any], Storage]:
    """Return what stands for a persistent id: `('storage', class, key, device, values, view)`."""

    def storage(told: Any) -> Storage:
        # The sixth part is of very old files: the key, place and size of a part of the storage.
        if not (isinstance(told, tuple) and len(told) in (5, 6) and told[0] == "storage"):
            raise FormatError("its pickle refers to something else than storages", file=file.path)
        _, kind, key, _, count, *rest = told
        part = rest[0] if rest else None
        name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
        dtype = _STORAGES.get(name.removesuffix("Storage"))
        if dtype is None:
            raise FormatError(f"a storage of {printable(name or '?')} is unknown", file=file.path)
        if not isinstance(key, str) or not _is_count(count):
            raise FormatError("a storage lacks its key or its size", file=file.path)
        width = BITS[dtype] // 8
        if part is None:
            return Storage(pool, key, dtype, count * width)
        if not (isinstance(part, tuple) and len(part) == 3 and all(map(_is_count, part[1:]))):
            raise FormatError("a part of a storage lacks its place or its size", file=file.path)
        return Storage(pool, key, dtype, part[2] * width, part[1] * width)

    return storage


def is_tensor(value: Any) -> bool:
    """Return whether a value of a pickle stands for a tensor."""
    return isinstance(value, Made) and (
        value.by.startswith(_REBUILD) or value.by in _MADE_OTHERWISE
    )


def view_of(value: Made, name: str, file: OpenFile) -> View:
    """Return what a tensor looks at.

    Raises:
        FormatError: Naming the tensor, if it has no plain values or lies about them.
    """

    def fail(reason: str) -> FormatError:
        return FormatError(reason, file=file.path, tensor=name)

    by, given = _unwrapped(value, fail)
    if by in _NO_VALUES:
        raise fail(_NO_VALUES[by])
    if by in _ARRAYS:
        raise fail("is a NumPy array inside the pickle; save it as a tensor, or as npz")
    if not by.startswith(_REBUILD) or len(given) < 4 or not isinstance(given[0], Storage):
        raise fail("is made in an unknown way")
    storage, offset, shape, strides = given[:4]
    dtype, scheme, flags = storage.dtype, (), None
    if by == f"{_REBUILD}tensor_v3":
        dtype = _dtype(given[6] if len(given) > 6 else None, fail)
        flags = given[7] if len(given) > 7 else None
    elif by == f"{_REBUILD}qtensor":
        told = given[4] if len(given) > 4 else None
        scheme = told if told and isinstance(told, tuple) else (None,)
    elif by == f"{_REBUILD}tensor_v2":
        flags = given[6] if len(given) > 6 else None
    if isinstance(flags, dict) and any(flags.values()):
        raise fail("is a conjugated or negated view; save resolve_conj().resolve_neg() instead")
    shape, strides = _counts(shape, "shape", fail), _counts(strides, "strides", fail)
    if not _is_count(offset) or len(shape) != len(strides):
        raise fail("its strides or its place in the storage are no counts")
    view = View(storage, dtype, shape, strides, offset * BITS[dtype] // 8, scheme)
    _check(view, fail)
    return view


def _unwrapped(value: Any, fail: Callable[[str], FormatError]) -> tuple[str, tuple[Any, ...]]:
    """Return the function that makes the tensor inside a parameter, and its arguments."""
    for _ in range(8):
        if not isinstance(value, Made):
            break
        if value.by == _TYPED and len(value.arguments) == 4:
            inner, _, given, _ = value.arguments
            if not isinstance(inner, Global) or not isinstance(given, tuple):
                break
            value = Made(inner.name, given)
        elif value.by in _WRAPS and value.arguments:
            value = value.arguments[0]
        else:
            return value.by, value.arguments
    raise fail("is made in an unknown way")


def _dtype(given: Any, fail: Callable[[str], FormatError]) -> str:
    name = given.name.removeprefix("torch.") if isinstance(given, Global) else "?"
    if name not in _DTYPES:
        raise fail(f"dtype {printable(name)} has no spelling here")
    return _DTYPES[name]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_VALUES


def _counts(given: Any, what: str, fail: Callable[[str], FormatError]) -> tuple[int, ...]:
    """Return a shape or strides, given as a tuple, a list or a `torch.Size`."""
    if isinstance(given, Made) and given.by == "torch.Size" and len(given.arguments) == 1:
        given = given.arguments[0]
    if not isinstance(given, tuple | list) or not all(map(_is_count, given)):
        raise fail(f"its {what} are not counts")
    if len(given) > MAX_EXTENTS:
        raise fail(f"its {what} have {len(given)} dimensions")
    return tuple(given)


def _check(view: View, fail: Callable[[str], FormatError]) -> None:
    """Raise unless the view's values lie inside its storage, each in a place of its own.

    Values of an expanded tensor (stride 0) share theirs.
    """
    shape = list(view.shape)
    if math.prod(n for n in shape if n) > MAX_VALUES:
        raise fail("its shape has more values than any file holds")
    if 0 in shape:
        return
    width = BITS[view.dtype] // 8
    reach = sum((n - 1) * step for n, step in zip(shape, view.strides, strict=True))
    end = view.start + (reach + 1) * width
    if end > view.storage.size_bytes:
        reason = f"ends at byte {end} of its storage, which has {view.storage.size_bytes}"
        raise fail(reason)
    covered = 0
    for step, n in sorted(zip(view.strides, shape, strict=True)):
        if n > 1 and step:
            if step <= covered:
                raise fail("its strides lay one value over another")
            covered += (n - 1) * step
