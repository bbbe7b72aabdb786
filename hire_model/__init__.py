"""Hire: image-text matching over detected regions, boxes and scene graphs.

The public names load torch only when they are first used, so that `hire --help` starts at once.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and the API reference
    from hire_model.data.store import Dataset
    from hire_model.errors import HireError
    from hire_model.model.hire import Hire
    from hire_model.scoring.scorer import Scorer
    from hire_model.tracking.registry import fetch

# GNU OpenMP reads this when torch is loaded: how often a waiting thread polls before it sleeps. The default of 300,000
# polls occupies cores that other processes need: training on a busy machine is ten times slower. 1,000 polls cost 2 %
# on an idle machine (docs/experiments/speed.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.2.0"
_MODULES = {
    "Hire": "hire_model.model.hire",
    "Scorer": "hire_model.scoring.scorer",
    "Dataset": "hire_model.data.store",
    "HireError": "hire_model.errors",
    "fetch": "hire_model.tracking.registry",
}
__all__ = ["Dataset", "Hire", "HireError", "Scorer", "__version__", "fetch"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hire_model' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
