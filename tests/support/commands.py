"""The `vigil` command inside the test's own process: the same door, without a start that takes a second."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

from console.cli import RefusalError, cli

__all__ = ["Done", "vigil"]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended.

    Attributes:
        errors: what it said on standard error, as `main` would print it.
    """

    status: int
    out: str
    errors: str


def vigil(*arguments: str, typed: str | None = None, environment: dict[str, str] | None = None) -> Done:
    """Run a command to its end."""
    result = CliRunner().invoke(cli, arguments, input=typed, env=environment)
    error = result.exception
    if isinstance(error, RefusalError):
        return Done(error.status, result.stdout, f"{result.stderr}vigil: {error}\n")
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return Done(result.exit_code, result.stdout, result.stderr)
