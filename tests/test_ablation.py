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

from hire_model.ablation import edges, stages
from hire_model.ablation import study as ablation
from hire_model.ablation.perturb import perturb_images
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
from hire_model.training.damage import DAMAGES, Damage, Tally, damage_regions
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


# Damaged images


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def model(tiny_dataset: Path) -> Hire:
    """Build an untrained model whose edges have an effect; without this, their outputs are initialised to zero."""
    torch.manual_seed(0)
    chosen = resolve("synthetic", [*TINY, "model.implicit_edges=true"], environ={}).settings.model
    model = build_model(chosen, Dataset.open(tiny_dataset).split("train"))
    assert model.explicit is not None and model.roles is not None
    torch.nn.init.normal_(model.explicit.fuse.weight)
    torch.nn.init.normal_(model.roles.second.weight)
    return model.eval()


@pytest.fixture(scope="module")
def regions(split: Split) -> Regions:
    return collate_regions([split.regions(i) for i in range(len(split.images))])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_changes_the_scores_inside_its_block_alone(model: Hire, split: Split, damage: Damage) -> None:
    bank = build_caption_bank(model, split.texts)
    plain = compute_similarity(model, split, bank)
    with perturb_images(model, damage, 0.0, seed=1):
        assert np.array_equal(compute_similarity(model, split, bank), plain)
    with perturb_images(model, damage, 1.0, seed=1):
        assert not np.allclose(compute_similarity(model, split, bank), plain)
    assert np.array_equal(compute_similarity(model, split, bank), plain)


def test_the_damage_does_not_depend_on_the_batch_size(model: Hire, split: Split) -> None:
    bank = build_caption_bank(model, split.texts)
    with perturb_images(model, "boxes shuffled", 0.5, seed=4):
        one_batch = compute_similarity(model, split, bank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hire_model.scoring.matrix._ENCODE_BLOCK", 3)
        with perturb_images(model, "boxes shuffled", 0.5, seed=4):
            assert np.allclose(compute_similarity(model, split, bank), one_batch, atol=1e-5)


def test_dropping_all_edges_empties_the_graphs_and_keeps_the_boxes(model: Hire, regions: Regions) -> None:
    seen: list[Regions] = []
    handle = model.regions.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with perturb_images(model, "edges dropped", 1.0, seed=0) as tally, torch.inference_mode():
        model.encode_image(regions)
    handle.remove()
    assert tally.shares == (1.0, 1.0)
    assert torch.equal(seen[0].boxes, regions.boxes) and torch.equal(seen[0].boxed, regions.boxed)
    assert model.explicit is not None
    assert not any(graph.any() for graph in model.explicit.build_graphs(seen[0]))


def test_boxes_dropped_are_lost_for_stage_1_and_the_graph_alike(model: Hire, regions: Regions) -> None:
    damaged, tally = _damage(regions, "boxes dropped", 1.0, 0)
    assert tally.shares == (0.0, 1.0)
    assert not damaged.boxed.any() and not damaged.boxes.any()
    assert torch.equal(damaged.relations, regions.relations)


def test_a_dropped_object_loses_features_box_and_edges_together(regions: Regions) -> None:
    damaged, tally = _damage(regions, "objects dropped", 0.5, 0)
    lost = regions.mask & ~damaged.mask
    assert lost.any() and damaged.mask.any(dim=1).all()
    assert not damaged.features[lost].any() and not damaged.boxes[lost].any() and not damaged.boxed[lost].any()
    image, subject, _, object_ = damaged.relations.unbind(1)
    assert damaged.mask[image, subject].all() and damaged.mask[image, object_].all()
    assert tally.relations_changed == len(regions.relations) - len(damaged.relations) > 0
    everything, _ = _damage(regions, "objects dropped", 1.0, 0)
    assert (everything.mask.sum(dim=1) == 1).all()


def _damage(regions: Regions, damage: Damage, share: float, seed: int) -> tuple[Regions, Tally]:
    tally, count = Tally(), len(regions)
    rngs = [np.random.default_rng([seed, row]) for row in range(count)]
    return damage_regions(regions, [damage] * count, [share] * count, rngs, tally), tally


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_shuffling_keeps_labels_scores_and_the_set_of_boxes(regions: Regions, share: float, seed: int) -> None:
    shuffled, _ = _damage(regions, "relations shuffled", share, seed)
    assert torch.equal(shuffled.relations[:, [0, 2]], regions.relations[:, [0, 2]])
    assert torch.equal(shuffled.relation_scores, regions.relation_scores)
    image, subject, _, object_ = shuffled.relations.unbind(1)
    assert shuffled.mask[image, subject].all() and shuffled.mask[image, object_].all() and (subject != object_).all()
    assert torch.equal(shuffled.boxes, regions.boxes)
    moved, _ = _damage(regions, "boxes shuffled", share, seed)
    assert torch.equal(moved.boxed, regions.boxed) and torch.equal(moved.relations, regions.relations)
    for after, before in zip(moved.boxes, regions.boxes, strict=True):
        assert sorted(after.tolist()) == sorted(before.tolist()), "boxes are permuted within their image"
    again, _ = _damage(regions, "boxes shuffled", share, seed)
    assert torch.equal(again.boxes, moved.boxes)


@settings(max_examples=25, deadline=None)
@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), seed=st.integers(0, 2**32))
def test_a_larger_share_also_drops_the_edges_of_a_smaller_one(regions: Regions, shares: list[float], seed: int) -> None:
    (small, small_tally), (large, large_tally) = (_damage(regions, "edges dropped", share, seed) for share in shares)
    assert {tuple(r) for r in large.relations.tolist()} <= {tuple(r) for r in small.relations.tolist()}
    assert large.graph_boxed is not None and small.graph_boxed is not None
    assert not (large.graph_boxed & ~small.graph_boxed).any()
    assert (
        small_tally.relations_changed <= large_tally.relations_changed
        and small_tally.pairs_changed <= large_tally.pairs_changed
    )
    assert len(regions.relations) - len(large.relations) == large_tally.relations_changed


def test_shuffling_all_moves_every_box(regions: Regions) -> None:
    moved, _ = _damage(regions, "boxes shuffled", 1.0, 0)
    several = regions.boxed & (regions.boxed.sum(dim=1, keepdim=True) > 1)
    assert several.any() and (moved.boxes != regions.boxes).any(dim=2)[several].all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_changed_share_is_the_requested_one_on_average(regions: Regions, share: float) -> None:
    shares = np.array([_damage(regions, "edges dropped", share, seed)[1].shares for seed in range(60)])
    assert shares.mean(axis=0) == pytest.approx([share, share], abs=0.03)


@pytest.mark.parametrize("damage", DAMAGES)
def test_images_without_edges_or_boxes_lose_only_objects(damage: Damage) -> None:
    bare = Regions(
        features=torch.zeros(2, 2, 3), boxes=torch.zeros(2, 2, 4), mask=torch.tensor([[True, False], [True, True]]),
        boxed=torch.zeros(2, 2, dtype=torch.bool), classes=torch.full((2, 2), -1),
        relations=torch.zeros(0, 4, dtype=torch.int64), relation_scores=torch.zeros(0),
    )  # fmt: skip
    damaged, tally = _damage(bare, damage, 1.0, 0)
    assert tally == Tally() and len(damaged.relations) == 0 and not damaged.boxed.any()
    assert damaged.mask.sum().item() == (2 if damage == "objects dropped" else 3)


def test_each_edge_variant_differs_from_its_reference_in_one_way() -> None:
    def resolve_variant(overrides: dict[str, str]) -> dict[str, Any]:
        chosen = resolve("synthetic", [f"{key}={value}" for key, value in overrides.items()], environ={}).settings
        return chosen.model.model_dump() | chosen.train.model_dump()

    by_name = {variant.name: resolve_variant(variant.overrides) for variant in edges.VARIANTS}
    changes = {"stage": {"image_implicit"}, "edges": {"implicit_edges"}, "damage": {"edge_damage"}}
    for variant in edges.VARIANTS:
        if variant.reference:
            values, reference = by_name[variant.name], by_name[variant.reference]
            own = set(variant.name.split("+")) - set(variant.reference.split("+"))
            assert {key for key in values if values[key] != reference[key]} == set.union(*(changes[x] for x in own))


def test_a_second_run_of_edges_evaluates_only_new_damages(
    tiny_dataset: Path, tmp_path: Path, trained: list[str], split: Split
) -> None:
    study = _study(tiny_dataset, tmp_path)
    only, damages = ["no-graphs", "match", "match+edges"], ["relations dropped", "objects dropped"]
    table = edges.run(study, only, damages[:1], [1.0])
    assert trained == ["no-graphs 0", "match 0", "match+edges 0"]
    assert [(cell.variant, cell.name) for cell in table.cells[:4]] == [
        ("no-graphs", "undamaged"), ("match", "undamaged"), ("match+edges", "undamaged"),
        ("no-graphs", "100 % relations dropped"),
    ]  # fmt: skip
    assert table.cells[3].lost.mean == 0, "a model without graphs has no relations to lose"
    more = edges.run(study, only, damages, [0.5, 1.0])
    assert len(trained) == 3 and len(more.cells) == 15
    cells = {(cell.variant, cell.name): cell for cell in more.cells}
    assert all(cells[cell.variant, cell.name] == cell for cell in table.cells)
    contrast = next(c for c in more.contrasts if c.name == "100 % objects dropped")
    assert (contrast.variant, contrast.reference) == ("match+edges", "match")
    lost = [cells[variant, contrast.name].lost.mean for variant in ("match+edges", "match")]
    assert contrast.difference == pytest.approx(lost[0] - lost[1])
    assert contrast.interval[0] <= contrast.difference <= contrast.interval[1]
    assert all((tmp_path / f"edges.{ending}").stat().st_size for ending in ("json", "md", "svg", "png"))
    assert "| match+edges, not match |" in (tmp_path / "edges.md").read_text("utf-8")
    (tmp_path / "edges.jsonl").unlink()
    assert edges.run(study, only, damages, [0.5, 1.0]).cells == more.cells, "evaluated again with the stored models"
    assert len(trained) == 3


# On the command line


def test_the_ablate_commands_use_their_options(tiny_dataset: Path, tmp_path: Path, trained: list[str]) -> None:
    options = ["--data", str(tiny_dataset), "--set", " ".join(TINY), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["ablate", "stages", *options, "--seeds", "2,2", "--only", "base"])
    assert done.exit_code == 0, done.output
    assert trained == ["base 2"]
    assert "base" in done.output and "stages.md" in done.output
    wrong = CliRunner().invoke(app, ["ablate", "edges", *options, "--seeds", "one"])
    assert isinstance(wrong.exception, SettingsError) and "whole numbers" in str(wrong.exception)
    for option, message in (("--damage=relations", "relations dropped, relations"), ("--shares=200", "from 0 to 100")):
        wrong = CliRunner().invoke(app, ["ablate", "edges", *options, option])
        assert isinstance(wrong.exception, SettingsError) and message in str(wrong.exception)
