"""OpenTelemetry, off by default: whether traces are wanted, and the provider that sends them.

The standard environment variables switch it on and configure it; the extra `telemetry` installs the packages. Nothing
of OpenTelemetry is imported before `make_provider`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_EXPORTER = "OTEL_EXPORTER_OTLP"
_FIELDS = (
    "ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE",
)  # fmt: skip
VARIABLES = (
    "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    *(f"{_EXPORTER}{signal}_{field}" for signal in ("", "_TRACES") for field in _FIELDS),
)  # fmt: skip
"""What a server needs to send traces. The two that end in HEADERS often contain a secret."""
_PROTOCOL = "http/protobuf"
_END_S = 2.0  # a process that ends waits this long for a collector


def is_wanted() -> bool:
    """Return whether the environment names a collector and does not switch traces off."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not disabled and not none and bool(_read("ENDPOINT"))


def find_problem() -> str:
    """Return why the traces that are wanted cannot be sent, and what to do; "" if there is no problem."""
    if not is_wanted():
        return ""
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:  # a package above it
        found = None
    if found is None:
        return "No traces are sent: the exporter is not installed: pip install 'hire-model[telemetry]'."
    protocol = _read("PROTOCOL") or _PROTOCOL
    if protocol != _PROTOCOL:
        return (
            f"No traces are sent: {_EXPORTER}_PROTOCOL={protocol} is not supported. Set it to {_PROTOCOL}, and the "
            "endpoint to the collector's HTTP port, usually 4318."
        )
    return ""


def make_provider(service: str, attributes: Mapping[str, str]) -> TracerProvider:
    """Return a provider that sends spans to the collector of the environment, in a thread.

    It is not installed globally. A full queue or a collector that does not answer loses spans and never waits.

    Args:
        service: service.name, unless the environment has another one.
        attributes: of the process, such as the version of its model.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource({"service.name": service, **attributes}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # it would wait for up to 30 s
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    atexit.register(_flush, provider)
    return provider


def _flush(provider: TracerProvider) -> None:
    thread = Thread(target=provider.force_flush, daemon=True)
    thread.start()
    thread.join(_END_S)


def _read(field: str) -> str:
    """Return a variable of the exporter. The one for traces overrides the general one."""
    names = (f"{_EXPORTER}_TRACES_{field}", f"{_EXPORTER}_{field}")
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")
