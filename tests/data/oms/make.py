"""The tiny model that the signatures beside this file are about, and how they were made.

    python make.py          # in an environment with model-signing 1.1.1 and pyopenssl

writes every `.sig` and `key.pub` anew; ECDSA is not deterministic, so the bytes differ each time,
the digests in them do not. The private key is thrown away.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ONE = "model-00001-of-00002.safetensors"


def _shard(name: str, numbers: list[float], metadata: dict[str, str] | None = None) -> bytes:
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    entry = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [0, len(data)]}
    header = {"__metadata__": metadata} if metadata else {}
    text = json.dumps({**header, name: entry}).encode()
    return len(text).to_bytes(8, "little") + text + data


FILES = {
    ONE: _shard("a", [1.0, 2.0, 3.0, 4.0]),
    "model-00002-of-00002.safetensors": _shard("b", [5.0, 6.0], {"format": "pt"}),
    "model.safetensors.index.json": json.dumps(
        {"metadata": {}, "weight_map": {"a": ONE, "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "config.json": b'{"model_type": "tiny"}\n',
    "docs.txt": b"sorts after docs/page by its path, before it by its letters\n",
    "docs/page": b"a page\n",
    ".hidden": b"counts\n",
    "Upper": b"before all lower case\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
    ".github/flow.yml": b"{}\n",
}


def write_model(folder: Path) -> Path:
    """Write the model without any signature."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def main() -> None:
    """Sign the model in several ways with the real tool."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import hashing, signing

    key = ec.generate_private_key(ec.SECP256R1())
    with tempfile.TemporaryDirectory() as made:
        secret = Path(made) / "key.pem"
        secret.touch(0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        model = write_model(Path(made) / "tiny")

        def config() -> hashing.Config:
            return hashing.Config()

        def sign(what: Path, name: str, how: hashing.Config) -> None:
            signer = signing.Config().use_elliptic_key_signer(private_key=secret)
            signer.set_hashing_config(how).sign(what, HERE / name)

        sign(model, "model.sig", config().set_ignored_paths(paths=["model.sig"]))
        sign(model, "with-git.sig", config().set_ignored_paths(paths=[], ignore_git_paths=False))
        sign(model, "without-weights.sig", config().set_ignored_paths(paths=[ONE]))
        sign(model, "shards.sig", config().use_shard_serialization(shard_size=64))
        sign(model, "blake2.sig", config().use_file_serialization(hashing_algorithm="blake2"))
        sign(model / ONE, "one-file.sig", config())
        # The second signer finds the first signature in the folder, and signs it too.
        (model / "model.sig").write_bytes((HERE / "model.sig").read_bytes())
        sign(model, "second.sig", config().set_ignored_paths(paths=["second.sig"]))
    (HERE / "key.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


if __name__ == "__main__":
    os.umask(0o022)
    main()
