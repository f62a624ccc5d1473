"""The journal: escalations and events in one SQLite file, the sink of a mesh without Kafka.

The file can be read with `sqlite3`: times are text, and `payload` is the JSON as it came, pictures included.

`store` writes it, `reading` answers questions, `retention` deletes what is old, `export` makes files of it, and `drain`
sends it into Kafka once there is one.
"""

from bridge.journal.drain import JournalBacklog
from bridge.journal.filters import EscalationFilter, EventFilter, Filter
from bridge.journal.reading import Entry, EventEntry, JournalReader
from bridge.journal.store import Journal

__all__ = [
    "Entry",
    "EscalationFilter",
    "EventEntry",
    "EventFilter",
    "Filter",
    "Journal",
    "JournalBacklog",
    "JournalReader",
]
