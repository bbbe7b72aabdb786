"""TorchServe's adapter: bytes in, `Service.answer`, strings out. This file travels in the archive.

TorchServe wants exactly one class in this file, and imports it by its bare name, so everything else is imported by its
full name. Its base handler is not used: that sets float32 precision, loads pickles unsafely and pulls in captum.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from hire_model.packaging.opening import open_service
from hire_model.service.contract import PROBE
from hire_model.service.parsing import Request
from hire_model.service.service import Timings

log = logging.getLogger(__name__)
PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 500: "Internal Server Error"}


class HireHandler:
    """One model, one worker, one thread."""

    def initialize(self, context: Any) -> None:
        """Load the model, digests checked, and score the golden pairs. What is raised here keeps it from serving."""
        torch.set_num_threads(1)  # a second busy thread costs more than it brings on a shared machine
        self.service = open_service(Path(context.system_properties["model_dir"]))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """An answer per request, in order, each with its own status. Never raises."""
        requests = [
            Request(
                _body(item),
                explain=context.get_request_header(i, "explain") == "True",
                probe=context.get_request_header(i, PROBE) == "1",
            )
            for i, item in enumerate(data)
        ]
        replies, timings = self.service.answer(requests)
        for i, reply in enumerate(replies):
            context.set_response_status(reply.status, PHRASES[reply.status], i)
            context.set_response_content_type(i, "application/json")
        _count(context, timings)
        return [reply.body for reply in replies]


def _body(item: dict[str, Any]) -> bytes | bytearray | str:
    """The body as it came: the server is told not to decode JSON (serving/config). A form has other names: no body."""
    body = item.get("body", item.get("data"))
    return body if isinstance(body, bytes | bytearray | str) else b""


def _count(context: Any, timings: Timings) -> None:
    """Metrics of serving/config/metrics.yaml. A fault here must not cost a request its answer."""
    if context.metrics is None:
        return
    try:
        counters = {
            "HirePairs": timings.pairs,
            "HireRefusals": timings.refused,
            "HireImages": timings.images.items,
            "HireImageCacheHits": timings.images.hits,
            "HireTexts": timings.texts.items,
            "HireTextCacheHits": timings.texts.hits,
        }
        for name, value in counters.items():
            if value:
                context.metrics.add_counter(name, value)
        for stage, ms in timings.ms.items():
            context.metrics.add_counter(f"Hire{stage.capitalize()}Milliseconds", round(ms, 3))
    except Exception:
        log.exception("Metrics were not counted")
