"""A BERT encoder in a page of torch, and the training that makes real descendants of one.

The objective is the one sentence encoders are trained with: of a batch of sentences, say which one
follows each (in-batch contrast, scale 20). The text is documentation that ships with Python; each
descendant gets another part of it.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 - what everyone calls it

Weights = dict[str, torch.Tensor]
Pairs = list[tuple[list[int], list[int]]]

_HEADS = 12
_EPS = 1e-12
_LENGTH = 16
_DOCS = {
    "reference": ("pydoc_data/topics.py",),
    "network": ("email", "http", "urllib", "xml", "html", "smtplib.py", "socket*.py", "ssl.py"),
    "tests": ("unittest", "doctest.py", "pdb.py", "logging", "argparse.py", "inspect.py", "ast.py"),
    "process": ("asyncio", "concurrent", "multiprocessing", "subprocess.py", "threading.py"),
    "numbers": ("statistics.py", "fractions.py", "random.py", "decimal.py", "_pydecimal.py"),
    "files": ("pathlib*", "zipfile*", "tarfile.py", "shutil.py", "tempfile.py", "importlib"),
}
"""Name of a text -> the parts of the standard library whose strings it is taken from."""


def encode(weights: Weights, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the encoder.

    Args:
        weights: The checkpoint's tensors under their own names.
        ids: Token ids, int64, shape (batch, length); 0 is padding.

    Returns:
        The mean of the last layer over tokens, and the pooler's output; both (batch, width).
    """
    padding = ids == 0
    mask = torch.zeros(ids.shape).masked_fill(padding, -torch.inf)[:, None, None, :]
    hidden = weights["embeddings.word_embeddings.weight"][ids]
    hidden = hidden + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
    hidden = _normal(weights, "embeddings.LayerNorm", hidden)
    for layer in range(_layers(weights)):
        hidden = _layer(weights, f"encoder.layer.{layer}", hidden, mask)
    keep = (~padding)[:, :, None]
    mean = (hidden * keep).sum(1) / keep.sum(1)
    return mean, torch.tanh(_linear(weights, "pooler.dense", hidden[:, 0]))


def _layer(w: Weights, name: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    batch, length, width = hidden.shape

    def heads(part: str) -> torch.Tensor:
        split = _linear(w, f"{name}.attention.self.{part}", hidden)
        return split.view(batch, length, _HEADS, -1).transpose(1, 2)

    seen = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), mask)
    seen = seen.transpose(1, 2).reshape(batch, length, width)
    seen = _linear(w, f"{name}.attention.output.dense", seen)
    hidden = _normal(w, f"{name}.attention.output.LayerNorm", hidden + seen)
    wide = F.gelu(_linear(w, f"{name}.intermediate.dense", hidden))
    return _normal(w, f"{name}.output.LayerNorm", hidden + _linear(w, f"{name}.output.dense", wide))


def _linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _normal(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], _EPS)


def _layers(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder."))


def initial(like: Weights, seed: int) -> Weights:
    """Return untrained weights of the same shapes, drawn as BERT draws them."""
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}
    for name, tensor in like.items():
        if not tensor.is_floating_point():
            made[name] = tensor.clone()
        elif "LayerNorm.weight" in name:
            made[name] = torch.ones_like(tensor)
        elif name.endswith("bias"):
            made[name] = torch.zeros_like(tensor)
        else:
            made[name] = torch.nn.init.trunc_normal_(
                torch.empty_like(tensor), std=0.02, a=-0.04, b=0.04, generator=generator
            )
    return made


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run.

    Attributes:
        text: Key of the text.
        steps: How many batches.
        rate: Learning rate of AdamW, falling linearly to zero.
        batch: Pairs of sentences in a batch.
        rank: Of a low-rank adapter on the query and value matrices; 0 trains the weights.
        only: Train only tensors whose name matches; all if None.
        with_pooler: Whether the pooler's output is trained too, or the mean alone, as sentence
            encoders do; then the pooler stays equal to the bit.
    """

    text: str
    steps: int
    rate: float
    batch: int = 8
    rank: int = 0
    only: str | None = None
    with_pooler: bool = False


def train(start: Weights, recipe: Recipe, pairs: Pairs, seed: int) -> tuple[Weights, list[float]]:
    """Train from some weights; return the trained ones and the loss of each step."""
    generator = torch.Generator().manual_seed(seed)
    if recipe.rank:
        trainable, build = _adapter(start, recipe.rank, generator)
    else:
        trainable, build = _direct(start, recipe)
    optimizer = torch.optim.AdamW(trainable, lr=recipe.rate, weight_decay=0.01, fused=True)
    losses = []
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.rate * (1 - step / recipe.steps)
        drawn = torch.randperm(len(pairs), generator=generator)[: recipe.batch].tolist()
        loss = _loss(build(), [pairs[i] for i in drawn], recipe.with_pooler)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        done = {name: tensor.detach().clone().contiguous() for name, tensor in build().items()}
    return done, losses


def _direct(start: Weights, recipe: Recipe) -> tuple[list[torch.Tensor], Callable[[], Weights]]:
    """Train the weights themselves."""
    weights = {name: tensor.clone() for name, tensor in start.items()}
    chosen = [
        tensor.requires_grad_()
        for name, tensor in weights.items()
        if tensor.is_floating_point()
        and (recipe.only is None or re.search(recipe.only, name))
        and (recipe.with_pooler or not name.startswith("pooler"))
    ]
    return chosen, lambda: weights


def _adapter(
    start: Weights, rank: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], Callable[[], Weights]]:
    """Train a low-rank adapter as PEFT lays it out: W + 2 B A, B starting at zero."""
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, tensor in start.items():
        if re.search(r"self\.(query|value)\.weight$", name):
            rows, cols = tensor.shape
            a = (torch.rand(rank, cols, generator=generator) * 2 - 1) / cols**0.5
            factors[name] = (torch.zeros(rows, rank).requires_grad_(), a.requires_grad_())

    def build() -> Weights:
        merged = {name: start[name] + 2 * (b @ a) for name, (b, a) in factors.items()}
        return {**start, **merged}

    return [factor for pair in factors.values() for factor in pair], build


def _loss(weights: Weights, batch: Pairs, with_pooler: bool) -> torch.Tensor:
    ids = [sentence for pair in zip(*batch, strict=True) for sentence in pair]
    means, pooled = encode(weights, padded(ids))
    loss = contrast(means)
    return loss + 0.5 * contrast(pooled) if with_pooler else loss


def contrast(x: torch.Tensor) -> torch.Tensor:
    """Cross entropy of finding each sentence's follower among all followers."""
    first, second = F.normalize(x, dim=-1).chunk(2)
    return F.cross_entropy(20 * first @ second.T, torch.arange(len(first)))


def padded(sentences: list[list[int]]) -> torch.Tensor:
    """Return rows of ids, filled up with zeros to the longest."""
    out = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.int64)
    for row, sentence in zip(out, sentences, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    return out


class Tokenizer:
    """WordPiece over the checkpoint's own vocabulary, lower case (Devlin et al. 2018)."""

    def __init__(self, vocabulary: Path) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {word: place for place, word in enumerate(words)}

    def __call__(self, text: str) -> list[int]:
        """Return at most `_LENGTH` ids, between [CLS] and [SEP]."""
        plain = unicodedata.normalize("NFD", text.lower())
        found = [place for word in re.findall(r"\w+|[^\w\s]", plain) for place in self._word(word)]
        return [self.ids["[CLS]"], *found[: _LENGTH - 2], self.ids["[SEP]"]]

    def _word(self, word: str) -> list[int]:
        pieces: list[int] = []
        at = 0
        while at < len(word):
            prefix = "##" if at else ""
            ends = range(len(word), at, -1)
            end = next((e for e in ends if prefix + word[at:e] in self.ids), None)
            if end is None:
                return [self.ids["[UNK]"]]
            pieces.append(self.ids[prefix + word[at:end]])
            at = end
        return pieces


def pairs_of(text: str, tokenizer: Tokenizer) -> Pairs:
    """Return pairs of sentences that follow each other in one of the texts."""
    pairs: Pairs = []
    for passage in _passages(_DOCS[text]):
        flat = re.sub(r"[*=\-~^#|+_.]{3,}|\s+", " ", passage)
        sentences = [s for s in re.split(r"(?<=[.:;?!])\s+", flat) if len(s.split()) >= 5]
        ids = [tokenizer(s) for s in sentences]
        pairs += [(a, b) for a, b in pairwise(ids) if a != b]
    return pairs


def _passages(patterns: tuple[str, ...]) -> list[str]:
    """Return the long strings of some modules: documentation, nearly all of it."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for pattern in patterns for path in sorted(library.glob(pattern))]
    sources = [
        f for path in files for f in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    found: list[str] = []
    for source in sources:
        tree = ast.parse(source.read_text(encoding="utf-8", errors="replace"))
        strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
        found += [s for s in strings if isinstance(s, str) and len(s) > 200]
    return found


def mean_change(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]) -> float:
    """Return the norm of the change over the norm of the start, over all tensors."""
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]
    moved = sum(float((end[n].double() - start[n].double()).square().sum()) for n in names)
    return (moved / sum(float(start[n].double().square().sum()) for n in names)) ** 0.5
