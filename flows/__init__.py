"""Prefect flows: `hire` and its parts validate, train, evaluate, gate, promote and package; and `monitor`.

Start with flows/retrain.py.
"""

from __future__ import annotations

import os

# For Prefect's temporary server; these must be set before Prefect is imported. No usage statistics are sent, and the
# server may take longer to start than Prefect's default of 20 seconds, as on a busy machine.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
