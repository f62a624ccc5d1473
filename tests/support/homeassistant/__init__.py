"""A real Home Assistant for tests, in a virtual environment of its own, on a free port of loopback."""

from __future__ import annotations

from tests.support.homeassistant.client import Entity, HomeAssistant, State
from tests.support.homeassistant.installation import Installation, installations
from tests.support.homeassistant.server import HomeAssistantServer

__all__ = ["Entity", "HomeAssistant", "HomeAssistantServer", "Installation", "State", "installations"]
