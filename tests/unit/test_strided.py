"""Values that lie in strides come in row-major order, whatever the pieces, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import Array
from torch_bytes import within

from lineage.artifacts import strided
from lineage.artifacts.strided import Strided, Swapped, Window


@dataclass
class Memory:
    """A source that counts what is asked of it."""

    data: Any
    calls: int = 0
    asked: int = 0
    longest: int = 0

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        self.calls += 1
        self.asked += size
        self.longest = max(size, self.longest)
        assert 0 <= start <= start + size <= len(self.data)
        scratch[:size] = self.data[start : start + size]
        return scratch[:size]


def lying(array: Array, view: Array) -> tuple[Strided, Memory]:
    """A source of a view's values, and of what lies under it."""
    memory = Memory(memoryview(array.reshape(-1).view(np.uint8)))
    steps = tuple(step // array.itemsize for step in view.strides)
    first = view.__array_interface__["data"][0] - array.__array_interface__["data"][0]
    return Strided(memory, array.itemsize, view.shape, steps, first), memory


def content(source: Any, size: int, step: int) -> bytes:
    scratch = memoryview(bytearray(step))
    return b"".join(
        bytes(source.piece(at, min(step, size - at), scratch)) for at in range(0, size, step)
    )


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_view_comes_in_order(monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setattr(strided, "_HELD_BYTES", data.draw(st.sampled_from([8, 64, 1 << 20])))
    monkeypatch.setattr(strided, "_RUN", data.draw(st.sampled_from([8, 40, 1 << 16])))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = np.arange(int(np.prod(shape)), dtype="<i8").reshape(shape)
    view = array.transpose(data.draw(st.permutations(range(array.ndim))))
    view = view[tuple(slice(None, None, data.draw(st.integers(1, 2))) for _ in shape)]
    if data.draw(st.booleans()):
        view = np.broadcast_to(view, (data.draw(st.integers(1, 4)), *view.shape))
    source, _ = lying(array, view)
    step = data.draw(st.integers(1, view.nbytes + 3))
    assert content(source, view.nbytes, step) == view.tobytes()
    assert content(source, view.nbytes, step) == view.tobytes()


def test_a_transposed_matrix_takes_little_memory_and_few_readings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strided, "_HELD_BYTES", 1 << 20)
    array = np.arange(5_000_000, dtype=np.int32).reshape(10_000, 500)
    source, memory = lying(array, array.T)
    step = 1 << 18
    scratch = memoryview(bytearray(step))
    with within(8 << 20):
        for start in range(0, array.nbytes, step):
            size = min(step, array.nbytes - start)
            got = np.frombuffer(source.piece(start, size, scratch), np.int32)
            rows, columns = np.divmod(start // 4 + np.arange(0, size // 4, 997), 10_000)
            np.testing.assert_array_equal(got[::997], columns * 500 + rows)
    assert memory.calls < 30_000
    assert memory.asked < 40 * array.nbytes
    assert memory.longest <= strided._HELD_BYTES


def test_what_was_gathered_is_let_go_at_the_end() -> None:
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    source, _ = lying(array, array.T)
    assert content(source, 24, 5) == array.T.tobytes()
    assert source._held == b""


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("step", [1, 3, 8, 100])
def test_big_endian_numbers_are_turned(width: int, step: int) -> None:
    values = np.arange(40, dtype=f"<u{width}") + 1000
    source = Swapped(Memory(memoryview(values.astype(f">u{width}").tobytes())), width)
    assert content(source, values.nbytes, step) == values.tobytes()


def test_a_window_begins_where_it_says() -> None:
    assert content(Window(Memory(memoryview(b"0123456789")), 4), 5, 2) == b"45678"
