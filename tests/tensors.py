"""Hypothesis strategies for tensors and models."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from makers import Array, as_bfloat16

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12
).filter(lambda name: name != "__metadata__")
"""Any name a safetensors header may hold."""

shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
"""Scalars, vectors, matrices and more, some without values."""

DTYPES = ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8", "?")

floats = st.floats(-1e4, 1e4, width=16)
"""Values that every float of 16 bits or more holds."""


@st.composite
def tensors(draw: st.DrawFn, shape: st.SearchStrategy[tuple[int, ...]] = shapes) -> Array:
    """A tensor of any dtype, its values from a seed, so that large ones cost little to draw."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = 5 * rng.normal(size=draw(shape))
    dtype = draw(st.sampled_from([*DTYPES, "bfloat16"]))
    return as_bfloat16(numbers) if dtype == "bfloat16" else np.asarray(numbers).astype(dtype)


def models(largest: int = 7) -> st.SearchStrategy[dict[str, Array]]:
    """One or more named tensors."""
    return st.dictionaries(names, tensors(), min_size=1, max_size=largest)


@st.composite
def halves(draw: st.DrawFn) -> Array:
    """A tensor of float16 or bfloat16, infinities and subnormals too, but no NaN."""
    bits = draw(arrays.arrays(np.uint16, arrays.array_shapes(max_dims=2, max_side=8)))
    bfloat = draw(st.booleans())
    dtype: Any = as_bfloat16(np.zeros(1)).dtype if bfloat else np.float16
    tensor = bits.view(dtype).copy()
    tensor[np.isnan(tensor.astype(np.float32))] = 0
    return tensor
