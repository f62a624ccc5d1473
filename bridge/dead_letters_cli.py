"""Dead letters for people: `vigil dead-letters`, what Kafka did not take, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bridge.ledger import Quarantined, read_quarantine
from bridge.role import find_ledgers
from bridge.sink import Record
from broker import Delivery, parse_topic
from config import BadPayloadError, ConfigError
from config.settings import KafkaSettings, Settings

if TYPE_CHECKING:
    from bridge.kafka import DeadLetter, KafkaRecord

__all__ = ["dead_letters"]

Load = Callable[[Mapping[str, Any]], Settings]

kafka_option = click.option("--kafka", metavar="HOST:PORT", help="Kafka; several addresses separated by commas.")
code_option = click.option("--code", metavar="CODE", help="Only of this kind, such as MSG_SIZE_TOO_LARGE.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A dead letter, wherever it is.

    Attributes:
        place: topic, partition and offset; or ledger, table and row.
        event_id: empty where it has none that can be read.
        code: what kind of error kept it out.
        reason: the same in a sentence.
        at: when it was kept.
        bus_topic: where on the bus it came.
        payload: as it came.
        way_back: the record that it would have been; None where it is no message of the contract.
    """

    place: str
    event_id: str
    code: str
    reason: str
    at: str
    bus_topic: str
    payload: bytes
    way_back: KafkaRecord | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "event_id": self.event_id,
            "code": self.code,
            "reason": self.reason,
            "at": self.at,
            "bus_topic": self.bus_topic,
            "kafka_topic": self.way_back.topic if self.way_back else None,
            "bytes": len(self.payload),
        }


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what Kafka did not take where it belongs, and send it again.

    A record that Kafka refuses for good (too large, no right to its topic, no such topic) or that is no message of the
    contract becomes a dead letter: in the topic `bridge.kafka.topics.dead_letters`, and where even that does not take
    it, in the quarantine of the bridge's ledger on this machine. Its sender has its receipt. Once the cause is cured,
    `replay` brings it where it belongs.

    \b
    Examples:
      vigil dead-letters list
      vigil dead-letters show vigil.dead-letters/0/12
      vigil dead-letters replay --code TOPIC_AUTHORIZATION_FAILED
    """


@dead_letters.command("list")
@kafka_option
@code_option
@json_option
@click.pass_obj
def list_(load: Load, kafka: str | None, code: str | None, *, as_json: bool) -> None:
    """List them: those in this machine's quarantines, then those in the topic, oldest first.

    \b
    Examples:
      vigil dead-letters list
      vigil dead-letters list --kafka 127.0.0.1:9092 --code UNREADABLE
      vigil dead-letters list --json | jq .reason
    """
    settings, cluster = _loaded(load, kafka)
    found = False
    for kept in _wanted(settings, cluster, code):
        found = True
        click.echo(json.dumps(kept.as_dict()) if as_json else _told(kept))
    if not found:
        click.echo("no dead letters", err=True)


@dead_letters.command()
@click.argument("wanted", metavar="PLACE|ID")
@kafka_option
@click.pass_obj
def show(load: Load, wanted: str, kafka: str | None) -> None:
    """Show one, with its payload as it came.

    \b
    Examples:
      vigil dead-letters show porch.edge:k3x9:41
      vigil dead-letters show vigil.dead-letters/0/12 | tail -1 | jq .summary
      vigil dead-letters show hub.bridge.db/quarantined/3
    """
    settings, cluster = _loaded(load, kafka)
    for kept in _wanted(settings, cluster):
        if wanted in (kept.place, kept.event_id):
            for name, value in kept.as_dict().items():
                click.echo(f"{name}: {'' if value is None else _printable(str(value))}")
            click.echo(kept.payload)
            return
    raise click.ClickException(f"no dead letter {wanted!r}; `vigil dead-letters list` says which there are")


@dead_letters.command()
@click.argument("wanted", metavar="[PLACE|ID]...", nargs=-1)
@kafka_option
@code_option
@click.option("--again", is_flag=True, help="Also those whose id is in the topics already.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent.")
@click.pass_obj
def replay(
    load: Load, wanted: Sequence[str], kafka: str | None, code: str | None, *, again: bool, dry_run: bool
) -> None:
    """Send them where they belong, each once: what is there already, by its id, is left out.

    What is no message of the contract has nowhere to go and is left out too. Dead letters stay where they are: Kafka
    deletes them by its own retention, and `vigil audit` counts each as stored from then on.

    Exit status: 0 all that were asked for are there, 1 some are not.

    \b
    Examples:
      vigil dead-letters replay --dry-run
      vigil dead-letters replay
      vigil dead-letters replay --code MSG_SIZE_TOO_LARGE
      vigil dead-letters replay porch.edge:k3x9:41
    """
    from bridge.kafka import read_event_ids, send_back

    settings, cluster = _loaded(load, kafka)
    chosen = [
        kept for kept in _wanted(settings, cluster, code) if not wanted or {kept.place, kept.event_id} & {*wanted}
    ]
    there = set() if again else {event_id for _, event_id in read_event_ids(cluster, settings.site)}
    missing = {kept.event_id: kept for kept in chosen if kept.way_back and kept.event_id not in there}
    unreadable = sum(kept.way_back is None for kept in chosen)
    left = len(chosen) - unreadable - len(missing)
    click.echo(f"{len(missing)} to send, {left} are there already, {unreadable} are no messages of the contract")
    if dry_run:
        return
    records = [kept.way_back for kept in missing.values() if kept.way_back]
    failed = 0
    for kept, (place, error) in zip(missing.values(), send_back(cluster, records), strict=True):
        failed += bool(error)
        click.echo(f"{_printable(kept.event_id)}: {place or f'not sent, {error}'}", err=bool(error))
    if failed or len(wanted) > len(chosen):
        raise SystemExit(1)


def _loaded(load: Load, kafka: str | None) -> tuple[Settings, KafkaSettings]:
    settings = load({"bridge": {"kafka": {"bootstrap": kafka}}} if kafka else {})
    if settings.bridge.kafka is None:
        raise ConfigError("there are dead letters only where there is a Kafka: --kafka", field="bridge.kafka.bootstrap")
    return settings, settings.bridge.kafka


def _wanted(settings: Settings, kafka: KafkaSettings, code: str | None = None) -> Iterator[_Kept]:
    """This machine's first; of what is whole there, the topic's notice is left out."""
    from bridge.kafka import dead_letters_in

    places = set()
    for path in find_ledgers(settings):
        for row in read_quarantine(path):
            kept = _of_quarantine(f"{path.name}/quarantined/{row.place}", row, kafka)
            places.add(kept.place)
            if code in (None, kept.code):
                yield kept
    for letter in dead_letters_in(kafka):
        if letter.whole_at not in places and code in (None, letter.code):
            yield _of_topic(letter)


def _of_quarantine(place: str, row: Quarantined, kafka: KafkaSettings) -> _Kept:
    from bridge.kafka import kafka_record

    try:
        delivery = Delivery(
            parse_topic(row.bus_topic),
            row.payload,
            row.payload,
            retained=False,
            received_at=datetime.now(UTC),
            _acknowledge=_nobody,
        )
        way_back = kafka_record(Record.of(delivery, 0.0), kafka)
    except BadPayloadError:
        way_back = None
    return _Kept(place, row.event_id, row.code, row.reason, row.at, row.bus_topic, row.payload, way_back)


def _of_topic(letter: DeadLetter) -> _Kept:
    return _Kept(
        letter.location, letter.event_id, letter.code, letter.reason, letter.at, letter.bus_topic, letter.value,
        letter.record,
    )  # fmt: skip


def _nobody() -> None:
    """Nobody waits for this acknowledgement."""


def _told(kept: _Kept) -> str:
    at = datetime.fromisoformat(kept.at).astimezone() if kept.at else None
    told = f"{kept.code:<28}  {kept.event_id or '(no id)':<32}  {kept.bus_topic}  {kept.place}  {kept.reason}"
    return f"{f'{at:%Y-%m-%d %H:%M:%S}' if at else '?':<19}  {_printable(told)}"


def _printable(text: str) -> str:
    """A stranger's text without what would move the cursor or change the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
