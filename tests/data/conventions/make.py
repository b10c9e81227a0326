"""What other tools say of one small data set, written by these tools themselves.

    python make.py FOLDER      # needs datasets, dvc-data, mosaicml-streaming, wandb

writes the data to FOLDER/data and, beside this file, a description by each tool. The tests make the
same data and hold it to the descriptions. Of `streaming` only its writer is loaded: the rest asks
for torch and more.
"""

from __future__ import annotations

import json
import os
import sys
import types
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FILES = {
    "train.jsonl": b'{"a": 1, "t": "x"}\n{"a": 2, "t": "y"}\n',
    "sub/test.jsonl": b'{"a": 3}\n',
}


def write_files(folder: Path) -> Path:
    """Write the data set."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def dvc(data: Path) -> None:
    """The `.dir` object that DVC keeps in its cache; the name is its own digest."""
    from dvc_data.hashfile.hash import hash_file
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.fs.local import LocalFileSystem

    tree = Tree()
    for name in FILES:
        meta, hashed = hash_file(str(data / name), LocalFileSystem(), "md5")
        assert isinstance(meta, Meta)
        assert isinstance(hashed, HashInfo)
        tree.add(tuple(name.split("/")), meta, hashed)
    tree.digest()
    for old in HERE.glob("*.dir"):
        old.unlink()
    (HERE / tree.hash_info.value).write_bytes(tree.as_bytes())


def wandb(data: Path) -> None:
    """An artifact's manifest, and its digest."""
    import wandb as library

    artifact = library.Artifact("data", "dataset")
    artifact.add_dir(str(data))
    value = artifact.manifest.to_manifest_json()
    for entry in value["contents"].values():
        entry.pop("local_path", None)
    (HERE / "wandb_manifest.json").write_text(json.dumps(value, indent=1) + "\n")
    (HERE / "wandb_digest.txt").write_text(artifact.digest + "\n")


def mosaic(folder: Path) -> None:
    """A folder of two MDS shards, one packed, and their index."""
    root = PathFinder.find_spec("streaming")
    assert root is not None
    assert root.submodule_search_locations is not None
    for name in ("streaming", "streaming.base"):
        module: Any = types.ModuleType(name)
        module.__path__ = [str(Path(root.submodule_search_locations[0], *name.split(".")[1:]))]
        sys.modules[name] = module
    from streaming.base.format.mds.writer import MDSWriter

    for name, packed in (("mds", None), ("mds_packed", "gz")):
        out = HERE / name
        for old in out.glob("*"):
            old.unlink()
        with MDSWriter(
            out=str(out),
            columns={"a": "int", "t": "str"},
            compression=packed,
            hashes=["sha1", "xxh64"],
        ) as writer:
            for number in range(3):
                writer.write({"a": number, "t": str(number)})


def hub(data: Path) -> None:
    """`dataset_info.json` of what was loaded with checksums, and a card."""
    import datasets
    from datasets.info import DatasetInfosDict

    builder = datasets.load_dataset_builder(
        "json",
        data_files={"train": str(data / "train.jsonl")},
        cache_dir=str(data.parent / "cache"),
    )
    builder.download_and_prepare(verification_mode="all_checks")
    cached = Path(builder.cache_dir) / "dataset_info.json"
    text = cached.read_text().replace(str(data), "/data")
    (HERE / "dataset_info.json").write_text(json.dumps(json.loads(text), indent=1) + "\n")
    DatasetInfosDict({"default": builder.info}).write_to_directory(str(HERE))


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "offline")
    made = write_files(Path(sys.argv[1]) / "data")
    for tool in (dvc, wandb, mosaic, hub):
        tool(made)
