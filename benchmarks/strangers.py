"""Whether networks that share everything but their first weights are called related.

    python benchmarks/strangers.py [--kinds lm cnn tones] [--count 101] [--json FILE]

Of each kind many small networks are trained on the same batches in the same order by the same
recipe; the seed chooses the initial weights and nothing else. The files hold what such networks
have in common: causal masks, sine positions, fixed filters, statistics of batch normalisation,
counters, gains that began as ones, matrices that began as zeros. Some are stopped after a few
steps. Beside them a few are trained on, as a control: a test that finds nothing may be blind.

Exit status 1 if a pair of strangers is called related, or a control is not; 3 if it cannot run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - what everyone calls it

HOME = Path(__file__).resolve().parents[1]
VERSION = 1
"""Of everything that decides a network's weights: others are made anew."""

SHORT_STEPS = (0, 1, 4, 16)
"""Where the networks that are stopped early are stopped, in turn."""

CONTROLS, CONTROL_STEPS = 5, 40
"""Networks of each kind that are trained on with other batches, and for how long."""

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


def make(kind: str, number: int, steps: int, file: Path) -> tuple[str, float]:
    """Train one network from its own first weights and save it."""
    torch.set_num_threads(1)
    torch.manual_seed(1_000_000 + number)
    module = KINDS[kind].build()
    loss = train(kind, module, steps, seed=0)
    _save(module, file)
    return file.stem, loss


def make_control(kind: str, source: Path, file: Path) -> tuple[str, float]:
    """Train a network on with other batches and save it."""
    torch.set_num_threads(1)
    module = KINDS[kind].build()
    module.load_state_dict(load_file(source))
    loss = train(kind, module, CONTROL_STEPS, seed=1)
    _save(module, file)
    return file.stem, loss


def _save(module: nn.Module, file: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    part = file.with_suffix(".part")
    save_file(weights, part)
    part.replace(file)


def family(kind: str, count: int, short: int, folder: Path, workers: int) -> dict[str, list[str]]:
    """Make what is missing of a kind and return the names by what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    full = {f"full-{n:03d}": (n, KINDS[kind].steps) for n in range(count)}
    brief = {
        f"short-{n:03d}-{SHORT_STEPS[n % len(SHORT_STEPS)]}":
            (count + n, SHORT_STEPS[n % len(SHORT_STEPS)])
        for n in range(short)
    }  # fmt: skip
    controls = {f"control-{n:03d}": f"full-{n:03d}" for n in range(min(CONTROLS, count))}
    with ProcessPoolExecutor(workers) as pool:
        made = [
            pool.submit(make, kind, number, steps, folder / f"{name}.safetensors")
            for name, (number, steps) in {**full, **brief}.items()
            if not (folder / f"{name}.safetensors").exists()
        ]
        _wait(kind, made)
        made = [
            pool.submit(make_control, kind, folder / f"{source}.safetensors",
                        folder / f"{name}.safetensors")
            for name, source in controls.items()
            if not (folder / f"{name}.safetensors").exists()
        ]  # fmt: skip
        _wait(kind, made)
    return {"full": list(full), "short": list(brief), "control": list(controls)}


def _wait(kind: str, made: Sequence[Any]) -> None:
    for number, future in enumerate(made):
        name, loss = future.result()
        if number % 20 == 0:
            print(f"{kind}: {name}, loss {loss:.3f}", file=sys.stderr, flush=True)


def inferred(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what `lineage infer` prints about some models, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lineage", "infer", *map(str, paths), "--json"],
        env={**os.environ, "PYTHONPATH": str(HOME)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["infer failed"])[-1])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def compared(paths: Sequence[Path]) -> Iterator[tuple[str, str, Any]]:
    """Yield what `compare` says of every pair, each alone."""
    from lineage.evidence import compare_fingerprints
    from lineage.fingerprints import fingerprint

    prints = {path.stem: fingerprint(path) for path in paths}
    for a, b in combinations(prints, 2):
        yield a, b, compare_fingerprints(prints[a], prints[b])


def _unequal(paths: Sequence[Path]) -> Iterator[float]:
    """Yield the cosine of every pair over the matrices that are not equal."""
    from lineage.evidence.kinship import kinship
    from lineage.evidence.pairing import pair
    from lineage.fingerprints import fingerprint

    prints = [fingerprint(path) for path in paths]
    for one, other in combinations(prints, 2):
        found = kinship(pair(one, other)).others_cosine
        if found is not None:
            yield found


def shared(one: Path, other: Path) -> float:
    """Return the share of the values in matrices that two networks have in common."""
    from lineage.evidence.kinship import kinship
    from lineage.evidence.pairing import pair
    from lineage.fingerprints import fingerprint

    return kinship(pair(fingerprint(one), fingerprint(other))).equal_share


def measured(kind: str, folder: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    """Count what is said of all pairs of strangers, and of the controls with their models."""
    from scipy.special import ndtri_exp

    strangers = [folder / f"{name}.safetensors" for name in (*names["full"], *names["short"])]
    controls = [folder / f"{name}.safetensors" for name in names["control"]]
    sources = {name: name.replace("control", "full") for name in names["control"]}
    everything = strangers + controls

    def is_kin(a: str, b: str) -> bool:
        return sources.get(a, a) == sources.get(b, b)

    started = perf_counter()
    told = inferred(everything)
    seconds = perf_counter() - started
    stems = {str(path): path.stem for path in everything}
    pairs = [(stems[p["a"]], stems[p["b"]], p) for p in told["pairs"]]
    apart = [p for a, b, p in pairs if not is_kin(a, b)]
    kin = [p for a, b, p in pairs if is_kin(a, b)]
    edges = [e for e in told["edges"] if not is_kin(stems[e["parent"]], stems[e["child"]])]
    alone = [(found, is_kin(a, b)) for a, b, found in compared(everything)]
    others = [found for found, kin_ in alone if not kin_]
    unequal = np.array(list(_unequal(strangers)))
    logs = np.array([found.log10_p for found in others if found.log10_p is not None])
    return {
        "kind": kind, "networks": len(strangers), "fully trained": len(names["full"]),
        "steps": KINDS[kind].steps, "pairs": len(apart), "seconds of infer": round(seconds, 2),
        "infer related": sum(p["related"] is True for p in apart),
        "infer open": sum(p["related"] is None for p in apart),
        "infer edges": len(edges),
        "compare related": sum(f.related is True for f in others),
        "compare open": sum(f.related is None for f in others),
        "compare relation": sum(f.relation is not None for f in others),
        "largest score": max(f.score for f in others),
        "largest cosine of unequal matrices": float(unequal.max()),
        "one in a hundred above": float(np.quantile(unequal, 0.99)),
        "smallest log10_p": float(logs.min()) if len(logs) else None,
        "deviates rms": float(np.sqrt(np.mean(ndtri_exp(logs * np.log(10)) ** 2)))
        if len(logs) else None,
        "equal share": shared(*strangers[:2]),
        "controls": len(kin), "controls infer related": sum(p["related"] is True for p in kin),
        "controls compare related": sum(f.related is True for f, k in alone if k),
        "least score of a control": min(f.score for f, k in alone if k),
    }  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| | " + " | ".join(row["kind"] for row in rows) + " |",
        "| --- |" + " --- |" * len(rows),
    ]
    for name in [name for name in rows[0] if name != "kind"]:
        shown = (f"{v:.3g}" if isinstance(v := row[name], float) else str(v) for row in rows)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> int:
    sys.path.insert(0, str(HOME))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--count", type=int, default=101, help="fully trained, of each kind")
    parser.add_argument("--short", type=int, default=20, help="stopped early, of each kind")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, metavar="FILE")
    cached = HOME / "benchmarks" / ".cache" / f"strangers-{VERSION}"
    parser.add_argument("--work", type=Path, default=cached, metavar="DIR")
    options = parser.parse_args()
    if options.count < 2:
        parser.error("--count is at least 2")
    rows = []
    for kind in options.kinds:
        names = family(kind, options.count, options.short, options.work / kind, options.workers)
        rows.append(measured(kind, options.work / kind, names))
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps({"version": VERSION, "rows": rows}, indent=1) + "\n")
    is_wrong = any(
        row["infer related"] or row["compare related"] or row["infer edges"]
        or row["controls infer related"] < row["controls"]
        or row["controls compare related"] < row["controls"]
        for row in rows
    )  # fmt: skip
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
