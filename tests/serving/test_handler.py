"""The handler, without TorchServe: one class, one answer per request, no exception."""

from __future__ import annotations

import inspect
import json
import runpy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hire_model.errors import HireError
from hire_model.packaging.verify import GOLDEN, ArchiveError
from hire_model.service.counters import Counters
from serving import HANDLER
from serving.handler import HireHandler, _send_metrics


class Context:
    """A fake of TorchServe's context, with the parts that the handler uses."""

    def __init__(self, folder: Path, explain: tuple[int, ...] = ()) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.explain = explain
        self.status: dict[int, tuple[int, str]] = {}
        self.types: dict[int, str] = {}
        self.counted: dict[str, float] = {}
        self.metrics = self

    def get_request_header(self, idx: int, key: str) -> str | None:
        return "True" if key == "explain" and idx in self.explain else "False"

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status[idx] = (code, phrase)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.types[idx] = value

    def add_counter(self, name: str, value: float) -> None:
        self.counted[name] = self.counted.get(name, 0) + value


@pytest.fixture(scope="module")
def loaded(unpacked: Path) -> HireHandler:
    handler = HireHandler()
    handler.initialize(Context(unpacked))
    return handler


@pytest.fixture
def context(unpacked: Path) -> Context:
    return Context(unpacked, explain=(1,))


@pytest.fixture
def handler(loaded: HireHandler, context: Context) -> HireHandler:
    """The loaded handler, with metrics that are written to `context` when `flush` is called."""
    loaded.counters = Counters(partial(_send_metrics, context), seconds=3600)
    return loaded


@pytest.fixture
def golden(unpacked: Path) -> dict[str, Any]:
    return json.loads((unpacked / GOLDEN).read_text("utf-8"))


def test_the_file_defines_one_class_when_imported_by_its_bare_name() -> None:
    names = runpy.run_path(str(HANDLER), run_name="handler")
    classes = [name for name, value in names.items() if inspect.isclass(value) and value.__module__ == "handler"]
    assert classes == ["HireHandler"]
    assert "torch_handler" not in HANDLER.read_text("utf-8"), "TorchServe's base handler is not used"


def test_each_request_is_answered_in_order_with_its_status(
    handler: HireHandler, context: Context, golden: dict[str, Any]
) -> None:
    body = json.dumps(golden["request"]).encode()
    items = [{"body": bytearray(body)}, {"data": body}, {"body": b"\xff"}, {"file": b"x"}, {}, {"body": {"a": 1}}]
    answers = handler.handle(items, context)
    assert len(answers) == len(items) and all(isinstance(answer, str) for answer in answers)
    assert [context.status[i][0] for i in range(6)] == [200, 200, 400, 400, 400, 400]
    assert set(context.types.values()) == {"application/json"}
    assert all(phrase.isascii() for _, phrase in context.status.values()), (
        "TorchServe counts characters instead of bytes"
    )
    assert json.loads(answers[0])["scores"] == pytest.approx(golden["scores"], abs=1e-5)
    assert len(json.loads(answers[1])["explanations"]) == len(golden["scores"])
    assert not context.counted, "once a second, not for each request"
    handler.counters.flush()
    assert context.counted["HireRefusals"] == 4 and context.counted["HirePairs"] == len(golden["scores"])
    assert context.counted["HireDecodeMilliseconds"] > 0


def test_requests_are_answered_when_metrics_fail(
    handler: HireHandler, context: Context, golden: dict[str, Any]
) -> None:
    for metrics in (None, object()):
        context.metrics = metrics  # type: ignore[assignment]
        assert len(handler.handle([{"body": json.dumps(golden["request"])}], context)) == 1
        handler.counters.flush()
    assert context.status[0][0] == 200


def test_every_metric_of_the_handler_is_configured(
    handler: HireHandler, context: Context, golden: dict[str, Any]
) -> None:
    handler.handle([{"body": json.dumps(golden["request"])}, {"body": b""}], context)
    handler.handle([{"body": json.dumps(golden["request"])}], context)
    handler.counters.flush()
    configured = (HANDLER.parent / "config" / "metrics.yaml").read_text("utf-8")
    assert len(context.counted) == 9 and all(f"name: {name}," in configured for name in context.counted)


def test_a_damaged_archive_folder_is_refused(unpacked: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(unpacked, tmp_path / "damaged")
    (damaged / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(ArchiveError, match=r"tokenizer\.json"):
        HireHandler().initialize(Context(damaged))
    assert issubclass(ArchiveError, HireError)
