"""The command line as `click` reads it: a group whose commands are imported when called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

from lineage.cli import COMMANDS, fail

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="model-lineage", prog_name="lineage")
def group() -> None:
    """Prove where a model came from, and pay the people who made it.

    Start with `lineage demo`: it trains a family of small networks, finds out who came from whom,
    and shows the picture.
    """


def call(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status, wrong usage said on stderr.

    Raises:
        KeyboardInterrupt: If it was interrupted.
    """
    try:
        result = group.main(list(arguments), prog_name="lineage", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return fail(error.format_message(), 3)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return result if isinstance(result, int) else 0
