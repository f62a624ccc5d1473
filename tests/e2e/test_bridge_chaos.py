"""Kill -9 of the bridge, of Kafka and of Mosquitto, once each: the short form of bench/bridge_chaos.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bridge_chaos import Kill, run
from tests.support.kafka import KafkaServer

KILLS = (Kill(0.5, "mosquitto", 0.1), Kill(1.0, "bridge", 0.0), Kill(1.5, "kafka", 0.1))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_everything_is_in_kafka_once_whatever_dies(kafka_server: KafkaServer, tmp_path: Path) -> None:
    outcome = run(tmp_path, kafka_server, "exactly-once", KILLS, faults_s=2.0)
    assert outcome.holds, outcome.told()
