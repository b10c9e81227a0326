"""Reads what `torch.save` and `torch.jit.save` write, without torch and without unpickling.

A file's suffix says little (.bin may be anything), its first bytes say which of torch's containers
it is, or whose file it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.artifacts import torch_legacy, torch_zip
from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.artifacts.base import Item
    from lineage.artifacts.opened import Opener, OpenFile

_TAR = b"ustar"
_OTHERS = {
    b"GGUF": "a GGUF file; name it .gguf",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; name it .h5",
    b"\x93NUMPY": "a NumPy array; name it .npy",
    b"tjgg": "a GGML file; convert it to GGUF",
    b"fmgg": "a GGML file; convert it to GGUF",
    b"lmgg": "a GGML file; convert it to GGUF",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\xfd7zXZ\0": "compressed with xz; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"(\xb5/\xfd": "compressed with zstd; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file it points to (git lfs pull)",
    b"<": "a web page or XML; was the download refused?",
    b"{": "JSON",
}
"""How the files of others begin that are met under torch's suffixes."""


def items_of(file: OpenFile, opener: Opener) -> list[Item]:  # noqa: ARG001
    """Return the tensors of the model in an open torch file.

    The model is found in what training tools save around it, optimizer state is left out, nested
    mappings give dotted names, and tensors that are one in the file come once, the first kept.

    Raises:
        FormatError: If the file lies, holds no model, or needs full unpickling.
    """
    head = file.read(0, min(file.size, 512))
    if head.startswith(b"PK\x03\x04"):
        return torch_zip.items_of(file)
    if torch_legacy.MAGIC in head[:32]:
        return torch_legacy.items_of(file)
    raise FormatError(f"no torch file, but {_what(head)}", file=file.path)


def _what(head: bytes) -> str:
    """Say what a file that is not torch's is, by its first bytes."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return what
    if head[257:262] == _TAR:
        return "a tar archive; if torch before 0.4 wrote it, load it and save it again"
    if head[8:9] == b"{" and not any(head[5:8]):
        return "a safetensors file; name it .safetensors"
    if head[:1] == b"\x80":
        return "a pickle that torch did not write; save a state_dict with torch.save"
    return "of an unknown kind" if head else "empty"
