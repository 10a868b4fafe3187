"""Tiers: the kinds of place a model runs, as data.

A tier is one YAML file of properties. Code reads the properties and never branches on the name, so a
user's own tier is one more file: copy `mcu.yaml`, change it, and pass its path. A device is one microcontroller,
likewise a file.
"""

from edgeopt.tiers.device import Device, list_devices, load_device
from edgeopt.tiers.tier import Placement, Tier, list_tiers, load_tier

__all__ = ["Device", "Placement", "Tier", "list_devices", "list_tiers", "load_device", "load_tier"]
