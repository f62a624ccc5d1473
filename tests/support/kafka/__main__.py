"""A Kafka in the foreground, until Ctrl-C: `python -m tests.support.kafka --port 9092`."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from pathlib import Path

import click

from tests.support.kafka.jars import why_no_kafka
from tests.support.kafka.server import KafkaServer


@click.command
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; any free one without it.")
@click.option("--topic", "topics", multiple=True, help="Create this topic; may be given again.")
def main(port: int | None, topics: tuple[str, ...]) -> None:
    """Run a real single-node Kafka, print its HOST:PORT, and end it on Ctrl-C or SIGTERM."""
    reason = why_no_kafka()
    if reason is not None:
        raise click.ClickException(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="kafka-") as folder,
        KafkaServer(Path(folder), port=port) as server,
    ):
        for topic in topics:
            server.create_topic(topic)
        click.echo(server.bootstrap)
        signal.pause()


if __name__ == "__main__":
    main()
