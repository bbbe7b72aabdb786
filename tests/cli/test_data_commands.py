"""`hire data ...`, run in a subprocess."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def run_hire(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hire_model", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def scan_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "dev_ims.npy", np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32))
    (folder / "dev_caps.txt").write_text("".join(f"a dog {k}\n" for k in range(10)), "utf-8")
    return folder


def test_an_imported_data_set_is_verified_shown_and_replaced(scan_folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = run_hire(
        "data", "import", "scan", str(scan_folder), "--out", out, "--extractor", "noise", "--name", "dogs [1]"
    )
    assert done.returncode == 0, done.stderr
    assert "5 captions per image" in done.stdout and f"hire data validate {out}" in done.stdout
    assert "importing images: 2/2" in done.stderr
    assert run_hire("data", "verify", out).stdout.endswith(": 0 errors\n")
    sheet = tmp_path / "pages" / "sheet.html"
    output = run_hire("data", "show", out, "--out", str(sheet)).stdout
    assert f"Contact sheet: {sheet}" in output and "a dog 9" in sheet.read_text("utf-8")
    assert "dogs [1]" in output and "noise" in output and "a dog 4" in output and "a dog 5" not in output
    again = run_hire("data", "import", "scan", str(scan_folder), "--out", out)
    assert again.returncode == 2 and "already exists" in again.stderr and "--overwrite" in again.stderr
    assert run_hire("data", "import", "scan", str(scan_folder), "--out", out, "--overwrite").returncode == 0


def test_verify_exits_with_1_on_damage(scan_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_hire("data", "import", "scan", str(scan_folder), "--out", str(out))
    (out / "regions.parquet").unlink()
    done = run_hire("data", "verify", str(out))
    assert done.returncode == 1 and "error: regions.parquet" in done.stdout


def test_an_error_is_one_message_without_a_traceback(scan_folder: Path, tmp_path: Path) -> None:
    (scan_folder / "dev_caps.txt").write_text("one\n", "utf-8")
    done = run_hire("data", "import", "scan", str(scan_folder), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "1 captions for 2 images" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_npz_files_are_imported_with_a_graph(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    boxes = np.array([[0, 0, 50, 50], [50, 50, 100, 100]])
    np.savez(folder / "7.npz", x=np.ones((2, 3)), bbox=boxes, image_w=100, image_h=100, classes=np.array([0, 1]))
    (tmp_path / "captions.tsv").write_text("image\tsplit\tcaption\n7\tdev\ta dog on a mat\n7\tdev\ttoo much\n", "utf-8")
    (tmp_path / "names.txt").write_text("dog\nmat\n", "utf-8")
    ends = [dict(zip("xywh", (x, x, 50, 50), strict=True)) for x in (0, 50)]
    graph = [{"image_id": 7, "relationships": [{"predicate": "on", "subject": ends[0], "object": ends[1]}]}]
    (tmp_path / "relationships.json").write_text(json.dumps(graph), "utf-8")
    arguments = ["data", "import", "npz", str(folder), "--captions", str(tmp_path / "captions.tsv")]
    arguments += ["--classes", str(tmp_path / "names.txt"), "--vg", str(tmp_path / "relationships.json")]
    done = run_hire(*arguments, "--out", str(tmp_path / "out"), "--captions-per-image", "1")
    assert done.returncode == 0, done.stderr
    output = run_hire("data", "show", str(tmp_path / "out"), "--out", str(tmp_path / "sheet.html")).stdout
    assert "dog (0) on mat (1)" in output and "a dog on a mat" in output and "too much" not in output
    both = run_hire(*arguments, "--sgb", "x.json", "--out", str(tmp_path / "other"))
    assert both.returncode == 2 and "--sgb and --vg are both set" in both.stderr


def test_the_help_of_butd_tsv_lists_its_options() -> None:
    text = run_hire("data", "import", "butd-tsv", "--help").stdout
    assert all(
        option in text for option in ("FILE...", "--captions", "--restval", "--captions-per-image", "--out", "--sgb")
    )


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_incomplete_folder(tmp_path: Path, kind: signal.Signals) -> None:
    command = [sys.executable, "-m", "hire_model", "data", "synth", "--out", "out", "--train", "1000"]

    def reset_sigint() -> None:  # a background process, such as this test, ignores SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=reset_sigint) as process:
        assert process.stderr is not None and "drawing scenes" in process.stderr.readline()
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
        process.send_signal(kind)
        assert process.wait(timeout=120) == 128 + kind
    assert not list(tmp_path.iterdir())
