"""The front door for people: one command a verb, each a call of the library.

Results go to stdout, words for people to stderr. Exit status 0 is done or yes, 1 is "checked, and
the answer is no", 2 is wrong usage, 3 is "could not check".
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from lineage.errors import LineageError, VerificationError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "demo": "lineage.cli.demo",
    "fingerprint": "lineage.cli.measure",
    "compare": "lineage.cli.measure",
    "infer": "lineage.cli.measure",
    "key": "lineage.cli.trust",
    "claim": "lineage.cli.prove",
    "verify": "lineage.cli.prove",
    "append": "lineage.cli.trust",
    "check": "lineage.cli.trust",
    "settle": "lineage.cli.trust",
}
"""Each verb and the module that holds its `click` command of the same name, imported when asked."""


class _Verbs(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="model-lineage", prog_name="lineage")
def group() -> None:
    """Prove where a model came from, and pay the people who made it.

    Start with `lineage demo`: it trains a family of small networks, finds out who came from whom,
    and shows the picture.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status; a polite kill ends as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; every error becomes one line on stderr."""
    try:
        result = group.main(
            None if arguments is None else list(arguments),
            prog_name="lineage",
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), 3)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    except VerificationError as error:
        return _fail(f"no: {error}", 1)
    except LineageError as error:
        return _fail(str(error), 3)
    except OSError as error:
        where = "" if error.filename is None else f"{printable(str(error.filename))}: "
        return _fail(f"{where}{error.strerror or error}", 3)
    except Exception as error:  # a fault of ours must never read as "no"
        if "LINEAGE_DEBUG" in os.environ:
            raise
        reason = printable(f"{type(error).__name__}: {error}")
        return _fail(f"a fault in lineage itself ({reason}); LINEAGE_DEBUG=1 shows where", 3)
    return result if isinstance(result, int) else 0


def _fail(reason: str, status: int) -> int:
    click.echo(f"lineage: {reason}", err=True)
    return status
