"""What the fixture `registered_model` of conftest.py gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hire_model.settings import Settings


@dataclass(frozen=True)
class RegisteredModel:
    """A tiny trained model that is version 1, the challenger, of `hire` in a store of its own."""

    settings: Settings
    version: str
    folder: Path
    dataset: Path
