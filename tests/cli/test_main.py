"""The command line: fast help, exact error messages, and all options passed on."""

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
LARGE_PACKAGES = ("torch", "mlflow", "pandas", "numpy", "pyarrow", "transformers", "matplotlib", "sklearn", "pydantic")


@pytest.fixture
def train_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the calls of `workflow.train`; nothing is trained."""
    from hire_model.workflows import train as workflow

    calls: list[dict[str, Any]] = []

    def train(resolved: ResolvedSettings, **options: Any) -> None:
        calls.append({"settings": resolved.settings, "origins": resolved.origins, **options})

    monkeypatch.setattr(workflow, "train", train)
    return calls


@pytest.fixture
def evaluate_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the calls of `workflow.evaluate`; nothing is evaluated."""
    from hire_model.cli import train
    from hire_model.workflows import evaluate as workflow

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workflow, "evaluate", lambda *arguments, **options: calls.append(arguments))
    monkeypatch.setattr(train, "print_evaluation", lambda outcome: None)
    return calls


def test_help_imports_no_large_package() -> None:
    code = f"import sys, hire_model.cli.main; print(*[m for m in {LARGE_PACKAGES!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_python_m_hire_model_runs_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hire_model", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for command in ("train", "evaluate", "data", "config"):
        assert command in done.stdout


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    listed = [line.split()[1] for line in output.splitlines() if line.startswith("│ ") and line[2] not in " -"]
    order = ["data", "train", "evaluate", "gate", "promote", "package", "serve", "search", "demo", "ablate"]
    assert [name for name in listed if name in order] == order


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"hire {__version__}\n")


def test_train_passes_its_options_on(train_calls: list[dict[str, Any]], tmp_path: Path) -> None:
    data = str(tmp_path / "a b")
    arguments = ["train", "--data", data, "--epochs", "3", "--set", "train.lr=0.1 train.seed=4", "--resume"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    settings: Settings = train_calls[0]["settings"]
    assert (settings.data.path, settings.train.epochs) == (Path(data), 3)
    assert (settings.train.lr, settings.train.seed) == (0.1, 4)
    assert train_calls[0]["resume"] is True and train_calls[0]["name"] == "synthetic"
    assert train_calls[0]["origins"]["train.epochs"] == "command line"


def test_set_takes_precedence_over_the_short_option_and_the_environment(
    train_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIRE_TRAIN__EPOCHS", "7")
    monkeypatch.setenv("HIRE_TRAIN__SEED", "7")
    CliRunner().invoke(app, ["train", "--epochs", "3", "--set", "train.epochs=5"])
    assert train_calls[0]["settings"].train.epochs == 5
    assert train_calls[0]["settings"].train.seed == 7


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
def test_one_set_can_hold_several_pairs(items: list[str] | None, expected: list[str]) -> None:
    assert collect_overrides(items) == expected


def test_evaluate_uses_the_challenger_by_default(evaluate_calls: list[tuple[Any, ...]]) -> None:
    CliRunner().invoke(app, ["evaluate", "--data", "d", "--set", "tracking.model_name=other"])
    models, settings, split, figures, page, limit, _ = evaluate_calls[0]
    assert models == ["models:/other@challenger"]
    assert (settings.data.path, split, figures, page, limit) == (Path("d"), "test", None, None, 0)


def test_evaluate_passes_an_ensemble_on(evaluate_calls: list[tuple[Any, ...]]) -> None:
    arguments = "evaluate --model a --model b --split dev --protocol coco-5k --json f.json --report r.html --limit 7"
    CliRunner().invoke(app, arguments.split())
    models, settings, split, figures, page, limit, _ = evaluate_calls[0]
    assert (models, split, settings.evaluate.protocol) == (["a", "b"], "dev", "coco-5k")
    assert (figures, page, limit) == (Path("f.json"), Path("r.html"), 7)


def _make_arguments(name: str, **parameters: str) -> list[str]:
    """Return the arguments that `mlflow run -e NAME -P ...` passes to `hire`, as the shell splits them."""
    import shlex

    from mlflow.projects._project_spec import load_project

    command = shlex.split(load_project(str(ROOT)).get_entry_point(name).compute_command(parameters, None))
    assert command[:3] == ["python", "-m", "hire_model"]
    return command[3:]


def test_entry_point_train_passes_its_parameters_on(train_calls: list[dict[str, Any]]) -> None:
    assert CliRunner().invoke(app, _make_arguments("train")).exit_code == 0
    parameters = {"recipe": "synthetic", "data": "it's here", "epochs": "2", "set": "train.lr=0.5 train.seed=9"}
    assert CliRunner().invoke(app, _make_arguments("train", **parameters)).exit_code == 0
    assert [call["resume"] for call in train_calls] == [False, False]
    plain, other = (call["settings"] for call in train_calls)
    assert plain.data.path is None
    assert (other.data.path, other.train.epochs, other.train.lr) == (Path("it's here"), 2, 0.5)
    assert other.train.seed == 9


def test_entry_point_train_accepts_only_yes_and_no_for_resume(train_calls: list[dict[str, Any]]) -> None:
    for resume in ("yes", "no"):
        assert CliRunner().invoke(app, _make_arguments("train", resume=resume)).exit_code == 0
    assert [call["resume"] for call in train_calls] == [True, False]
    result = CliRunner().invoke(app, _make_arguments("train", resume="maybe"))
    assert result.exit_code == 2 and "--resume-yes" in result.output and len(train_calls) == 2


def test_entry_point_evaluate_uses_the_challenger(evaluate_calls: list[tuple[Any, ...]]) -> None:
    CliRunner().invoke(app, _make_arguments("evaluate"))
    models, settings, split, *_ = evaluate_calls[0]
    assert (models, split, settings.evaluate.protocol) == (["models:/hire@challenger"], "test", "full")


def test_entry_point_validate_accepts_a_good_data_set(tiny_dataset: Path) -> None:
    result = CliRunner().invoke(app, _make_arguments("validate", data=str(tiny_dataset)))
    assert result.exit_code == 0, result.output


def test_every_parameter_of_an_entry_point_has_a_type() -> None:
    for entry in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"].values():
        for parameter in entry["parameters"].values():
            assert parameter["type"] in ("string", "float", "path", "uri")


def test_a_wrong_settings_key_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hire", "train", "--set", "train.epoch=5"])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("hire: ") and "train.epochs" in message and "Traceback" not in message


def test_debug_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from hire_model.workflows import train as workflow

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("no data")

    monkeypatch.setattr(workflow, "train", fail)
    monkeypatch.setattr(sys, "argv", ["hire", "--debug", "train"])
    with pytest.raises(DataError):
        run()


def test_config_show_names_the_origin_of_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
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
    rows = [line.split("command line")[0].split(maxsplit=1) for line in result.output.splitlines() if "command" in line]
    assert {key: value.strip() for key, value in rows} == {
        "train.lr": "0.25", "train.out": "runs/a b", "train.seed": "3",
    }  # fmt: skip


def test_config_show_changed_omits_defaults() -> None:
    result = CliRunner().invoke(app, ["config", "show", "--changed", "--set", "train.lr=0.25"])
    assert "train.lr" in result.output and "train.clip" not in result.output


def test_config_show_names_options_without_effect() -> None:
    arguments = ["config", "show", "--changed", "--set", "model.direction=t2i"]
    output = CliRunner().invoke(app, arguments).output
    assert "model.object_sentence is on, but has no effect, because model.direction=t2i." in output
    assert "no effect" not in CliRunner().invoke(app, [*arguments, "--set", "model.object_sentence=false"]).output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lr=inf", "finite"),
        ("train.out=", "expected the name of a folder"),
        ("data.path=", "expected the name of a folder"),
        ("train=3", "'train' is a group of settings; name one of them, such as 'train.out'"),
        ("model.text.max_words=2", "greater than or equal to 3"),
        ("model.dim=6", "model: model.dim=6 is no multiple"),
    ],
)
def test_an_invalid_setting_is_refused(
    setting: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hire", "config", "show", "--set", setting])
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("path", ["folder", "file/x.json"])
def test_evaluate_checks_first_whether_it_can_write_its_results(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hire", "evaluate", "--model", "nothing", "--json", path])
    with pytest.raises(SystemExit):
        run()
    assert f"{path}: cannot be written" in capsys.readouterr().err


def test_an_unexpected_disk_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hire_model.workflows import train as workflow

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(workflow, "train", fail)
    monkeypatch.setattr(sys, "argv", ["hire", "train"])
    with pytest.raises(SystemExit) as caught:
        run()
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.startswith("hire: [Errno 28] No space left on device: 'runs/x'")
    assert len(message.splitlines()) == 1 and "--debug" in message
