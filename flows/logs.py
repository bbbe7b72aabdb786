"""What of the project's own logs reaches Prefect, and how Prefect words a failure."""

from __future__ import annotations

import logging

from prefect.logging.handlers import APILogHandler

from hire_model.errors import HireError

OURS = ("hire_model", "expectations")


class OnlyTheMessage(logging.Filter):
    """Prefect logs a traceback for whatever fails; of a fault that the user can mend it keeps the message alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record may be changed."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HireError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def install() -> None:
    """Send our loggers' lines to the run that they arise in, and put the filter on the loggers of runs."""
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
            logger.addHandler(APILogHandler())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(OnlyTheMessage())
