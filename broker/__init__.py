"""The bus: topics, messages, frames, the session of a process, its outbox; and the brokers that Vigil can run."""

from broker.bus import Bus, BusStatistics, Content, Delivery, NewEvent
from broker.figures import Distribution, Figures
from broker.frames import Frame, decode_frame, encode_frame, metadata_bytes
from broker.session import Presence, connect, listen
from broker.topics import CONTRACT, DeliveryClass, Topic, TopicSpec, parse_topic

__all__ = [
    "CONTRACT",
    "Bus",
    "BusStatistics",
    "Content",
    "Delivery",
    "DeliveryClass",
    "Distribution",
    "Figures",
    "Frame",
    "NewEvent",
    "Presence",
    "Topic",
    "TopicSpec",
    "connect",
    "decode_frame",
    "encode_frame",
    "listen",
    "metadata_bytes",
    "parse_topic",
]
