"""Handler for TorchServe: pass request bodies to `Service.answer` and return its replies. Part of the archive.

TorchServe requires exactly one class in this file and imports the file as `handler`, so it has no relative imports.
TorchServe's base handler is not used: it changes the float32 precision, loads pickles unsafely and imports captum.
"""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hire_model.packaging.opening import open_service
from hire_model.service.contract import PROBE, TRACEPARENT
from hire_model.service.counters import Counters
from hire_model.service.parsing import Request

PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 500: "Internal Server Error"}


class HireHandler:
    """Handler of one worker process: one model, one thread."""

    def initialize(self, context: Any) -> None:
        """Verify and load the model, and check its golden pairs. After an exception the worker does not serve."""
        torch.set_num_threads(1)  # a second thread per worker makes a shared machine slower
        self.service = open_service(Path(context.system_properties["model_dir"]))
        self.counters = Counters(partial(_send_metrics, context))
        gc.collect()
        gc.freeze()  # the collector need not look at the model and the libraries again

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Answer each request in order, each with its own status. Never raises."""
        requests = [
            Request(
                _get_body(item),
                explain=context.get_request_header(i, "explain") == "True",
                probe=context.get_request_header(i, PROBE) == "1",
                traceparent=context.get_request_header(i, TRACEPARENT) or "",
            )
            for i, item in enumerate(data)
        ]
        replies, timings = self.service.answer(requests)
        for i, reply in enumerate(replies):
            context.set_response_status(reply.status, PHRASES[reply.status], i)
            context.set_response_content_type(i, "application/json")
        self.counters.add(timings)
        return [reply.body for reply in replies]


def _get_body(item: dict[str, Any]) -> bytes | bytearray | str:
    """Return the undecoded body (decode_input_request=false in serving/config). Return no body for a form."""
    body = item.get("body", item.get("data"))
    return body if isinstance(body, bytes | bytearray | str) else b""


def _send_metrics(context: Any, sums: dict[str, float]) -> None:
    """Add to the metrics of serving/config/metrics.yaml: TorchServe reads them from the output of this process."""
    if context.metrics is not None:
        for name, value in sums.items():
            context.metrics.add_counter(name, value)
