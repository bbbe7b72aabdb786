"""Prefect flows. `retrain.py` is the pipeline; start there. Its steps are flows too, and `monitor` checks for drift."""

from __future__ import annotations

import os

# Prefect reads these when it is imported: send no usage statistics, and give the temporary server more than the default
# 20 seconds to start, which a busy machine needs.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
