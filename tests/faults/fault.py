"""A fault to plant in a data set, and how validation must report it."""

from __future__ import annotations

from dataclasses import dataclass

from planting import Plant

from expectations.results import Severity


@dataclass(frozen=True)
class Fault:
    """A fault and how validation must report it.

    name      what is wrong
    suite     the suite that must find it
    message   text that the message must contain
    plant     plants the fault in a data set
    severity  severity of the failed expectation
    """

    name: str
    suite: str
    message: str
    plant: Plant
    severity: Severity = "error"
