"""All settings, frozen and typed. Preset < recipe < environment (HIRE_...) < command line; unknown keys are errors.

A recipe is a TOML file in `hire_model/recipes/` (by name) or anywhere (by path); a preset sets the model's sizes.
Environment variables name a key with double underscores: HIRE_TRAIN__EPOCHS=5 is train.epochs=5.
"""

from hire_model.settings.groups import (
    DataSettings,
    EvaluateSettings,
    GateSettings,
    ModelSettings,
    Settings,
    SplitChoice,
    TextSettings,
    TrackingSettings,
    TrainSettings,
)
from hire_model.settings.resolve import (
    HOME,
    OTHER_VARIABLES,
    ResolvedSettings,
    flatten,
    list_keys,
    list_recipes,
    resolve,
)

__all__ = [
    "HOME",
    "OTHER_VARIABLES",
    "DataSettings",
    "EvaluateSettings",
    "GateSettings",
    "ModelSettings",
    "ResolvedSettings",
    "Settings",
    "SplitChoice",
    "TextSettings",
    "TrackingSettings",
    "TrainSettings",
    "flatten",
    "list_keys",
    "list_recipes",
    "resolve",
]
