"""The commands that are timed: ours, and the peers in an environment of their own.

Every command does its whole job: those that end in a file write it.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from inputs import Input
from race import Entrant

HOME = Path(__file__).resolve().parent.parent.parent
PINNED = ("model-signing==1.1.1", "pyopenssl==26.4.0", "hf-xet==1.8.0", "modeldna==0.1.0")
"""model-signing 1.1.1 does not start without pyopenssl, which it does not ask for."""

OURS = {
    "lineage --exact": ("--exact",),
    "lineage": (),
    "lineage --fast": ("--fast",),
    "lineage, NumPy": (),
}
"""Our tiers: the exact root alone; all sketches; sketches of a fixed eighth; all sketches without
the compiled kernel."""

PEERS = ("b3sum", "cat", "sha256sum", "model-signing", "hf-xet", "modeldna", "by hand")

_XET = "import sys, hf_xet; print(hf_xet.hash_files(sys.argv[1:]))"
_AGAINST = {"b3sum": "b3sum", "model-signing": "model-signing"}


class Tools:
    """Makes the command of every tool for any input.

    Attributes:
        work: A folder for what the tools write.
    """

    def __init__(self, cache_folder: Path) -> None:
        self.work = cache_folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self._peers = cache_folder / "peers"
        self._no_peers = _install(self._peers)
        self._ours_at = cache_folder / "ours"
        _install_ours(self._ours_at)
        self._key = self.work / "key.pem"
        self._key.write_bytes(_new_key())

    @cached_property
    def versions(self) -> dict[str, str]:
        """Return the versions of the peers and of all they stand on."""
        told = {name: _first_line(name, "--version") for name in ("b3sum", "cat", "sha256sum")}
        pip = (str(self._peers / "bin" / "python"), "-m", "pip", "freeze", "--all")
        frozen = "" if self._no_peers else _output(*pip)
        return told | dict(line.split("==", 1) for line in frozen.splitlines() if "==" in line)

    def named(self, given: Input, *names: str) -> tuple[Entrant, ...]:
        """Return entrants on an input, measured against those of `b3sum` and `model-signing`."""
        return tuple(self._ours(given, n) if n in OURS else self._peer(given, n) for n in names)

    def _ours(self, given: Input, name: str) -> Entrant:
        saved = () if name == "lineage --exact" else ("-o", str(self.work / "saved.lineage"))
        command = self.ours("fingerprint", str(given.path), *OURS[name], "--no-cache", *saved)
        numpy = {"LINEAGE_KERNEL": "numpy"} if name == "lineage, NumPy" else {}
        return Entrant(name, command, self.env | numpy, _AGAINST)

    @property
    def env(self) -> dict[str, str]:
        """Return what our own commands are run with: a cache of their own, and no other code."""
        return {"PYTHONPATH": "", "XDG_CACHE_HOME": str(self.work / "cache")}

    def ours(self, *arguments: str) -> tuple[str, ...]:
        """Return one of our own commands, as an install of this checkout has it."""
        return (str(self._ours_at / "bin" / "lineage"), *arguments)

    @property
    def python(self) -> Path:
        """Return the interpreter that our own commands run in."""
        return self._ours_at / "bin" / "python"

    def _peer(self, given: Input, name: str) -> Entrant:
        files = tuple(map(str, given.files))
        bin_folder = self._peers / "bin"
        sign = ("sign", "key", str(given.path), "--private_key", str(self._key))
        dna = (str(bin_folder / "modeldna"), "fingerprint", str(given.path))
        commands = {
            "b3sum": ("b3sum", *files),
            "sha256sum": ("sha256sum", *files),
            "cat": ("cat", *files),
            "by hand": (sys.executable, str(Path(__file__).with_name("by_hand.py")), *files),
            "model-signing": (str(bin_folder / "model_signing"), *sign,
                              "--signature", str(self.work / "model.sig")),
            "hf-xet": (str(bin_folder / "python"), "-c", _XET, *files),
            "modeldna": (*dna, "-o", str(self.work / "dna.json")),
            "modeldna --full": (*dna, "--full", "-o", str(self.work / "dna.json")),
        }  # fmt: skip
        env = {"HF_HUB_OFFLINE": "1"}
        missing = self._no_peers if commands[name][0].startswith(str(self._peers)) else ""
        return Entrant(name, commands[name], env, _AGAINST, missing)


def renamed(
    entrant: Entrant, name: str, against: dict[str, str], command: tuple[str, ...] = ()
) -> Entrant:
    """Return an entrant under another name, with other rivals, perhaps another command."""
    return replace(entrant, name=name, against=against, command=command or entrant.command)


def _install_ours(folder: Path) -> None:
    """Put this checkout where users have it: an editable install starts a third more slowly.

    Raises:
        OSError: If it could not be done.
    """
    print("installing this checkout", file=sys.stderr, flush=True)
    pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", str(HOME))
    if not Path(pip[0]).exists():
        venv.create(folder, with_pip=True)
    for more in ((), ("--no-deps", "--force-reinstall")):  # the second, as its version stays
        done = subprocess.run((*pip, *more), capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"this checkout could not be installed: {_why(done.stderr)}")


def _install(folder: Path) -> str:
    """Make the peers' environment if it is not there; return why it could not be made."""
    note = folder / "pinned.txt"
    wanted = "\n".join(PINNED)
    if note.exists() and note.read_text() == wanted:
        return ""
    print("making the peers' environment", file=sys.stderr, flush=True)
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no environment for the peers: {error}"
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PINNED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return _why(done.stderr)
    note.write_text(wanted)
    return ""


def _why(said: str) -> str:
    words = [line for line in said.splitlines() if line.startswith("ERROR")]
    return (words or ["pip failed"])[-1]


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _output(*command: str, env: dict[str, str] | None = None) -> str:
    """Return what a command prints; nothing if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _first_line(*command: str) -> str:
    return (_output(*command).splitlines() or ["not found"])[0]
