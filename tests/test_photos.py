"""Run the commands of docs/photos.md on a small folder of pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from picture_examples import write_pictures
from test_readme import SMALL

PAGE = Path(__file__).parent.parent / "docs" / "photos.md"
BLOCK = re.compile(r"<!-- test -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.mark.live
def test_the_commands_of_the_page_make_a_searchable_model_from_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 24)
    (tmp_path / "in" / "pictures").rename(tmp_path / "photos")
    (tmp_path / "in" / "captions.csv").rename(tmp_path / "captions.csv")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "HIRE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = (
        kept | SMALL | {"HIRE_MODEL__TEXT__KIND": "bigru", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", "PATH": path}
    )
    commands = "".join(BLOCK.findall(PAGE.read_text("utf-8")))
    assert commands.count("hire ") == 7
    done = subprocess.run(
        ["bash", "-euxc", commands], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "30 regions (grid regions, EfficientNet-Lite0)" in done.stdout and "[marks]" in done.stdout
    assert "24 of 24 images scored" in done.stdout
