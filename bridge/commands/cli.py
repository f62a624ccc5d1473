"""`vigil commands`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from bridge.commands.messages import CommandReply, CommandRequest
from bridge.commands.role import run_commands
from broker.schemas import schema_text
from config.options import role_option
from config.settings import Settings

__all__ = ["commands"]

Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@click.option("--kafka", metavar="HOST:PORT", help="Kafka; several addresses separated by commas.")
@click.option(
    "--schema", type=click.Choice(["command", "reply"]), help="Print the JSON Schema of a command or a reply, and end."
)
@role_option("commands")
@click.pass_obj
def commands(load: Load, kafka: str | None, schema: str | None, role: str) -> None:
    """Take commands out of Kafka: to cameras and processes of this site, each carried out once and always answered.

    A command is a JSON object in the topic bridge.kafka.commands.topic (vigil.commands), its answer one in
    replies_topic (vigil.replies), with the same key. Nothing is allowed that no rule of bridge.kafka.commands.allow
    allows; the answer to what is not says which rule would. Several of these may run: they share the topic's
    partitions. With cameras_topic, documents of cameras become the site's registry. docs/commands.md has it all.

    \b
    In the site file:
      bridge:
        kafka:
          bootstrap: kafka-1:9092
          commands:
            allow: [{cameras: [yard], commands: [mode, snapshot]}]

    \b
    Examples:
      vigil commands
      vigil commands --kafka kafka-1:9092 --role commands.2
      echo '{"id": "1", "camera": "yard", "property": "mode", "value": "zoom"}' | kcat -P -b kafka-1 -t vigil.commands
      kcat -C -b kafka-1 -t vigil.replies
      vigil commands --schema command
    """
    if schema is not None:
        click.echo(schema_text(CommandRequest if schema == "command" else CommandReply), nl=False)
        return
    run_commands(load({"bridge": {"kafka": {"bootstrap": kafka}}} if kafka else {}), role)
