"""The command line: quick to answer, exact about mistakes, and faithful in what it hands on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from hire_model import __version__
from hire_model.cli.main import app, run
from hire_model.cli.options import collect_overrides
from hire_model.errors import DataError
from hire_model.settings import ResolvedSettings, Settings

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "mlflow", "pandas", "numpy", "pyarrow", "transformers", "matplotlib", "sklearn", "pydantic")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `workflow.train` was called with; nothing is trained."""
    from hire_model.workflows import train as workflow

    calls: list[dict[str, Any]] = []

    def train(resolved: ResolvedSettings, **options: Any) -> None:
        calls.append({"settings": resolved.settings, "origins": resolved.origins, **options})

    monkeypatch.setattr(workflow, "train", train)
    return calls


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `workflow.evaluate` was called with."""
    from hire_model.cli import train
    from hire_model.workflows import evaluate as workflow

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workflow, "evaluate", lambda *arguments, **options: calls.append(arguments))
    monkeypatch.setattr(train, "print_evaluation", lambda outcome: None)
    return calls


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, hire_model.cli.main; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_python_m_hire_model_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hire_model", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for command in ("train", "evaluate", "data", "config"):
        assert command in done.stdout


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    listed = [line.split()[1] for line in said.splitlines() if line.startswith("│ ") and line[2] not in " -"]
    order = ["data", "train", "evaluate", "gate", "promote", "package", "serve", "search", "demo", "ablate"]
    assert [name for name in listed if name in order] == order


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"hire {__version__}\n")


def test_train_hands_on_what_was_said(trained: list[dict[str, Any]], tmp_path: Path) -> None:
    place = str(tmp_path / "a b")
    arguments = ["train", "--data", place, "--epochs", "3", "--set", "train.lr=0.1 train.seed=4", "--resume"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    settings: Settings = trained[0]["settings"]
    assert (settings.data.path, settings.train.epochs) == (Path(place), 3)
    assert (settings.train.lr, settings.train.seed) == (0.1, 4)
    assert trained[0]["resume"] is True and trained[0]["name"] == "synthetic"
    assert trained[0]["origins"]["train.epochs"] == "command line"


def test_set_wins_over_the_short_option_and_the_environment(
    trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIRE_TRAIN__EPOCHS", "7")
    monkeypatch.setenv("HIRE_TRAIN__SEED", "7")
    CliRunner().invoke(app, ["train", "--epochs", "3", "--set", "train.epochs=5"])
    assert trained[0]["settings"].train.epochs == 5
    assert trained[0]["settings"].train.seed == 7


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (None, []),
        ([""], []),
        (["train.lr=1  train.seed=2"], ["train.lr=1", "train.seed=2"]),
        (["data.path=/a b/c d"], ["data.path=/a b/c d"]),
        (["a.b=1", "c.d=2"], ["a.b=1", "c.d=2"]),
    ],
)
def test_one_set_may_hold_several(items: list[str] | None, expected: list[str]) -> None:
    assert collect_overrides(items) == expected


def test_evaluate_takes_the_challenger_by_default(evaluated: list[tuple[Any, ...]]) -> None:
    CliRunner().invoke(app, ["evaluate", "--data", "d", "--set", "tracking.model_name=other"])
    models, settings, split, figures, page, limit = evaluated[0]
    assert models == ["models:/other@challenger"]
    assert (settings.data.path, split, figures, page, limit) == (Path("d"), "test", None, None, 0)


def test_evaluate_hands_on_an_ensemble(evaluated: list[tuple[Any, ...]]) -> None:
    arguments = "evaluate --model a --model b --split dev --protocol coco-5k --json f.json --report r.html --limit 7"
    CliRunner().invoke(app, arguments.split())
    models, settings, split, figures, page, limit = evaluated[0]
    assert (models, split, settings.evaluate.protocol) == (["a", "b"], "dev", "coco-5k")
    assert (figures, page, limit) == (Path("f.json"), Path("r.html"), 7)


def _entry(name: str, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> list[str]:
    """The arguments that `mlflow run -e NAME -P ...` gives to `hire`, as the shell splits them."""
    import shlex

    from mlflow.projects._project_spec import load_project

    words = shlex.split(load_project(str(ROOT)).get_entry_point(name).compute_command(parameters, None))
    assert words[:3] == ["python", "-m", "hire_model"]
    return words[3:]


def test_entry_point_train(trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, _entry("train", monkeypatch)).exit_code == 0
    said = {"recipe": "synthetic", "data": "it's here", "epochs": "2", "set": "train.lr=0.5 train.seed=9"}
    assert CliRunner().invoke(app, _entry("train", monkeypatch, **said)).exit_code == 0
    assert [call["resume"] for call in trained] == [False, False]
    plain, other = (call["settings"] for call in trained)
    assert plain.data.path is None
    assert (other.data.path, other.train.epochs, other.train.lr) == (Path("it's here"), 2, 0.5)
    assert other.train.seed == 9


def test_entry_point_train_resumes(trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("yes", "no"):
        assert CliRunner().invoke(app, _entry("train", monkeypatch, resume=said)).exit_code == 0
    assert [call["resume"] for call in trained] == [True, False]
    result = CliRunner().invoke(app, _entry("train", monkeypatch, resume="maybe"))
    assert result.exit_code == 2 and "--resume-yes" in result.output and len(trained) == 2


def test_entry_point_evaluate(evaluated: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    CliRunner().invoke(app, _entry("evaluate", monkeypatch))
    models, settings, split, *_ = evaluated[0]
    assert (models, split, settings.evaluate.protocol) == (["models:/hire@challenger"], "test", "full")


def test_entry_point_validate(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, _entry("validate", monkeypatch, data=str(tiny_dataset)))
    assert result.exit_code == 0, result.output


def test_entry_points_say_what_type_each_parameter_has() -> None:
    for entry in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"].values():
        for parameter in entry["parameters"].values():
            assert parameter["type"] in ("string", "float", "path", "uri")


def test_a_mistake_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hire", "train", "--set", "train.epoch=5"])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("hire: ") and "train.epochs" in said and "Traceback" not in said


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    from hire_model.workflows import train as workflow

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("no data")

    monkeypatch.setattr(workflow, "train", fail)
    monkeypatch.setattr(sys, "argv", ["hire", "--debug", "train"])
    with pytest.raises(DataError):
        run()


def test_config_show_names_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIRE_TRAIN__SEED", "5")
    monkeypatch.setenv("COLUMNS", "120")
    result = CliRunner().invoke(app, ["config", "show", "--recipe", "synthetic", "--set", "train.lr=0.25"])
    lines = filter(None, map(str.strip, result.output.splitlines()))
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert rows["train.lr"] == ["0.25", "command line"]
    assert rows["train.seed"] == ["5", "environment"]
    assert rows["data.test"] == ["test", "recipe synthetic"]
    assert rows["train.clip"][1] == "default"


def test_config_show_splits_one_set_as_train_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = CliRunner().invoke(app, ["config", "show", "--set", "train.lr=0.25 train.out=runs/a b train.seed=3"])
    assert result.exit_code == 0, result.output
    said = [line.split("command line")[0].split(maxsplit=1) for line in result.output.splitlines() if "command" in line]
    assert {key: value.strip() for key, value in said} == {
        "train.lr": "0.25", "train.out": "runs/a b", "train.seed": "3",
    }  # fmt: skip


def test_config_show_changed_leaves_defaults_out() -> None:
    result = CliRunner().invoke(app, ["config", "show", "--changed", "--set", "train.lr=0.25"])
    assert "train.lr" in result.output and "train.clip" not in result.output


def test_config_show_says_what_is_at_rest() -> None:
    words = ["config", "show", "--changed", "--set", "model.direction=t2i"]
    said = CliRunner().invoke(app, words).output
    assert "model.object_sentence is on and does nothing, as model.direction=t2i." in said
    assert "does nothing" not in CliRunner().invoke(app, [*words, "--set", "model.object_sentence=false"]).output


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lr=inf", "finite"),
        ("train.out=", "expected the name of a folder"),
        ("data.path=", "expected the name of a folder"),
        ("train=3", "'train' is a group of settings; name one of them, such as 'train.out'"),
        ("model.text.max_words=2", "greater than or equal to 3"),
        ("model.dim=6", "model: model.dim=6 is no multiple"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    setting: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hire", "config", "show", "--set", setting])
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("place", ["folder", "file/x.json"])
def test_evaluate_asks_first_whether_figures_can_be_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hire", "evaluate", "--model", "nothing", "--json", place])
    with pytest.raises(SystemExit):
        run()
    assert f"{place}: cannot be written" in capsys.readouterr().err


def test_an_unforeseen_fault_of_the_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hire_model.workflows import train as workflow

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(workflow, "train", fail)
    monkeypatch.setattr(sys, "argv", ["hire", "train"])
    with pytest.raises(SystemExit) as caught:
        run()
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("hire: [Errno 28] No space left on device: 'runs/x'")
    assert len(said.splitlines()) == 1 and "--debug" in said
