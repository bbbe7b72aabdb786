"""The folder of a training (train.out): which training it belongs to, and what that training produced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flows.keys import hash_code, read_data_state
from hire_model.data.splits import open_dataset
from hire_model.files import write_text
from hire_model.settings import Settings
from hire_model.settings.fingerprint import compute_training_key
from hire_model.tracking.versions import Version
from hire_model.training.checkpoint import LAST, set_aside_previous

STATE = "flow.json"


@dataclass(frozen=True)
class TrainingFolder:
    """The folder `out`, as seen by the training with `key`. The files of another training do not count."""

    out: Path
    key: str

    @classmethod
    def from_settings(cls, settings: Settings) -> TrainingFolder:
        """Identify the training by its settings, the state of its data and the code of hire_model."""
        data = read_data_state(open_dataset(settings.data).folder)
        return cls(settings.train.out, compute_training_key(settings, data, hash_code("hire_model")))

    @property
    def version(self) -> str:
        """The number of the version that this training registered; empty if it has not finished."""
        return str(self._read_state().get("version", ""))

    @property
    def resumable(self) -> bool:
        """Whether the folder holds a checkpoint of this training."""
        return bool(self._read_state()) and (self.out / LAST).is_file()

    def begin(self) -> None:
        """Set an earlier training's files aside, then write this one's key. This order is safe to interrupt."""
        set_aside_previous(self.out)
        self._write_state({"key": self.key})

    def end(self, version: str, run: str) -> None:
        """Write the number of the version that was registered, and the id of the run that trained it."""
        self._write_state({"key": self.key, "version": version, "run": run})

    def holds(self, version: Version) -> bool:
        """Return whether this training registered `version`; another store may have another version of that number."""
        state = self._read_state()
        return bool(version.run_id) and (state.get("version"), state.get("run")) == (version.number, version.run_id)

    def forget(self) -> None:
        """Make the next training start from the beginning."""
        (self.out / STATE).unlink(missing_ok=True)

    def _read_state(self) -> dict[str, str]:
        path = self.out / STATE
        state: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return state if state.get("key") == self.key else {}

    def _write_state(self, state: dict[str, str]) -> None:
        write_text(json.dumps(state) + "\n", self.out / STATE)
