"""Traces of requests: a span per request, and below it one per stage. Off by default (hire_model/telemetry.py).

A span has status, kind and counts. It has no text, no id, no token and no picture.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hire_model import telemetry
from hire_model.service.contract import TRACEPARENT, ModelFacts
from hire_model.service.parsing import Request
from hire_model.service.timings import Stage, Timings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)


class Tracing:
    """Sends spans to `provider`. `record` never raises and never waits.

    The spans are made after the request, from its measurements, so that a service without traces has no work.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace, self._propagator, self._root = trace, TraceContextTextMapPropagator(), Context()
        self._tracer = provider.get_tracer("hire_model.service")

    def record(self, request: Request, status: int, start: int, timings: Timings, stages: Sequence[Stage]) -> None:
        """Send the span of an answered request.

        Args:
            request: the request. With the traceparent of its client, the span continues the client's trace.
            status: status of the answer.
            start: when the work began, in nanoseconds since 1970.
            timings: counts of the request.
            stages: what was done for it.
        """
        if request.probe:
            return
        try:
            self._record(request, status, start, timings, stages)
        except Exception:
            log.exception("Cannot record a span")

    def _record(self, request: Request, status: int, start: int, timings: Timings, stages: Sequence[Stage]) -> None:
        trace = self._trace
        attributes: dict[str, str | int] = {
            "http.response.status_code": status, "hire.request": timings.kind, "hire.pairs": timings.pairs,
            "hire.images": timings.images.items, "hire.image_cache_hits": timings.images.hits,
            "hire.texts": timings.texts.items, "hire.text_cache_hits": timings.texts.hits,
        }  # fmt: skip
        span = self._tracer.start_span(
            "explain" if request.explain else "predict",
            self._propagator.extract({TRACEPARENT: request.traceparent}, self._root),
            trace.SpanKind.SERVER,
            attributes,
            start_time=start,
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        below = trace.set_span_in_context(span, self._root)
        for stage in stages:
            self._tracer.start_span(stage.name, below, start_time=stage.start).end(stage.end)
        span.end()


def open_tracing(facts: ModelFacts) -> Tracing | None:
    """Return the tracing of a server of this model, or None if it is off. If it cannot be on, log why."""
    if problem := telemetry.find_problem():
        log.warning(problem)
    if problem or not telemetry.is_wanted():
        return None
    names = {"hire.model.name": facts.name, "hire.model.version": facts.version, "hire.model.run": facts.run_id}
    return Tracing(telemetry.make_provider("hire", names))
