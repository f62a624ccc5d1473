"""Home Assistant: every camera and node of a site appears there by itself.

`camera` and `node` say which entities there are, `census` which cameras and nodes, `announcer` publishes discovery, and
`role` runs it all.
"""

from bridge.homeassistant.announcer import Announcer
from bridge.homeassistant.camera import camera_device
from bridge.homeassistant.census import Census
from bridge.homeassistant.entity import Device, Entity
from bridge.homeassistant.node import node_device
from bridge.homeassistant.role import run_homeassistant

__all__ = ["Announcer", "Census", "Device", "Entity", "camera_device", "node_device", "run_homeassistant"]
