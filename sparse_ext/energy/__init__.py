"""What training costs in joules. Stands alone: imports nothing of ours, and nothing but Python until something is measured."""

from .carbon import Carbon, estimate_carbon
from .clock import ManualClock
from .counter import Counter, Power, Unreadable
from .meter import EnergyMeter, Window
from .nvml import Nvml
from .rapl import Rapl
from .reading import Reading, Sensor
from .replay import Replay
from .sources import METERS

__all__ = [
    "METERS",
    "Carbon",
    "Counter",
    "EnergyMeter",
    "ManualClock",
    "Nvml",
    "Power",
    "Rapl",
    "Reading",
    "Replay",
    "Sensor",
    "Unreadable",
    "Window",
    "estimate_carbon",
]
