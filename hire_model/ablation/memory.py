"""The file that remembers which trainings of an ablation are done."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.errors import HireError

log = logging.getLogger(__name__)


class Record(BaseModel):
    """What is remembered of a trial; `key` says of which settings, seed and data (not of which code)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    variant: str
    seed: int


R = TypeVar("R", bound=Record)


class Memory(Generic[R]):
    """Records in a file of JSON lines. Each is appended in one write, so several processes may share the file."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path, self.kind = path, kind

    def all(self) -> dict[str, R]:
        """The records by key. A broken line (a machine that died while writing) is named and its trial done again."""
        found: dict[str, R] = {}
        lines = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                record = self.kind.model_validate_json(line)
            except ValidationError:
                if line:
                    log.warning("%s, line %d: not a record of this version; left out.", self.path, number)
                continue
            found[record.key] = record
        return found

    def add(self, record: R) -> None:
        """Append `record`, and see it safely on disk. Raises HireError where that cannot be done."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                torn = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * torn + record.model_dump_json().encode() + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise HireError(f"{self.path}: cannot be written: {error.strerror or error}.") from error
