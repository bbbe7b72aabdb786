"""What a folder of a training (train.out) belongs to: whether it can be taken up again, or need not be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flows.keys import code_digest, data_key, key_of
from hire_model.data.chosen import open_dataset
from hire_model.files import write_text
from hire_model.settings import Settings
from hire_model.tracking.versions import Version
from hire_model.training.checkpoint import LAST, set_aside_previous

STATE = "flow.json"


@dataclass(frozen=True)
class TrainingFolder:
    """The folder `out` as the training with `key` finds it."""

    out: Path
    key: str

    @classmethod
    def of(cls, settings: Settings) -> TrainingFolder:
        """Its key: the data's digest, all settings, and the code of hire_model."""
        data = data_key(open_dataset(settings.data).folder)
        return cls(
            settings.train.out, key_of("train", data, settings.model_dump(mode="json"), code_digest("hire_model"))
        )

    @property
    def version(self) -> str:
        """The version that this very training has given; empty where it has not ended."""
        return str(self._state().get("version", ""))

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint of this very training lies here."""
        return bool(self._state()) and (self.out / LAST).is_file()

    def begin(self) -> None:
        """Set an earlier training's files aside, and then say whose the folder is; never the other way round."""
        set_aside_previous(self.out)
        write_text(json.dumps({"key": self.key}) + "\n", self.out / STATE)

    def end(self, version: str, run: str) -> None:
        """Note what came of it: the version's number, and the id of the run that made it."""
        write_text(json.dumps({"key": self.key, "version": version, "run": run}) + "\n", self.out / STATE)

    def holds(self, version: Version) -> bool:
        """Whether that is the version that this training has given. Another store may have another of its number."""
        state = self._state()
        return bool(version.run_id) and (state.get("version"), state.get("run")) == (version.number, version.run_id)

    def forget(self) -> None:
        """Let nothing of what lies here be taken up."""
        (self.out / STATE).unlink(missing_ok=True)

    def _state(self) -> dict[str, str]:
        path = self.out / STATE
        state: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return state if state.get("key") == self.key else {}
