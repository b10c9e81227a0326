"""The zip archives of torch 1.6 and later, and TorchScript: a pickle and a member per storage.

The code in a TorchScript archive is not looked at. Its modules' tensors are named as the loaded
module's `state_dict()` names them; plain tensor attributes and packed weights, which that leaves
out, come too, and tensor constants as `CONSTANTS.c0` and so on, as the code calls them.

Source: torch/serialization.py and torch/csrc/jit/serialization/import.cpp of PyTorch 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.artifacts import zipped
from lineage.artifacts.pickled import MAX_PICKLE_BYTES, Stream, load
from lineage.artifacts.strided import Window
from lineage.artifacts.torch_items import Saved
from lineage.artifacts.torch_tensors import finder, is_tensor, storages
from lineage.artifacts.torch_tree import named, named_model
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.base import Item, Source
    from lineage.artifacts.opened import OpenFile
    from lineage.artifacts.torch_tensors import Storage
    from lineage.artifacts.zipped import Member

_EXPORTED = ("archive_format", "serialized_exported_program.json", "models/model.json")

_FREE_BYTES, _FREE_RATIO = 1 << 30, 16
"""Tensors may ask for so many inflated bytes, or so many times the file's, and no more: each of
those that share a storage inflates it by itself, one in strides again and again."""


@dataclass(slots=True)
class Members:
    """The storages of an archive: `data/KEY` in its one folder."""

    file: OpenFile
    held: dict[str, Member]
    _inflated: int = 0

    def source(self, storage: Storage, tensor: str, passes: int = 1) -> Source:
        """Return where a storage's bytes are; see `Pool`."""
        member = self.held.get(f"{storage.pool}/{storage.key}")
        if member is None:
            reason = f"its storage {printable(repr(storage.key), 40)} is not in the archive"
            raise FormatError(reason, file=self.file.path, tensor=tensor)
        if member.size < storage.start + storage.size_bytes:
            reason = f"its storage has {member.size} bytes, not {storage.size_bytes}"
            raise FormatError(reason, file=self.file.path, tensor=tensor)
        if member.method != zipped.STORED:
            self._inflated += passes * (storage.start + storage.size_bytes)
            if self._inflated > max(_FREE_BYTES, _FREE_RATIO * self.file.size):
                reason = "its archive is compressed, and would be inflated many times over"
                raise FormatError(
                    f"{reason}; unzip and store it", file=self.file.path, tensor=tensor
                )
        source = zipped.source(self.file, member)
        return Window(source, storage.start) if storage.start else source


def items_of(file: OpenFile) -> list[Item]:
    """Return the tensors of the model in an archive."""
    held = zipped.members(file)
    root = _root(file, held)
    saved = Saved(file, Members(file, held), is_big=_is_big(file, held.get(f"{root}/byteorder")))
    value = _unpickled(file, held, root, "data")
    if f"{root}/constants.pkl" not in held:
        return saved.items(named_model(value, file))
    constants = _unpickled(file, held, root, "constants")
    if not isinstance(constants, tuple):
        raise FormatError("its constants are no tuple", file=file.path)
    kept = {f"c{n}": part for n, part in enumerate(constants) if is_tensor(part)}
    found = [*named(value, file), *named({"CONSTANTS": kept}, file)]
    if not found:
        raise FormatError("holds no tensors", file=file.path)
    return saved.items(found)


def _root(file: OpenFile, held: dict[str, Member]) -> str:
    """Return the one folder of an archive that torch wrote."""
    roots = [n.removesuffix("/data.pkl") for n in held if n.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) == 1:
        return roots[0]
    reason = "a zip archive that torch did not write: it has no FOLDER/data.pkl"
    if roots:
        reason = f"has {len(roots)} folders with a data.pkl; which is the model?"
    elif any(name.endswith(_EXPORTED) for name in held):
        reason = "an archive of torch.export; save the module's state_dict"
    elif any(name.endswith("/.data/extern_modules") for name in held):
        reason = "an archive of torch.package, whose pickles need its code; save a state_dict"
    elif any(name.endswith("/model.json") for name in held):
        reason = "TorchScript of torch before 1.2; load it and save it again"
    raise FormatError(reason, file=file.path)


def _is_big(file: OpenFile, member: Member | None) -> bool:
    """Return whether the archive's numbers are big-endian; without a record they are little."""
    order = b"little" if member is None else zipped.read_small(file, member, limit=64)
    if order not in (b"little", b"big"):
        raise FormatError("its byteorder is neither little nor big", file=file.path)
    return order == b"big"


def _unpickled(file: OpenFile, held: dict[str, Member], root: str, name: str) -> Any:
    """Read one of an archive's pickles; its storages lie in the folder of the same name."""
    data = zipped.read_small(file, held[f"{root}/{name}.pkl"], limit=MAX_PICKLE_BYTES)
    return load(
        Stream(file, data=data), find=finder(file), persistent=storages(file, f"{root}/{name}")
    )
