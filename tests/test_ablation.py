"""Tiny ablations: variants, records of trials, and wrong edges."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hire_model.ablation import edges, perturb, stages
from hire_model.ablation import study as ablation
from hire_model.ablation.perturb import KINDS, Tally, perturb_edges
from hire_model.ablation.study import RecordFile, Study, TrialRecord
from hire_model.batch import Regions
from hire_model.cli.main import app
from hire_model.data.loading import collate_regions
from hire_model.data.store import Dataset, Split
from hire_model.errors import HireError, SettingsError, TrainingStopped
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import resolve
from hire_model.workflows import train as workflow

pytestmark = pytest.mark.slow

TINY = ["model.preset=tiny", "data.test=test", "train.epochs=1", "train.batch=8", "train.threads=1"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of trials (variant and seed), filled in the order of their training."""
    calls: list[str] = []
    real = ablation.train_trial

    def train(trial: ablation.Trial, *rest: Any) -> Any:
        calls.append(f"{trial.variant} {trial.seed}")
        return real(trial, *rest)

    monkeypatch.setattr(stages, "train_trial", train)
    monkeypatch.setattr(edges, "train_trial", train)
    return calls


def _study(data: Path, out: Path, *more: str, seeds: tuple[int, ...] = (0,)) -> Study:
    return Study("synthetic", [*TINY, *more], seeds, out, Dataset.open(data))


# Variants


def _model_settings(overrides: dict[str, str], recipe: str = "synthetic") -> dict[str, Any]:
    return resolve(recipe, [f"{k}={v}" for k, v in overrides.items()], environ={}).settings.model.model_dump()


def test_each_variant_differs_from_its_reference_in_its_own_stage_alone() -> None:
    by_name = {variant.name: _model_settings(variant.overrides) for variant in stages.VARIANTS}
    stage_of = {
        "implicit": {"image_implicit", "text_implicit"}, "object-word": {"object_word"},
        "object-sentence": {"object_sentence"}, "word-image": {"word_image"},
        "relation-match": {"relation_match"}, "alignment": {"alignment"},
    }  # fmt: skip
    for variant in stages.VARIANTS:
        if variant.name in ("base", "full"):
            continue
        values, reference = by_name[variant.name], by_name[variant.reference]
        changed = {key for key in values if values[key] != reference[key]}
        assert changed == stage_of.get(variant.name.removeprefix(variant.reference)[1:], {"graphs"}), variant.name
    base = by_name["base"]
    switches = ("image_implicit", "object_word", "object_sentence", "word_image", "relation_match")
    assert (base["graphs"], base["text_implicit"], [base[s] for s in switches]) == ("none", "off", [False] * 5)
    assert by_name["full"]["graphs"] == "both" and all(by_name["full"][s] for s in switches)


def test_an_unknown_variant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(HireError, match=r"Did you mean 'base\+implicit'"):
        stages.select_variants(["base+implict"])


# Records


def test_a_second_call_trains_only_the_missing_trials(tiny_dataset: Path, tmp_path: Path, trained: list[str]) -> None:
    two = ["base", "base+object-word"]
    first = stages.run(_study(tiny_dataset, tmp_path), two)
    assert trained == ["base 0", "base+object-word 0"]
    table = json.loads((tmp_path / "stages.json").read_text())
    assert [row["variant"] for row in table["rows"]] == two
    assert table["origin"]["seeds"] == [0] and table["origin"]["split"] == "test" and table["origin"]["machines"]
    assert "| base+object-word |" in (tmp_path / "stages.md").read_text("utf-8")
    assert not list(tmp_path.glob("unfinished/*")), "checkpoints are removed"
    assert not (tmp_path / "mlflow.db").exists() and not list(tmp_path.rglob("report.html"))

    again = stages.run(_study(tiny_dataset, tmp_path), two)
    assert len(trained) == 2 and again.rows == first.rows
    more = stages.run(_study(tiny_dataset, tmp_path, seeds=(0, 1)), two)
    assert trained[2:] == ["base 1", "base+object-word 1"]
    assert [row.seeds for row in more.rows] == [[0, 1]] * 2
    rows = {row.variant: row for row in more.rows}
    change = rows["base+object-word"].change
    assert change is not None
    assert change.mean == pytest.approx(rows["base+object-word"].rsum.mean - rows["base"].rsum.mean)


def test_two_runs_with_a_seed_give_the_same_figures(tiny_dataset: Path, tmp_path: Path) -> None:
    tables = [stages.run(_study(tiny_dataset, tmp_path / name, seeds=(3,)), ["base"]) for name in "ab"]
    figures = [table.rows[0].model_dump(exclude={"seconds_per_epoch"}) for table in tables]
    assert figures[0] == figures[1]


def test_an_interrupted_trial_resumes_from_its_checkpoint(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(tiny_dataset, tmp_path / "interrupted", "train.epochs=2")
    complete = stages.run(dataclasses.replace(study, out=tmp_path / "complete"), ["base"])
    real, losses = workflow.fit, []

    def fit_interrupted(*arguments: Any, **options: Any) -> Any:
        def stop(record: Any) -> None:
            losses.append(record.loss)
            if len(losses) == 1:
                raise TrainingStopped("Stopped by SIGTERM.")

        return real(*arguments, **options | {"on_epoch": stop})

    monkeypatch.setattr(workflow, "fit", fit_interrupted)
    with pytest.raises(TrainingStopped, match=r"'base' with seed 0.*same command continues"):
        stages.run(study, ["base"])
    resumed = stages.run(study, ["base"])
    assert len(losses) == 2, "the first epoch is not trained again"
    assert resumed.rows[0].rsum == complete.rows[0].rsum and resumed.rows[0].dev_rsum == complete.rows[0].dev_rsum


def test_a_broken_line_loses_only_its_own_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = RecordFile(tmp_path / "deep" / "records.jsonl", TrialRecord)
    file.append(TrialRecord(key="a", variant="x", seed=0))
    with file.path.open("a") as lines:
        lines.write('{"key": "b", "vari')
    file.append(TrialRecord(key="c", variant="y", seed=1))
    assert set(file.read()) == {"a", "c"}
    assert "line 2" in caplog.text


def test_a_wrong_setting_is_refused_before_training(tiny_dataset: Path, tmp_path: Path, trained: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"train\.epochs"):
        stages.run(_study(tiny_dataset, tmp_path, "train.epoch=2"))
    with pytest.raises(HireError, match="coco-5k"):
        stages.run(_study(tiny_dataset, tmp_path, "evaluate.protocol=coco-5k"))
    with pytest.raises(SettingsError, match="no edges"):
        edges.run(_study(tiny_dataset, tmp_path, "model.graphs=none"))
    assert not trained and not list(tmp_path.iterdir())


# Wrong edges


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def model(tiny_dataset: Path) -> Hire:
    """Build an untrained model whose graphs have an effect; without this, their fusion is initialised to zero."""
    torch.manual_seed(0)
    model = build_model(
        resolve("synthetic", TINY, environ={}).settings.model, Dataset.open(tiny_dataset).split("train")
    )
    assert model.explicit is not None
    torch.nn.init.normal_(model.explicit.fuse.weight)
    return model.eval()


@pytest.fixture(scope="module")
def regions(split: Split) -> Regions:
    return collate_regions([split.regions(i) for i in range(len(split.images))])


def _encode(model: Hire, regions: Regions) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode_image(regions).regions


@pytest.mark.parametrize("kind", KINDS)
def test_share_zero_changes_nothing_and_the_hook_is_removed_afterwards(
    model: Hire, split: Split, kind: perturb.Kind
) -> None:
    bank = build_caption_bank(model, split.texts)
    plain = compute_similarity(model, split, bank)
    with perturb_edges(model, kind, 0.0, seed=1):
        assert np.array_equal(compute_similarity(model, split, bank), plain)
    with perturb_edges(model, kind, 1.0, seed=1):
        assert not np.allclose(compute_similarity(model, split, bank), plain)
    assert np.array_equal(compute_similarity(model, split, bank), plain), "the hook is removed"


def test_dropping_all_edges_equals_empty_adjacency_matrices(
    model: Hire, regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with perturb_edges(model, "dropped", 1.0, seed=0) as tally:
        dropped = _encode(model, regions)
    assert tally.shares == (1.0, 1.0)
    assert model.explicit is not None
    real = model.explicit.build_graphs
    monkeypatch.setattr(model.explicit, "build_graphs", lambda r: [torch.zeros_like(a) for a in real(r)])
    assert torch.equal(dropped, _encode(model, regions))


def test_stage_1_gets_the_original_boxes(model: Hire, regions: Regions) -> None:
    seen: list[Regions] = []
    handle = model.regions.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with perturb_edges(model, "dropped", 1.0, seed=0):
        _encode(model, regions)
    handle.remove()
    assert seen[0] is regions


def _perturb(regions: Regions, kind: perturb.Kind, share: float, seed: int) -> tuple[Regions, Tally]:
    tally = Tally()
    rngs = [np.random.default_rng([seed, row]) for row in range(len(regions))]
    return perturb.perturb_regions(regions, kind, share, rngs, tally), tally


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_shuffling_keeps_labels_scores_and_the_set_of_boxes(regions: Regions, share: float, seed: int) -> None:
    perturbed, _ = _perturb(regions, "shuffled", share, seed)
    assert torch.equal(perturbed.relations[:, [0, 2]], regions.relations[:, [0, 2]])
    assert torch.equal(perturbed.relation_scores, regions.relation_scores)
    image, subject, _, object_ = perturbed.relations.unbind(1)
    assert perturbed.mask[image, subject].all() and perturbed.mask[image, object_].all() and (subject != object_).all()
    assert torch.equal(perturbed.boxed, regions.boxed)
    for after, before in zip(perturbed.boxes, regions.boxes, strict=True):
        assert sorted(after.tolist()) == sorted(before.tolist()), "boxes are permuted within their image"
    again, _ = _perturb(regions, "shuffled", share, seed)
    assert torch.equal(again.relations, perturbed.relations) and torch.equal(again.boxes, perturbed.boxes)


@settings(max_examples=25, deadline=None)
@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), seed=st.integers(0, 2**32))
def test_a_larger_share_also_drops_the_edges_of_a_smaller_one(regions: Regions, shares: list[float], seed: int) -> None:
    (small, small_tally), (large, large_tally) = (_perturb(regions, "dropped", share, seed) for share in shares)
    assert {tuple(r) for r in large.relations.tolist()} <= {tuple(r) for r in small.relations.tolist()}
    assert not (large.boxed & ~small.boxed).any()
    assert (
        small_tally.relations_changed <= large_tally.relations_changed
        and small_tally.pairs_changed <= large_tally.pairs_changed
    )
    assert len(regions.relations) - len(large.relations) == large_tally.relations_changed


def test_shuffling_all_moves_every_box(regions: Regions) -> None:
    perturbed, _ = _perturb(regions, "shuffled", 1.0, 0)
    several = regions.boxed & (regions.boxed.sum(dim=1, keepdim=True) > 1)
    assert several.any() and (perturbed.boxes != regions.boxes).any(dim=2)[several].all()
    assert (perturbed.relations != regions.relations).any(dim=1).float().mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_changed_share_is_the_requested_one_on_average(regions: Regions, kind: perturb.Kind, share: float) -> None:
    shares = np.array([_perturb(regions, kind, share, seed)[1].shares for seed in range(60)])
    assert shares.mean(axis=0) == pytest.approx([share, share], abs=0.03)


def test_images_without_edges_or_boxes_do_not_change() -> None:
    bare = Regions(
        features=torch.zeros(2, 2, 3), boxes=torch.zeros(2, 2, 4), mask=torch.tensor([[True, False], [True, True]]),
        boxed=torch.zeros(2, 2, dtype=torch.bool), classes=torch.full((2, 2), -1),
        relations=torch.zeros(0, 4, dtype=torch.int64), relation_scores=torch.zeros(0),
    )  # fmt: skip
    for kind in KINDS:
        perturbed, tally = _perturb(bare, kind, 1.0, 0)
        assert tally == Tally() and len(perturbed.relations) == 0 and not perturbed.boxed.any()


def test_the_changed_edges_do_not_depend_on_the_batch_size(model: Hire, split: Split) -> None:
    bank = build_caption_bank(model, split.texts)
    with perturb_edges(model, "shuffled", 0.5, seed=4):
        one_batch = compute_similarity(model, split, bank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hire_model.scoring.matrix._ENCODE_BLOCK", 3)
        with perturb_edges(model, "shuffled", 0.5, seed=4):
            assert np.allclose(compute_similarity(model, split, bank), one_batch, atol=1e-5)


def test_a_second_run_of_edges_trains_nothing_and_gives_the_same_table(
    tiny_dataset: Path, tmp_path: Path, trained: list[str], split: Split
) -> None:
    study = _study(tiny_dataset, tmp_path)
    table = edges.run(study)
    assert trained == ["implicit stage on 0", "implicit stage off 0"]
    assert len(table.cells) == 20
    zero = {cell.variant: cell.rsum.mean for cell in table.cells if cell.share == 0}
    for trial in study.plan(edges.VARIANTS):
        model, _ = edges._load_or_train(trial, study)
        assert (model.implicit_regions is not None) == (trial.variant == "implicit stage on")
        assert ablation.evaluate_model(model, trial.settings, split).rsum == zero[trial.variant]
    assert all((tmp_path / f"edges.{ending}").stat().st_size for ending in ("json", "md", "svg", "png"))
    assert (tmp_path / "edges-change.svg").stat().st_size
    (tmp_path / "edges.jsonl").unlink()
    assert edges.run(study).cells == table.cells, "evaluated again with the stored models"
    edges.run(study)
    assert len(trained) == 2


# On the command line


def test_the_ablate_commands_use_their_options(tiny_dataset: Path, tmp_path: Path, trained: list[str]) -> None:
    options = ["--data", str(tiny_dataset), "--set", " ".join(TINY), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["ablate", "stages", *options, "--seeds", "2,2", "--only", "base"])
    assert done.exit_code == 0, done.output
    assert trained == ["base 2"]
    assert "base" in done.output and "stages.md" in done.output
    wrong = CliRunner().invoke(app, ["ablate", "edges", *options, "--seeds", "one"])
    assert isinstance(wrong.exception, SettingsError) and "whole numbers" in str(wrong.exception)
