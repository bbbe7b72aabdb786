"""All settings, typed and immutable. Preset < recipe < environment (HIRE_...) < command line; unknown keys are errors.

A recipe is a TOML file in `hire_model/recipes/` (by name) or anywhere else (by path). A preset sets sizes and stages
of the model. An environment variable uses double underscores for dots: HIRE_TRAIN__EPOCHS=5 sets train.epochs.
"""

from hire_model.settings.groups import (
    DataSettings,
    EvaluateSettings,
    GateSettings,
    ModelSettings,
    Settings,
    SigningSettings,
    SplitChoice,
    TextSettings,
    TrackingSettings,
    TrainSettings,
)
from hire_model.settings.resolve import (
    PACKAGE_FOLDER,
    ResolvedSettings,
    flatten,
    list_keys,
    list_recipes,
    resolve,
)

__all__ = [
    "PACKAGE_FOLDER",
    "DataSettings",
    "EvaluateSettings",
    "GateSettings",
    "ModelSettings",
    "ResolvedSettings",
    "Settings",
    "SigningSettings",
    "SplitChoice",
    "TextSettings",
    "TrackingSettings",
    "TrainSettings",
    "flatten",
    "list_keys",
    "list_recipes",
    "resolve",
]
