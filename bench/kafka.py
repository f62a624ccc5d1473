"""A real video, a real model, a real Kafka: what `vigil up` writes there, read back by a consumer that knows nothing.

Starts a single-node Kafka, runs `vigil up --camera yard=file:... --model ... --kafka ...`, then reads both topics from
their beginning and checks every record: CloudEvents headers, key, JPEG evidence, ids without gap or repeat.

    python bench/kafka.py [--for SECONDS]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from broker.outbox import split_event_id
from tests.support.kafka.client import Record
from tests.support.kafka.server import KafkaServer

DATA = Path(__file__).parents[2] / "shared" / "data"
HEADERS = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type")


def run(state: Path, bootstrap: str, length_s: int) -> int:
    """Run the mesh; its exit status."""
    arguments = ["--camera", f"yard=file:{DATA / 'pedestrians.avi'}", "--model", str(DATA / "yolox_nano.onnx")]
    command = [sys.executable, "-m", "console", "--state", str(state), "up", *arguments]
    done = subprocess.run([*command, "--kafka", bootstrap, "--for", f"{length_s}s"], check=False)
    return done.returncode


def faults_of(record: Record) -> list[str]:
    """What is wrong with one record of any kind."""
    headers = {name: (value or b"").decode() for name, value in record.headers.items()}
    faults = [f"no header {name}" for name in HEADERS if not headers.get(name)]
    if headers.get("ce_id") != json.loads(record.payload or b"{}")["id"]:
        faults.append("ce_id is not the id")
    if (record.key or b"").decode() != "home/yard":
        faults.append(f"key {record.key!r}")
    return faults


def picture_faults_of(record: Record) -> list[str]:
    """What is wrong with what an escalation shows."""
    escalation = json.loads(record.payload or b"{}")
    faults = [] if escalation["label"] == "person" else [f"label {escalation['label']}"]
    with Image.open(io.BytesIO(base64.b64decode(escalation["evidence"][0]["data"]))) as picture:
        picture.load()
        if picture.format != "JPEG":
            faults.append(f"evidence is {picture.format}")
    return faults


def show(record: Record) -> None:
    """Print one record as a person wants to see it."""
    escalation = json.loads(record.payload or b"{}")
    evidence = escalation["evidence"][0]
    print(f"{record.topic}/{record.partition}/{record.offset} key {(record.key or b'').decode()}")
    for name in HEADERS:
        print(f"  {name}: {(record.headers[name] or b'').decode()}")
    size = len(base64.b64decode(evidence["data"]))
    print(f"  {escalation['summary']} (score {escalation['score']:.2f}), JPEG of {size} bytes")


def gaps_and_repeats(records: Sequence[Record]) -> tuple[int, int]:
    """By the numbers in their ids; each epoch is a sequence from 1 without gaps."""
    counted = Counter((record.headers["ce_id"] or b"").decode() for record in records)
    sequences: dict[str, set[int]] = {}
    for identity in counted:
        _, epoch, seq = split_event_id(identity)
        sequences.setdefault(epoch, set()).add(seq)
    gaps = sum(max(numbers) - len(numbers) for numbers in sequences.values())
    return gaps, counted.total() - len(counted)


def judge(kind: str, records: Sequence[Record], faults: Sequence[str]) -> bool:
    """Print what was found beside what was expected; whether it is as it should be."""
    gaps, repeats = gaps_and_repeats(records)
    print(
        f"{len(records)} {kind} read back from Kafka, {len(faults)} faults {sorted(set(faults))}, "
        f"{gaps} gaps, {repeats} repeats (target: more than 0 records, 0 faults, 0 gaps, 0 repeats)"
    )
    return bool(records) and not (faults or gaps or repeats)


def main() -> int:
    """Run, read back, judge."""
    parser = argparse.ArgumentParser(description="What `vigil up` writes to a real Kafka, read back and checked.")
    parser.add_argument("--for", dest="length_s", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kafka_folder, state = Path(folder) / "kafka", Path(folder) / "state"
        kafka_folder.mkdir()
        with KafkaServer(kafka_folder) as kafka:
            status = run(state, kafka.bootstrap, options.length_s)
            events = kafka.consume("vigil.events", at_least=1)
            escalations = kafka.consume("vigil.escalations", at_least=1)
    if escalations:
        show(escalations[-1])
    faults = [fault for record in escalations for fault in (*faults_of(record), *picture_faults_of(record))]
    complete = judge("events", events, [fault for record in events for fault in faults_of(record)])
    complete = judge("person escalations", escalations, faults) and complete
    return status if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
