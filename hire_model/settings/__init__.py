"""All settings, frozen and typed. Preset < recipe < environment (HIRE_...) < command line; unknown keys are errors.

A recipe is a TOML file in `hire_model/recipes/` (by name) or anywhere (by path); a preset fills in the model's
sizes. Environment variables name a key with double underscores: HIRE_TRAIN__EPOCHS=5 is train.epochs=5.
"""

from hire_model.settings.groups import (
    DataSettings,
    EvaluateSettings,
    GateSettings,
    ModelSettings,
    Settings,
    TextSettings,
    TrackingSettings,
    TrainSettings,
)
from hire_model.settings.resolve import (
    HOME,
    OTHER_VARIABLES,
    Resolved,
    flatten,
    known_keys,
    recipes,
    resolve,
)

__all__ = [
    "HOME",
    "OTHER_VARIABLES",
    "DataSettings",
    "EvaluateSettings",
    "GateSettings",
    "ModelSettings",
    "Resolved",
    "Settings",
    "TextSettings",
    "TrackingSettings",
    "TrainSettings",
    "flatten",
    "known_keys",
    "recipes",
    "resolve",
]
