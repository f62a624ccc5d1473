"""`vigil completion`: the script that a shell needs to complete this command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    eval "$(vigil completion bash)"                                    in ~/.bashrc
    eval "$(vigil completion zsh)"                                     in ~/.zshrc
    vigil completion fish > ~/.config/fish/completions/vigil.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "vigil", "_VIGIL_COMPLETE").source())
