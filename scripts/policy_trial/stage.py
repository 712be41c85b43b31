"""What all contestants are given alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.simulation.load import Offer
from scripts.simulation.measure import Window
from scripts.simulation.world import Scene


@dataclass(frozen=True)
class Stage:
    """A workload at a load, what of it counts, and how many seconds each of the engines' takes."""

    offer: Offer
    counted: Window
    scene: Scene
    time_scale: float
