"""Processes forked while a flow runs, such as the workers of a data loader.

Prefect's services for logs and events (3.8) ask to be drained when the interpreter ends, in a forked process too, where
their threads are gone: an assertion fails there and the process ends with status 1, whatever it did.
"""

from __future__ import annotations

import threading


def forget_services() -> None:
    """Let a process that ends leave the services of the process that forked it alone."""
    calls: list = threading._threading_atexits  # type: ignore[attr-defined]  # no public list of them
    calls[:] = [call for call in calls if not call.func.__module__.startswith("prefect.")]
