"""Networks as one writes them on an afternoon: layers one after the other, over small pictures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from recipes import Shape
from torch import nn

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
_NORMS = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def perceptron(
    shape: Shape, *, image_size: int, num_labels: int, activation: str, norm: str, start: str
) -> nn.Sequential:
    """Return linear layers with a head, for pictures of shape (batch, 1, size, size).

    Args:
        shape: Layers, and the width of each.
        image_size: Pixels of a side.
        num_labels: Classes.
        activation: `relu`, `gelu`, `tanh` or `silu`.
        norm: After every layer: `layer`, `batch` or `none`.
        start: How the first weights are drawn: `pytorch`, `xavier` or `he`.
    """
    made = nn.Sequential()
    made.add_module("flat", nn.Flatten())
    for number, (before, width) in enumerate(
        pairwise([image_size**2, *[shape.mlp] * shape.layers])
    ):
        made.add_module(f"fc{number}", nn.Linear(before, width))
        if norm != "none":
            made.add_module(f"norm{number}", _NORMS[norm](width))
        made.add_module(f"act{number}", _ACTIVATIONS[activation]())
    made.add_module("head", nn.Linear(shape.mlp, num_labels))
    return _begun(made, start)


def convolutions(
    shape: Shape, *, image_size: int, num_labels: int, activation: str, norm: str, start: str
) -> nn.Sequential:
    """Return convolutions with a head; every second one halves the picture and doubles the width.

    The arguments are those of `perceptron`; with norms, the mean over the picture goes into the
    head, without them all of it.
    """
    made = nn.Sequential()
    before, size = 1, image_size
    for number, (width, stride) in enumerate(_widths(shape)):
        made.add_module(f"conv{number}", nn.Conv2d(before, width, 3, stride, 1))
        if norm != "none":
            made.add_module(f"norm{number}", nn.BatchNorm2d(width))
        made.add_module(f"act{number}", _ACTIVATIONS[activation]())
        before, size = width, -(-size // stride)
    if norm != "none":
        made.add_module("mean", nn.AdaptiveAvgPool2d(1))
        size = 1
    made.add_module("flat", nn.Flatten())
    made.add_module("head", nn.Linear(before * size**2, num_labels))
    return _begun(made, start)


def _widths(shape: Shape) -> Iterator[tuple[int, int]]:
    width = shape.mlp
    for number in range(shape.layers):
        yield width, 1 + number % 2
        width *= 1 + number % 2


def _begun(module: nn.Sequential, start: str) -> nn.Sequential:
    """Draw the first weights by another rule than PyTorch's own, if one is named."""
    for layer in module:
        if start != "pytorch" and isinstance(layer, nn.Linear | nn.Conv2d):
            draw = nn.init.xavier_uniform_ if start == "xavier" else nn.init.kaiming_normal_
            draw(layer.weight)
            nn.init.zeros_(layer.bias)
    return module
