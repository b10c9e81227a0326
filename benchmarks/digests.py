"""Holds the digests of `file_digests` against the tools that other people get theirs from.

    python benchmarks/digests.py    # exit 0: all agree; 1: one does not; 3: a tool could not be had

A small model of two shards is hashed by `sha256sum`, `git lfs pointer` (where git-lfs is), the
upload of huggingface_hub, LyCORIS's own ModelSpec digest (where torch is) and `model_signing sign`,
then changed a little, and each time `model_signing verify` and we must give the same answer. Peers
are installed once, into `benchmarks/.cache/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import save_file

from lineage.artifacts.digests import FileDigests, file_digests

CACHE = Path(__file__).resolve().parent / ".cache" / "digests"
SIGNER = ("model-signing==1.1.1", "pyopenssl==26.4.0")
"""model-signing 1.1.1 does not start without pyopenssl, which it does not ask for."""

TRAINER = ("lycoris-lora==4.1.3", "einops==0.8.2")
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))

_LYCORIS = """
import sys, types
package = types.ModuleType("lycoris")  # not its own __init__, which wants more than the function
package.__path__ = [sys.argv[1] + "/lycoris"]
sys.modules["lycoris"] = package
sys.path.insert(0, sys.argv[1])
from lycoris.utils import precalculate_safetensors_hashes
from safetensors.torch import load_file
tensors = load_file(sys.argv[2])
for names in sys.argv[3:]:
    print(precalculate_safetensors_hashes({name: tensors[name] for name in names.split(",")}))
"""


class PeerError(Exception):
    """A tool could not be had."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        what: The digest or verdict.
        tool: What was asked.
        theirs: What it said; None if it is not here.
        ours: What we said.
        same: Whether the two should be the same.
    """

    what: str
    tool: str
    theirs: object
    ours: object
    same: bool = True

    @property
    def verdict(self) -> str:
        """Return it in a few words."""
        if self.theirs is None:
            return "not installed"
        if (self.theirs == self.ours) is not self.same:
            return "WRONG"
        return "agrees" if self.same else "differs, as it must"


def rows(work: Path) -> Iterator[Row]:
    """Yield every comparison, on a model written below `work`."""
    model = write_model(work / "tiny")
    found = file_digests(model)
    assert [file.name for file in found.files] == list(SHARDS)
    yield from whole_files(model, found)
    yield from modelspec(model, found)
    yield from subjects(work, model)


def write_model(folder: Path) -> Path:
    """Write a sharded model as hubs hold it, with names that sort in several ways."""
    rng = np.random.default_rng(7)
    shards: list[dict[str, Any]] = [
        {"b.bias": rng.normal(size=33).astype("f4"), "a.weight": rng.normal(size=(17, 9))},
        {"c.weight": rng.normal(size=(1800, 1300)).astype("f2")},  # more than one piece
    ]
    for name in ("docs/page.md", "docs.md", ".hidden", "Upper", ".gitattributes", ".github/x.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    for name, tensors in zip(SHARDS, shards, strict=True):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    where = {tensor: name for name, part in zip(SHARDS, shards, strict=True) for tensor in part}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder


def whole_files(model: Path, found: FileDigests) -> Iterator[Row]:
    """Compare the digests of whole files."""
    from huggingface_hub import CommitOperationAdd

    has_lfs = shutil.which("git-lfs") is not None
    for file in found.files:
        path = model / file.name
        yield Row(f"{file.name[:11]}, whole", "sha256sum", run("sha256sum", path)[:64], file.sha256)
        added = CommitOperationAdd(file.name, path).upload_info
        object_id = (added.sha256.hex(), added.size)
        yield Row("the same", "huggingface_hub upload", object_id, (file.sha256, file.size_bytes))
        pointer = run("git-lfs", "pointer", f"--file={path}") if has_lfs else None
        expected = (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{file.sha256}\nsize {file.size_bytes}\n"
        )
        yield Row("the same", "git lfs pointer", pointer, expected)


def modelspec(model: Path, found: FileDigests) -> Iterator[Row]:
    """Compare the digests of what follows the header."""
    for file in found.files:
        data = (model / file.name).read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        by_hand = "0x" + hashlib.sha256(body).hexdigest()
        what = f"{file.name[:11]}, ModelSpec"
        yield Row(what, "its sentence, in three lines", by_hand, file.modelspec)
    first = found.files[0]
    # The file has its tensors by size of dtype, then name: a.weight is F64 and comes first.
    told: list[str | None] = [None, None]
    if find_spec("torch") is not None:
        peer = installed_beside(CACHE / "trainer", TRAINER)
        orders = ("a.weight,b.bias", "b.bias,a.weight")
        told = [*run(sys.executable, "-c", _LYCORIS, peer, model / first.name, *orders).split()]
    yield Row("model-00001, ModelSpec", "LyCORIS, tensors as they lie", told[0], first.modelspec)
    yield Row("the same", "LyCORIS, another order", told[1], first.modelspec, same=False)


def subjects(work: Path, model: Path) -> Iterator[Row]:
    """Compare the digests of folders, and the verdicts on changed ones."""
    tool = Signer(work)
    for what, source, options in (
        ("a folder", model, ()),
        ("one file", model / SHARDS[1], ()),
        ("a hub cache", linked(model, work / "models--org--tiny"), ("--allow_symlinks",)),
    ):
        beside = source if source.is_dir() else source.parent
        signature = beside / ("model.sig" if source.is_dir() else f"{source.name}.sig")
        subject = tool.sign(source, signature, *options)
        found = file_digests(source)
        ours = None if found.oms is None else found.oms.sha256
        yield Row(f"{what}, subject", "model_signing sign", subject, ours)
        agrees = {one.file: one.agrees for one in found.signatures}.get(signature.name)
        verified = tool.verifies(source, signature, *options)
        yield Row(f"{what}, as signed", "model_signing verify", verified, agrees)
        if what == "one file":
            signature.unlink()
    for what, change in CHANGES.items():
        copy = shutil.copytree(model, work / what.replace(" ", "-"))
        change(copy)
        agrees = file_digests(copy).signatures[0].agrees
        verified = tool.verifies(copy, copy / "model.sig")
        yield Row(what, "model_signing verify", verified, agrees)


def linked(model: Path, repository: Path) -> Path:
    """Lay a model out as the hub cache does; return its snapshot."""
    snapshot = repository / "snapshots" / "c0ffee"
    (repository / "blobs").mkdir(parents=True)
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (snapshot / "model.sig").unlink(missing_ok=True)
    return snapshot


CHANGES: dict[str, Callable[[Path], object]] = {
    "unchanged": lambda folder: folder,
    "a file changed": lambda folder: (folder / "config.json").write_text("{}"),
    "a file gone": lambda folder: (folder / "docs.md").unlink(),
    "a file more": lambda folder: (folder / "docs" / "new.md").write_text(""),
    "a file renamed": lambda folder: (folder / "config.json").rename(folder / "config.yml"),
    "a git file changed": lambda folder: (folder / ".gitattributes").write_text("x"),
    "a byte of a weight": lambda folder: flip(folder / SHARDS[0]),
}
"""The renamed file keeps its place in the order, so the subject digest does not change."""


def flip(path: Path) -> None:
    """Change a file's last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class Signer:
    """The real tool, and a key to sign with."""

    def __init__(self, work: Path) -> None:
        python = environment(CACHE / "signer", SIGNER)
        self._tool = python.with_name("model_signing")
        key = ec.generate_private_key(ec.SECP256R1())
        self._secret, self._public = work / "key.pem", work / "key.pub"
        self._secret.touch(0o600)
        self._secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self._public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(self, source: Path, signature: Path, *options: str) -> str:
        """Sign a model; return the subject digest in the file that the tool wrote."""
        where = ("--private_key", self._secret, "--signature", signature)
        run(self._tool, "sign", "key", source, *where, *options)
        envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        digest: str = statement["subject"][0]["digest"]["sha256"]
        return digest

    def verifies(self, source: Path, signature: Path, *options: str) -> bool:
        """Return whether the tool takes a model for the one that was signed."""
        where = ("--public_key", self._public, "--signature", signature)
        command = [str(self._tool), "verify", "key", str(source), *map(str, where), *options]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def environment(folder: Path, pinned: tuple[str, ...]) -> Path:
    """Return the Python of an environment with these packages, made if need be."""
    python = folder / "bin" / "python"
    if not is_made(folder, pinned):
        venv.create(folder, with_pip=True, clear=True)
        run(python, "-m", "pip", "install", "--quiet", *pinned)
        (folder / "pinned.txt").write_text("\n".join(pinned))
    return python


def installed_beside(folder: Path, pinned: tuple[str, ...]) -> Path:
    """Return a folder with these packages alone, to be used with our own torch."""
    if not is_made(folder, pinned):
        shutil.rmtree(folder, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        run(*pip, "--target", folder, *pinned)
        (folder / "pinned.txt").write_text("\n".join(pinned))
    return folder


def is_made(folder: Path, pinned: tuple[str, ...]) -> bool:
    """Return whether a folder was filled with exactly these packages."""
    note = folder / "pinned.txt"
    return note.is_file() and note.read_text() == "\n".join(pinned)


def run(*command: object) -> str:
    """Return what a command prints."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerError(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        last = (done.stderr.strip() or "no words").splitlines()[-1]
        raise PeerError(f"{' '.join(words[:4])}: {last}")
    return done.stdout


def main() -> int:
    """Print the table; say in the exit status whether all agree."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = list(rows(Path(folder).resolve()))
        except (PeerError, OSError, subprocess.CalledProcessError) as error:
            print(f"digests: {error}", file=sys.stderr)
            return 3
    print("| what | tool | ours |\n| --- | --- | --- |")
    for row in found:
        print(f"| {row.what} | {row.tool} | {row.verdict} |")
    wrong = [row for row in found if row.verdict == "WRONG"]
    for row in wrong:
        print(f"{row.what}: {row.tool}: {row.theirs!r}, ours: {row.ours!r}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
