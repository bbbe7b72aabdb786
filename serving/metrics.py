"""Metrics of the gunicorn server for Prometheus. They have TorchServe's names: dashboard and alerts fit both servers.

Each worker counts into a file of its own in PROMETHEUS_MULTIPROC_DIR, once a second; the master process sums them up
for /metrics. prometheus_client wants counters to end in `_total`, which most of TorchServe's do not; so all are gauges.
"""

from __future__ import annotations

import re
import time

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from hire_model.service.counters import Counters
from hire_model.service.timings import Timings

_SUMS = {
    "Requests2XX": "answers with status 2xx",
    "Requests4XX": "answers with status 4xx",
    "Requests5XX": "answers with status 5xx",
    "ts_inference_requests_total": "requests",
    "ts_inference_latency_microseconds": "time of the requests, with the time in the queue",
    "ts_queue_latency_microseconds": "time in the queue",
}
_LAST = {
    "PredictionTime": "milliseconds of the last request, without the queue",
    "QueueTime": "milliseconds of the last request in the queue",
    "WorkerLoadTime": "milliseconds to load the model",
}
_START = re.compile(r"t=([0-9]+\.[0-9]+)")


class Metrics:
    """The metrics of one process."""

    def __init__(self, load_seconds: float) -> None:
        names = _SUMS | dict.fromkeys(Timings().to_counters(), "see hire_model/service/timings.py")
        self.sums = {name: Gauge(name, text, multiprocess_mode="sum") for name, text in names.items()}
        self.last = {name: Gauge(name, text, multiprocess_mode="mostrecent") for name, text in _LAST.items()}
        self.last["WorkerLoadTime"].set(round(1000 * load_seconds, 1))
        self.counters = Counters(self._write)
        self._newest = {"PredictionTime": 0.0, "QueueTime": 0.0}

    def count_request(self, timings: Timings, status: int, request_start: str, start: float) -> None:
        """Count an answer.

        Args:
            timings: what the request took.
            status: status of the answer.
            request_start: header X-Request-Start: t=SECONDS, when front or proxy sent the request.
            start: when the worker accepted it, in seconds as in `time.time`.
        """
        found = _START.fullmatch(request_start)
        waited, worked = max(0.0, start - float(found[1])) if found else 0.0, time.time() - start
        self._newest = {"PredictionTime": 1e3 * worked, "QueueTime": 1e3 * waited}
        sums = {
            f"Requests{status // 100}XX": 1, "ts_inference_requests_total": 1,
            "ts_inference_latency_microseconds": 1e6 * (waited + worked), "ts_queue_latency_microseconds": 1e6 * waited,
        }  # fmt: skip
        self.counters.add(timings, **sums)

    def _write(self, sums: dict[str, float]) -> None:
        for name, value in sums.items():
            self.sums[name].inc(value)
        for name, value in self._newest.items():
            self.last[name].set(value)


def serve_metrics(port: int) -> None:
    """Answer /metrics on 127.0.0.1:PORT in a thread."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(port, "127.0.0.1", registry)
