"""Files with the access token of a server. All servers and the front have the same ones."""

from __future__ import annotations

from pathlib import Path

from hire_model.files import atomic_write

KEYS = "key_file.json"  # the format of TorchServe: {"inference": {"key": TOKEN}, ...}
HEADER = "header.txt"  # for `curl -H @FILE`: a token in the command line would appear in the process list


def write_header(folder: Path, token: str) -> None:
    """Write the Authorization header to FOLDER/header.txt, readable by its owner only. An equal file is left as is."""
    line, path = f"Authorization: Bearer {token}\n", folder / HEADER
    if path.is_file() and path.read_text("utf-8") == line:
        return
    with atomic_write(path, 0o600) as partial:
        partial.write_text(line, "utf-8")
