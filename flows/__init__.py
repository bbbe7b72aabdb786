"""Prefect flows: `hire` and its parts, validate, train, evaluate, gate, promote, package; and `monitor`."""

from __future__ import annotations

import os

from flows.forks import forget_services

# For Prefect's temporary server, as it has to be said before Prefect is imported: no usage statistics are sent, and a
# busy machine may take more than Prefect's 20 seconds to start it.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

os.register_at_fork(after_in_child=forget_services)  # such as a data loader's workers
