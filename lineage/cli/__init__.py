"""The front door for people: one command a verb, each a call of the library.

Results go to stdout, words for people to stderr. Exit status 0 is done or yes, 1 is "checked, and
the answer is no", 2 is wrong usage, 3 is "could not check".
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from lineage.cli import late, say
from lineage.errors import LineageError, VerificationError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "demo": "lineage.cli.demo",
    "fingerprint": "lineage.cli.measure",
    "compare": "lineage.cli.measure",
    "infer": "lineage.cli.measure",
    "align": "lineage.cli.align",
    "verify-base": "lineage.cli.adapters",
    "key": "lineage.cli.trust",
    "claim": "lineage.cli.prove",
    "verify": "lineage.cli.prove",
    "append": "lineage.cli.trust",
    "check": "lineage.cli.trust",
    "settle": "lineage.cli.trust",
    "manifest": "lineage.cli.data",
    "prove": "lineage.cli.record_proofs",
    "check-proof": "lineage.cli.record_proofs",
    "overlap": "lineage.cli.overlaps",
    "contribute": "lineage.cli.sharing",
    "shares": "lineage.cli.sharing",
}
"""Each verb and the module that holds its `click` command of the same name, imported when asked."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status; a polite kill ends as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(200_000, 20, 20)  # values of ten thousand tensors hold no cycles
    is_hurried = arguments is None and sys.argv[1:2] == ["fingerprint"]  # in a process of our own
    if is_hurried:
        late.put_off()
    status = run(arguments)
    if is_hurried:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> NoReturn:
    """End the process without taking the interpreter apart, which takes as long as a small file."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # which says what it can of it
    atexit._run_exitfuncs()
    os._exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; every error becomes one line on stderr."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _called(given)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    except VerificationError as error:
        return fail(f"no: {error}", 1)
    except LineageError as error:
        return fail(str(error), 3)
    except OSError as error:
        where = "" if error.filename is None else f"{printable(str(error.filename))}: "
        return fail(f"{where}{error.strerror or error}", 3)
    except Exception as error:  # a fault of ours must never read as "no"
        if "LINEAGE_DEBUG" in os.environ:
            raise
        reason = printable(f"{type(error).__name__}: {error}")
        return fail(f"a fault in lineage itself ({reason}); LINEAGE_DEBUG=1 shows where", 3)


def _called(given: list[str]) -> int:
    """Call the verb; `click`, which takes longer than a small file, only where it is needed."""
    if given[:1] == ["fingerprint"]:
        from lineage.cli import prints

        options = prints.options(given[1:])
        if options is not None:
            return prints.fingerprint(**options)
    from lineage.cli import verbs

    return verbs.call(given)


def fail(reason: str, status: int) -> int:
    """Say why nothing came of it, and return the status."""
    say.note(f"lineage: {reason}")
    return status
