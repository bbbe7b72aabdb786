"""Hire: image-text matching over detected regions, boxes and scene graphs.

The names below load torch only when they are first used, so that `hire --help` answers at once.
"""

import os
from importlib import import_module
from typing import Any

# Read by OpenMP when torch is loaded. Without it torch's threads wait for each other in a busy loop, which on a machine
# that does something else too takes a training step from half a second to five.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
_HOMES = {
    "Hire": "hire_model.model.hire",
    "Scorer": "hire_model.scoring.scorer",
    "Dataset": "hire_model.data.store",
    "HireError": "hire_model.errors",
    "fetch": "hire_model.tracking.registry",
}
__all__ = ["Dataset", "Hire", "HireError", "Scorer", "__version__", "fetch"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hire_model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
