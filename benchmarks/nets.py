"""Three small networks and their recipes, for `strangers.py`: a language model, images, tones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - what everyone calls it

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Kind:
    """A network and its recipe.

    Attributes:
        build: Makes the network from the global generator, which the caller seeds.
        batch: Draws inputs and labels.
        steps: Of a full training.
        rate: AdamW's.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    steps: int
    rate: float


class Block(nn.Module):
    """A block of a transformer, the way out of each half zero at first."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend_norm, self.mlp_norm = nn.RMSNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.relative = nn.Parameter(torch.zeros(heads, context))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)
        self.register_buffer("mask", torch.ones(context, context).tril()[None, None])
        place = torch.arange(context)
        self.register_buffer("behind", (place[:, None] - place).clamp(min=0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what attention and neurons say."""
        n, length, width = x.shape
        parts = self.qkv(self.attend_norm(x)).view(n, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + self.relative[:, self.behind]
        scores = scores.masked_fill(self.mask == 0, -1e9).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Language(nn.Module):
    """A language model of bytes with fixed positions."""

    WIDTH, CONTEXT, BYTES = 64, 48, 128

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(self.BYTES, self.WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(self.WIDTH, 4, self.CONTEXT) for _ in range(2))
        self.norm = nn.RMSNorm(self.WIDTH)
        self.head = nn.Linear(self.WIDTH, self.BYTES, bias=False)
        rate = 10000 ** -(torch.arange(0, self.WIDTH, 2) / self.WIDTH)
        angle = torch.arange(self.CONTEXT)[:, None] * rate
        self.register_buffer("positions", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits of the next bytes."""
        x = self.embed(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)


class Images(nn.Module):
    """A residual network of digits behind a fixed bank of filters."""

    WIDTH = 32

    def __init__(self) -> None:
        super().__init__()
        place = torch.linspace(-1, 1, 5)
        y, x = torch.meshgrid(place, place, indexing="ij")
        turns = torch.arange(16) * torch.pi / 16
        along = x * turns.cos()[:, None, None] + y * turns.sin()[:, None, None]
        bank = torch.exp(-(x**2 + y**2)) * torch.cos(5 * along)
        self.register_buffer("filters", bank[:, None])
        self.stem = nn.Conv2d(17, self.WIDTH, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"one": nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1, bias=False),
                 "one_norm": nn.BatchNorm2d(self.WIDTH),
                 "two": nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1, bias=False),
                 "two_norm": nn.BatchNorm2d(self.WIDTH)}
            ) for _ in range(2)
        )  # fmt: skip
        for layer in self.layers:
            nn.init.zeros_(layer["two_norm"].weight)
        self.head = nn.Linear(self.WIDTH, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits of the digits."""
        x = self.stem(torch.cat([images, F.conv2d(images, self.filters, padding=2)], 1))
        for layer in self.layers:
            inside = F.relu(layer["one_norm"](layer["one"](x)))
            x = F.relu(x + layer["two_norm"](layer["two"](inside)))
        return self.head(x.mean((2, 3)))


class Tones(nn.Module):
    """A listener of tones: a fixed Fourier basis, which is most of its values, and two layers."""

    LENGTH, STEP, BANDS = 128, 64, 24

    def __init__(self) -> None:
        super().__init__()
        angle = 2 * torch.pi * torch.outer(torch.arange(64), torch.arange(self.LENGTH))
        angle = angle / self.LENGTH
        window = torch.hann_window(self.LENGTH)
        basis = torch.cat([angle.cos(), angle.sin()]) * window
        self.register_buffer("basis", basis[:, None])
        bands = torch.relu(1 - (torch.arange(64) / 64 * 25 - torch.arange(1, 25)[:, None]).abs())
        self.register_buffer("bands", bands)
        self.one = nn.Conv1d(self.BANDS, 48, 3)
        self.norm = nn.BatchNorm1d(48)
        self.two = nn.Linear(48, 12)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Return logits of the pitches."""
        parts = F.conv1d(sound[:, None], self.basis, stride=self.STEP)
        power = parts[:, :64] ** 2 + parts[:, 64:] ** 2
        bands = (self.bands @ power + 1e-3).log()
        return self.two(F.relu(self.norm(self.one(bands))).mean(2))


@cache
def _text() -> torch.Tensor:
    import pydoc_data.topics

    words = Path(pydoc_data.topics.__file__).read_bytes()
    return torch.from_numpy(np.frombuffer(words, np.uint8) % Language.BYTES).long()


def _sentences(draw: torch.Generator) -> Batch:
    length = Language.CONTEXT
    starts = torch.randint(len(_text()) - length - 1, (16,), generator=draw)
    rows = _text()[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]


@cache
def _digits() -> Batch:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16).float().view(-1, 1, 8, 8), torch.tensor(labels).long()


def _images(draw: torch.Generator) -> Batch:
    images, labels = _digits()
    chosen = torch.randint(len(labels), (64,), generator=draw)
    return images[chosen], labels[chosen]


def _sounds(draw: torch.Generator) -> Batch:
    labels = torch.randint(12, (32,), generator=draw)
    time = torch.arange(512) / 512
    pitch = 20 * 2 ** (labels / 4)
    phase = torch.rand(32, generator=draw)
    tones = torch.sin(2 * torch.pi * (pitch[:, None] * time + phase[:, None]))
    return tones + 0.5 * torch.randn(32, 512, generator=draw), labels


KINDS = {
    "lm": Kind(Language, _sentences, 250, 3e-3),
    "cnn": Kind(Images, _images, 200, 3e-3),
    "tones": Kind(Tones, _sounds, 300, 3e-3),
}


def train(kind: str, module: nn.Module, steps: int, seed: int) -> float:
    """Train a network with the batches of a seed and return the last loss."""
    recipe = KINDS[kind]
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), recipe.rate, weight_decay=0.01)
    module.train()
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        inputs, labels = recipe.batch(draw)
        loss = F.cross_entropy(module(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())
