"""Quantizers: round to nearest, and return what a loader computes from the stored levels."""

from __future__ import annotations

from collections.abc import Callable

import torch


def _blocks(matrix: torch.Tensor, size: int) -> tuple[torch.Tensor, int]:
    """Return a matrix as blocks along its rows, filled up with zeros, and how many were added."""
    missing = -matrix.shape[1] % size
    filled = torch.nn.functional.pad(matrix, (0, missing))
    return filled.reshape(matrix.shape[0], -1, size), missing


def _unblocked(blocks: torch.Tensor, missing: int) -> torch.Tensor:
    flat = blocks.flatten(1)
    return flat[:, : flat.shape[1] - missing]


def _int8_rows(matrix: torch.Tensor) -> torch.Tensor:
    scale = matrix.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (matrix / scale).round() * scale


def _int4_groups(matrix: torch.Tensor) -> torch.Tensor:
    """Sixteen levels between the least and the greatest of each 32 (asymmetric)."""
    blocks, missing = _blocks(matrix, 32)
    low, high = blocks.amin(2, keepdim=True), blocks.amax(2, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-12)
    zero = (-low / scale).round()
    levels = ((blocks / scale).round() + zero).clamp(0, 15)
    return _unblocked((levels - zero) * scale, missing)


def _int4_symmetric(matrix: torch.Tensor) -> torch.Tensor:
    blocks, missing = _blocks(matrix, 64)
    scale = (blocks.abs().amax(2, keepdim=True) / 7).clamp_min(1e-12)
    return _unblocked((blocks / scale).round().clamp(-8, 7) * scale, missing)


def _fp8_cast(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.to(torch.float8_e4m3fn).float()


def _fp8_scaled(matrix: torch.Tensor) -> torch.Tensor:
    """One scale for the matrix, its greatest value at the end of the range."""
    scale = matrix.abs().max().clamp_min(1e-12) / 448
    return (matrix / scale).to(torch.float8_e4m3fn).float() * scale


def _q8_0(matrix: torch.Tensor) -> torch.Tensor:
    """GGUF Q8_0: blocks of 32, a half-precision scale."""
    blocks, missing = _blocks(matrix, 32)
    scale = (blocks.abs().amax(2, keepdim=True) / 127).half().float()
    levels = torch.where(scale > 0, (blocks / scale.clamp_min(1e-12)).round(), 0.0)
    return _unblocked(levels * scale, missing)


def _q4_0(matrix: torch.Tensor) -> torch.Tensor:
    """GGUF Q4_0: blocks of 32, the greatest value at level -8, a half-precision scale."""
    blocks, missing = _blocks(matrix, 32)
    place = blocks.abs().argmax(2, keepdim=True)
    exact = blocks.gather(2, place) / -8
    scale = exact.half().float()
    inverse = torch.where(exact != 0, 1 / exact, 0.0)
    levels = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8
    return _unblocked(levels * scale, missing)


SCHEMES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "int8-rows": (_int8_rows, "int8"),
    "int4-groups-of-32": (_int4_groups, "int4"),
    "int4-symmetric-groups-of-64": (_int4_symmetric, "int4"),
    "fp8-cast": (_fp8_cast, "fp8"),
    "fp8-scaled": (_fp8_scaled, "fp8"),
    "gguf-q8_0": (_q8_0, "int8"),
    "gguf-q4_0": (_q4_0, "int4"),
}
