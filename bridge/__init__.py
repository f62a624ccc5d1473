"""The way out: escalations and events from the bus into the journal, or into Kafka, with a receipt for each."""

from bridge.forward import Forwarder
from bridge.journal import Journal
from bridge.sink import Record, Sink, StoredAt

__all__ = ["Forwarder", "Journal", "Record", "Sink", "StoredAt"]
