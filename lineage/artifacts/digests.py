"""The names that other systems know a model's files by: SHA-256 digests, beside the fingerprint.

Three of them, from one read of each file:

- of the whole file: what `sha256sum` prints, and the hub's LFS object id;
- of a safetensors file after its header: `modelspec.hash_sha256`, and `sshs_model_hash` of trainers
  of adapters. It outlives a change of the metadata;
- of the whole folder: the subject digest of OpenSSF Model Signing, see `oms`.

Each changes when weights are stored in another order or format; the fingerprint does not.

Source: the Git LFS specification; Stability AI's ModelSpec 1.0.1 ("a hash of all tensor content, ie
excluding the header section, with 0x prefix"); `addnet_hash_safetensors` of kohya-ss/sd-scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from lineage.artifacts import oms, read
from lineage.artifacts.hashed import Hashed, Task, hash_all
from lineage.artifacts.hub import located
from lineage.artifacts.oms import SignedSubject
from lineage.artifacts.oms_files import bundles_in, files_in
from lineage.artifacts.opened import OpenFile
from lineage.artifacts.safetensors import read_header
from lineage.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

    from lineage.artifacts.base import Artifact

DECLARATIONS = ("modelspec.hash_sha256", "sshs_model_hash")
"""Metadata keys of a safetensors file that say the digest of what follows the header."""

Progress = Callable[[int], None] | None

_SHOWN = 80
_SHA256 = re.compile(r"(?:0x)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a file's own metadata says of its content digest.

    Disagreement alone does not prove a change: some trainers (LyCORIS; the ModelSpec of sd-scripts)
    hash the tensors in the order they have in memory and not as they lie in the file, others
    write the digest of a whole file.

    Attributes:
        key: One of `DECLARATIONS`.
        value: The text, shortened.
        agrees: Whether it is the file's; None if it is no SHA-256 (empty, or abbreviated).
    """

    key: str
    value: str
    agrees: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"key": self.key, "value": self.value, "agrees": self.agrees}


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One weight file.

    Attributes:
        name: Its path below the model's folder.
        size_bytes: Of the whole file.
        sha256: Of the whole file, hexadecimal: `sha256sum`, and the hub's LFS object id.
        modelspec: `modelspec.hash_sha256` as it is for these bytes; None if not safetensors.
        declared: What its metadata says of that digest.
    """

    name: str
    size_bytes: int
    sha256: str
    modelspec: str | None = None
    declared: tuple[Declared, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; the ModelSpec members only for safetensors."""
        plain = {"name": self.name, "size_bytes": self.size_bytes, "sha256": self.sha256}
        if self.modelspec is None:
            return plain
        said = [declared.to_json() for declared in self.declared]
        return {**plain, "modelspec.hash_sha256": self.modelspec, "declared": said}


@dataclass(frozen=True, slots=True)
class OmsSubject:
    """The digest that OpenSSF Model Signing v1 names the model by, its git files left out.

    Attributes:
        sha256: Hexadecimal.
        files: How many files it is over.
        has_links: Whether some are links, so that the tool wants `--allow_symlinks`.
    """

    sha256: str
    files: int
    has_links: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "predicate_type": oms.PREDICATE_TYPE,
            "sha256": self.sha256,
            "files": self.files,
            "has_links": self.has_links,
        }


@dataclass(frozen=True, slots=True)
class FileDigests:
    """What other systems know a model by.

    Attributes:
        path: What the caller named.
        files: The weight files, as `read` opens them, by name.
        oms: Of the whole folder or the single file; None where the caller named one of several
            files (an index, the first of a split file), which that tool would sign alone.
        signatures: The OMS signature files beside the model. None of them was verified.
    """

    path: str
    files: tuple[FileDigest, ...]
    oms: OmsSubject | None
    signatures: tuple[SignedSubject, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, without the path."""
        return {
            "files": [file.to_json() for file in self.files],
            "oms": None if self.oms is None else self.oms.to_json(),
            "signatures": [signature.to_json() for signature in self.signatures],
        }


def file_digests(source: str | PathLike[str], *, progress: Progress = None) -> FileDigests:
    """Hash a model's files for comparison with what other systems call them.

    Every file is read once, a few at a time, in pieces. Of a folder all files are read and not only
    the weights, because the subject digest of OMS covers them. Signature files (`*.sig`) beside the
    model are parsed and compared; **their signatures are not verified**.

    Args:
        source: As `lineage.read` takes it, on disk or in a repository.
        progress: Called with the number of bytes just done, from any thread.

    Raises:
        FormatError: If `read` raises it, a file changed meanwhile, a link leads out of the folder,
            something in it is no file, or an OMS signature file is damaged.
        OSError: If the path or a file cannot be opened.
        TypeError: If `source` is not a path.
    """
    if not isinstance(source, str | PathLike):
        raise TypeError(f"only what is stored has file digests, not {type(source).__name__}")
    path, label = located(source), fspath(source)
    with read(path) as artifact:
        of = _of_folder if path.is_dir() else _of_file
        found = of(path, label, artifact, progress)
        artifact.check_unchanged()
        return found


def _of_folder(folder: Path, label: str, artifact: Artifact, progress: Progress) -> FileDigests:
    weights = _weights(artifact, folder)
    bundles = bundles_in(folder)
    paths, has_links = files_in(folder, named={name for one in bundles for name in one.resources})
    tasks = {name: Task(path, path.stat().st_size) for name, path in paths.items()}
    hashed = hash_all(tasks | {name: _task(file) for name, file in weights.items()}, progress)

    others = {bundle.file for bundle in bundles}
    found = {name: hashed[name].whole for name in paths}
    usual = {
        name: digest
        for name, digest in found.items()
        if name not in others and not oms.is_below(name, oms.GIT_PATHS)
    }
    return FileDigests(
        label,
        tuple(_file_digest(name, file, hashed[name]) for name, file in weights.items()),
        OmsSubject(oms.subject_of(usual), len(usual), has_links),
        tuple(oms.compared(bundle, found, weights, others) for bundle in bundles),
    )


def _of_file(path: Path, label: str, artifact: Artifact, progress: Progress) -> FileDigests:
    weights = _weights(artifact, path.parent)
    hashed = hash_all({name: _task(file) for name, file in weights.items()}, progress)
    files = tuple(_file_digest(name, file, hashed[name]) for name, file in weights.items())
    if weights.keys() != {path.name}:
        return FileDigests(label, files, None, ())
    sha256 = files[0].sha256
    said = [oms.compared_one(bundle, path.name, sha256) for bundle in bundles_in(path.parent)]
    subject = OmsSubject(oms.subject_of({".": sha256}), 1, path.is_symlink())
    return FileDigests(label, files, subject, tuple(one for one in said if one is not None))


def _weights(artifact: Artifact, base: Path) -> dict[str, OpenFile]:
    """Return the files that hold the tensors, by their names below `base`, in order."""
    files = [file for file in artifact.watched if isinstance(file, OpenFile)]
    named = {file.location.relative_to(base).as_posix(): file for file in files}
    return {name: named[name] for name in sorted(named)}


def _task(file: OpenFile) -> Task:
    body_at = 8 + int.from_bytes(file.read(0, 8), "little") if _is_safetensors(file) else None
    return Task(file, file.size, body_at)


def _file_digest(name: str, file: OpenFile, hashed: Hashed) -> FileDigest:
    if hashed.body is None:
        return FileDigest(name, file.size, hashed.whole)
    metadata = read_header(file)[1]
    declared = tuple(
        _declared(key, metadata[key], hashed.body) for key in DECLARATIONS if key in metadata
    )
    return FileDigest(name, file.size, hashed.whole, f"0x{hashed.body}", declared)


def _declared(key: str, value: str, body: str) -> Declared:
    """Compare what metadata says; tools write it with and without the prefix, in either case."""
    match = _SHA256.fullmatch(value.strip().lower())
    return Declared(key, printable(value, _SHOWN), None if match is None else match[1] == body)


def _is_safetensors(file: OpenFile) -> bool:
    return file.location.suffix == ".safetensors"
