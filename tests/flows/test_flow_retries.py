"""Transient faults of I/O are retried, other failures are not."""

from __future__ import annotations

import errno

import httpx
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from prefect.task_engine import TaskRunTimeoutError
from sqlalchemy.exc import OperationalError

from flows.prefect_support import is_transient
from hire_model.errors import DataError, HireError
from hire_model.tracking.lease import PromotionBusy


def wrap(cause: BaseException) -> HireError:
    error = HireError("the store does not answer")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("no"),
        TimeoutError("late"),
        httpx.ConnectError("no"),
        requests.ConnectionError("no"),
        OSError(errno.EIO, "I/O error"),
        OperationalError("SELECT 1", {}, Exception("database is locked")),
        MlflowException("503", TEMPORARILY_UNAVAILABLE),
        PromotionBusy("another promotion is under way"),
        wrap(requests.ConnectionError("no")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_transient_fault_is_retried(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("captions.parquet, row 7: empty"),
        HireError("settings"),
        FileNotFoundError(errno.ENOENT, "gone"),
        OSError(errno.ENOSPC, "full"),
        PermissionError(errno.EACCES, "no"),
        TaskRunTimeoutError("too long"),
        MlflowException("no such version", RESOURCE_DOES_NOT_EXIST),
        ValueError("a bug"),
        wrap(FileNotFoundError(errno.ENOENT, "gone")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_failure_is_not_retried(error: BaseException) -> None:
    assert not is_transient(error)
