"""Rehearse serving: unpack an archive, load its handler, and score the golden pairs like a server.

`python -I -m hire_model.packaging.rehearse ARCHIVE` does this in a clean interpreter.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hire_model.errors import HireError
from hire_model.files import scratch_folder
from hire_model.packaging.verify import GOLDEN, SERVER_MANIFEST, ArchiveError, Golden, extract

TIMEOUT_S = 600
# The rehearsal gets only these variables, so that nothing else changes what Python does,
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "HF_HOME")
# and one thread, like a serving worker.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


class _Context:
    """The part of TorchServe's context that a handler uses."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder), "batch_size": 1}
        self.metrics = None
        self.status = 0

    def get_request_header(self, idx: int, key: str) -> str | None:
        return None

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        pass


def rehearse(archive: Path) -> float:
    """Score the golden pairs from `archive` in a clean interpreter; return the largest difference to their scores.

    Raises ArchiveError with the last lines of the interpreter's output if it fails.
    """
    command = [sys.executable, "-I", "-m", "hire_model.packaging.rehearse", str(archive.resolve())]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | _ONE_THREAD
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False, cwd=archive.parent
        )
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(f"{archive}: scoring its golden pairs took more than {TIMEOUT_S} s.") from error
    if result.returncode:
        raise ArchiveError(f"{archive}: its golden pairs cannot be scored: {result.stderr.strip()[-600:]}")
    return float(result.stdout.split()[-1])


def rehearse_in_process(archive: Path) -> float:
    """Score the golden pairs in this interpreter; see `rehearse`."""
    with scratch_folder("hire-rehearsal-") as folder:
        extract(archive, folder)
        server = json.loads((folder / SERVER_MANIFEST).read_text("utf-8"))
        golden = Golden.model_validate_json((folder / GOLDEN).read_text("utf-8"))
        handler, context = _load_handler(folder / server["model"]["handler"])(), _Context(folder)
        handler.initialize(context)
        answers = handler.handle([{"body": json.dumps(golden.request).encode()}], context)
        if context.status != 200:
            raise ArchiveError(f"{archive}: the golden request got status {context.status}: {answers[0]}")
        return golden.measure_difference(json.loads(answers[0])["scores"])


def _load_handler(path: Path) -> Any:
    """Load the class that the handler file defines. There must be one, because TorchServe rejects a file with two."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    classes = [member for _, member in inspect.getmembers(module, inspect.isclass) if member.__module__ == path.stem]
    if len(classes) != 1:
        raise ArchiveError(f"{path.name}: defines {len(classes)} classes; the server expects exactly one.")
    return classes[0]


if __name__ == "__main__":
    try:
        print(rehearse_in_process(Path(sys.argv[1])))
    except HireError as error:
        sys.exit(str(error))
