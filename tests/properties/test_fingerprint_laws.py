"""What never changes an identity, what always does, and what hostile bytes may do."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from makers import Array, container, model_bytes, raw, write_sharded
from tensors import halves, models, names, tensors

from lineage.errors import FormatError, LineageError
from lineage.fingerprints import Fingerprint, fingerprint, from_bytes, to_bytes

MODEL = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.ones((2, 2), np.float16),
    "c": np.array(3, np.int64),
}
FILE = model_bytes(MODEL, metadata={"format": "pt"})


def of_bytes(data: bytes) -> Fingerprint:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        path.write_bytes(data)
        return fingerprint(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), model=models())
def test_container_order_metadata_and_padding_never_change_an_identity(
    data: st.DataObject, model: dict[str, Array]
) -> None:
    made = fingerprint(model)
    order = data.draw(st.permutations(list(model)))
    metadata = data.draw(st.none() | st.dictionaries(names, names, max_size=2))
    pad = data.draw(st.integers(0, 40))
    filed = of_bytes(model_bytes(model, order=order, metadata=metadata, pad=pad))
    assert to_bytes(filed) == to_bytes(made)
    assert to_bytes(fingerprint({name: model[name] for name in order})) == to_bytes(made)
    assert to_bytes(from_bytes(to_bytes(made))) == to_bytes(made)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), model=models())
def test_shards_never_change_an_identity(data: st.DataObject, model: dict[str, Array]) -> None:
    count = data.draw(st.integers(1, len(model)))
    order = data.draw(st.permutations(list(model)))
    shards = [{name: model[name] for name in order[n::count]} for n in range(count)]
    with TemporaryDirectory() as folder:
        index = data.draw(st.booleans())
        found = fingerprint(write_sharded(Path(folder) / "m", shards, index=index))
    assert to_bytes(found) == to_bytes(fingerprint(model))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), model=models())
def test_any_flipped_bit_changes_the_root(data: st.DataObject, model: dict[str, Array]) -> None:
    sized = [name for name, tensor in model.items() if tensor.nbytes and tensor.dtype != np.bool_]
    assume(sized)
    name = data.draw(st.sampled_from(sized))
    array = model[name]
    flipped = np.frombuffer(raw(array), np.uint8).copy()
    flipped[data.draw(st.integers(0, array.nbytes - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = flipped.view(array.dtype).reshape(array.shape)
    one, other = fingerprint(model), fingerprint({**model, name: changed})
    assert one.root != other.root
    assert one.content_id != other.content_id
    assert one.manifest_sha256 != other.manifest_sha256


@settings(max_examples=60, deadline=None)
@given(data=st.data(), model=models())
def test_a_renamed_tensor_changes_the_root_alone(
    data: st.DataObject, model: dict[str, Array]
) -> None:
    old = data.draw(st.sampled_from(list(model)))
    new = data.draw(names.filter(lambda name: name not in model))
    renamed = {new if name == old else name: tensor for name, tensor in model.items()}
    one, other = fingerprint(model), fingerprint(renamed)
    assert one.root != other.root
    assert (one.content_id, one.value_id) == (other.content_id, other.value_id)


@settings(max_examples=60, deadline=None)
@given(array=tensors())
def test_another_dtype_or_shape_over_the_same_bytes_changes_the_root(array: Array) -> None:
    root = fingerprint({"w": array}).root
    same_width = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}[array.dtype.itemsize]
    if array.dtype != np.dtype(same_width):
        assert fingerprint({"w": array.view(same_width)}).root != root
    assert fingerprint({"w": array[None]}).root != root
    if array.ndim > 1:
        assert fingerprint({"w": array.reshape(-1)}).root != root


@settings(max_examples=60, deadline=None)
@given(array=halves(), wide=st.sampled_from(["f4", "f8"]))
def test_a_lossless_cast_keeps_the_value_id(array: Array, wide: str) -> None:
    one, other = fingerprint({"w": array}), fingerprint({"w": array.astype(wide)})
    assert one.value_id == other.value_id
    assert one.root != other.root


@settings(max_examples=60, deadline=None)
@given(array=halves(), data=st.data())
def test_different_values_have_different_value_ids(array: Array, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, array.size - 1))
    other = array.astype(np.float32)
    before = float(other.reshape(-1)[place])
    assume(np.isfinite(before))
    other.reshape(-1)[place] = np.nextafter(np.float32(before), np.float32(3))
    assume(float(other.reshape(-1)[place]) != before)
    assert fingerprint({"w": array}).value_id != fingerprint({"w": other}).value_id


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(FormatError):
        of_bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "F4", "BOOL", "C64"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=6), entries | json_values), size=st.integers(0, 40))
def test_any_header_is_read_or_refused_in_one_way(header: dict[str, Any], size: int) -> None:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    try:
        of_bytes(container(text, bytes(size)))
    except FormatError as error:
        assert "\n" not in str(error)
        assert str(error).isprintable()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_way(data: st.DataObject) -> None:
    mutated = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        mutated[place] = data.draw(st.sampled_from(b'0123456789"{}[],:-ef\x00\xff') | _bytes)
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    try:
        found = of_bytes(bytes(mutated))
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        changed = _payload(bytes(mutated)) != _payload(FILE)
        assert not changed or found.root != of_bytes(FILE).root


_bytes = st.integers(0, 255)


def _payload(data: bytes) -> tuple[Any, bytes]:
    """What the file says, without its metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, data[8 + length :]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_fingerprint_is_read_or_refused_in_one_way(data: st.DataObject) -> None:
    mutated = bytearray(STORED)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        mutated[place] = data.draw(st.sampled_from(b'0123456789"{}[],:-ef\x00\xff') | _bytes)
    try:
        from_bytes(bytes(mutated))
    except LineageError as error:
        assert "\n" not in str(error)


STORED = to_bytes(fingerprint(MODEL))
