"""Finds what OpenSSF Model Signing looks at on disk: the files of a folder, and signature files."""

from __future__ import annotations

import os
from pathlib import Path

from lineage.artifacts import oms
from lineage.artifacts.folders import names_in
from lineage.artifacts.opened import OpenFile, check_inside
from lineage.errors import FormatError, printable


def files_in(folder: Path, *, named: set[str]) -> tuple[dict[str, Path], bool]:
    """Return the files of a folder as the OMS tool finds them, and whether there are links.

    Folders that are links are not entered. What belongs to git is left out, except what a signature
    names.

    Raises:
        FormatError: If a link leads out of the folder, or a name is not UTF-8.
    """
    found: dict[str, Path] = {}
    has_links = folder.is_symlink()
    for above, folders, files in os.walk(folder, onerror=_refuse):
        base = Path(above)
        has_links |= any((base / name).is_symlink() for name in folders)
        if base == folder:
            folders[:] = [f for f in folders if f not in oms.GIT_PATHS or _holds(f, named)]
        for path in (base / name for name in files):
            name = path.relative_to(folder).as_posix()
            if oms.is_below(name, oms.GIT_PATHS) and name not in named:
                continue
            _check_name(name, folder)
            if path.is_symlink():
                check_inside(path, folder, label=str(path))
                has_links = True
            found[name] = path
    return found, has_links


def bundles_in(folder: Path) -> list[oms.Bundle]:
    """Return the OMS signature files in a folder; other `*.sig` are let be."""
    found = [_bundle(folder / name) for name in names_in(folder, "") if name.endswith(".sig")]
    return [bundle for bundle in found if bundle is not None]


def _check_name(name: str, folder: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FormatError(f"the file name {printable(name)} is not UTF-8", file=folder) from None


def _holds(folder: str, named: set[str]) -> bool:
    return any(name.startswith(f"{folder}/") for name in named)


def _refuse(error: OSError) -> None:
    raise error


def _bundle(path: Path) -> oms.Bundle | None:
    if not path.is_file():
        return None
    check_inside(path, path.parent, label=str(path))
    file = OpenFile.open(path, label=str(path))
    try:
        start = file.read(0, min(file.size, 64))
        if not start.lstrip().startswith(b"{"):
            return None  # of PGP, minisign, ...
        if file.size > oms.MAX_BUNDLE_BYTES:
            reason = f"{file.size} bytes of signature, more than the {oms.MAX_BUNDLE_BYTES} allowed"
            raise FormatError(reason, file=file.path)
        return oms.bundle_of(file.read(0, file.size), file=path.name, label=file.path)
    finally:
        file.close()
