"""The embedded broker: amqtt in this process, so that one `pip install` runs the whole mesh.

Made for loopback. It speaks MQTT 3.1.1 only, forgets unacknowledged messages when a client goes, and keeps nothing
over a restart; the outboxes and receipts of Vigil's own processes carry the guarantee. The only file that imports
amqtt.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from amqtt.broker import Broker
from amqtt.errors import AMQTTError
from amqtt.session import Session

from broker.servers.ports import LOOPBACK, check_port_free
from config.errors import ConfigError
from config.log import get_logger
from config.settings import BrokerSettings

__all__ = ["run_embedded"]

_STOP_CHECK_S = 0.2


def run_embedded(settings: BrokerSettings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        ConfigError: the port is taken.
    """
    check_port_free(settings.host, settings.port)
    log = get_logger()
    if settings.host not in LOOPBACK:
        log.warning(
            "broker.exposed",
            host=settings.host,
            cure="the embedded broker has no users and no ACL: listen on 127.0.0.1, or use --engine mosquitto",
        )
    # amqtt logs each connection, and each client that leaves without a word as a warning with a traceback.
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(_serve(settings, stop))
    log.info("broker.stopped")


def _on_client_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    # amqtt leaves the exceptions of clients that vanish in the middle of a packet to nobody.
    get_logger().debug("broker.client_fault", error=str(context.get("exception") or context.get("message")))


class _Broker(Broker):  # type: ignore[misc] # amqtt ships no types
    """amqtt's broker, without its gift to every client that connects: what is retained for anybody's subscription.

    With it `mosquitto_sub -t .../frame -C 1` would end with a camera's state in place of its picture.
    """

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        holders = self._subscriptions.get(subscription[0], [])
        if any(holder.client_id == session.client_id for holder, _ in holders):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def _serve(settings: BrokerSettings, stop: threading.Event) -> None:
    asyncio.get_running_loop().set_exception_handler(_on_client_fault)
    broker = _Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{settings.host}:{settings.port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    try:
        await broker.start()
    except AMQTTError as error:
        raise ConfigError(
            f"the embedded broker cannot listen on {settings.host}:{settings.port} ({error})", field="broker.port"
        ) from error
    get_logger().info("broker.listening", engine="embedded", host=settings.host, port=settings.port)
    while not stop.is_set():  # noqa: ASYNC110 - a signal handler sets a thread's event, which asyncio cannot await
        await asyncio.sleep(_STOP_CHECK_S)
    await broker.shutdown()
