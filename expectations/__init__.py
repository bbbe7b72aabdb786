"""What a data set must satisfy, as Great Expectations suites that a person can read and edit."""

from __future__ import annotations

import logging
import os

# Before Great Expectations is imported anywhere below: no word to anyone about a validation, and a hundred lines of its
# own less in our log.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
logging.getLogger("great_expectations").setLevel(logging.WARNING)
