"""Groups of commands that are imported when they are called, by name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import click

__all__ = ["CommandEntry", "LazyGroup", "load_command"]


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """One command of a group.

    Attributes:
        name: what people type.
        target: ``module:attribute`` of the click command.
        about: its line in the group's help; here, so that the help imports nothing.
        extra: the extra of the distribution that brings its libraries; empty where the bare installation does.
    """

    name: str
    target: str
    about: str
    extra: str = ""


def load_command(entry: CommandEntry) -> click.Command:
    """Import one command."""
    module, _, attribute = entry.target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{entry.target} is no click command")
    return command


class LazyGroup(click.Group):
    """Commands by name, imported when they are called.

    Args:
        name: of the group; None for the root.
        entries: its commands, in the order of its help.
        attributes: those of a click group.
    """

    def __init__(self, name: str | None = None, *, entries: Sequence[CommandEntry] = (), **attributes: object) -> None:
        super().__init__(name, **attributes)  # type: ignore[arg-type]  # click's own, handed on
        self.entries = {entry.name: entry for entry in entries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        del ctx
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        entry = self.entries.get(cmd_name)
        return None if entry is None else load_command(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.about) for entry in self.entries.values()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Complete a command's name without importing any."""
        names = [
            click.shell_completion.CompletionItem(entry.name, help=entry.about)
            for entry in self.entries.values()
            if entry.name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)
