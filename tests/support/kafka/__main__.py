"""A Kafka in the foreground, until Ctrl-C: `python -m tests.support.kafka --port 9092`."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import click

from tests.support.kafka.jars import JarsError, why_no_kafka
from tests.support.kafka.server import KafkaServer
from tests.support.server import PortTakenError, ServerDiedError


@click.command
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; any free one without it.")
def main(port: int | None) -> None:
    """Run a real single-node Kafka, print its HOST:PORT, and end it on Ctrl-C or SIGTERM."""
    reason = why_no_kafka()
    if reason is not None:
        raise click.ClickException(reason)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="kafka-") as folder, KafkaServer(Path(folder), port=port) as server:
            click.echo(server.bootstrap)
            signal.pause()
    except KeyboardInterrupt:
        return
    except PortTakenError:
        raise click.ClickException(f"port {port} is taken: choose another one with --port") from None
    except (JarsError, ServerDiedError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
