"""Great Expectations suites that a data set must satisfy, as JSON files that people can read and edit."""

from __future__ import annotations

import logging
import os

# Must run before Great Expectations is imported: turn off its analytics, and its hundred log lines per validation.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
logging.getLogger("great_expectations").setLevel(logging.WARNING)
