"""The model card says what the run recorded, and its table stays a table whatever the data are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.evaluation.behaviour import Behaviour
from hire_model.evaluation.protocols import evaluate_matrix, rank_under_protocol
from hire_model.evaluation.slices import compute_slices
from hire_model.gate import Conditions, Evidence, decide
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.model_card import card
from hire_model.settings import GateSettings, Settings, resolve
from hire_model.workflows.evaluate import score_split


@pytest.fixture(scope="module")
def settings() -> Settings:
    return resolve(overrides={"model.preset": "tiny"}, environ={}).settings


@pytest.fixture(scope="module")
def folder(tiny_dataset: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the facts that a training gives it; the data set's name tries to break the table."""
    torch.manual_seed(0)
    test = Dataset.open(tiny_dataset).split("test")
    manifest: Manifest = test.dataset.manifest.model_copy(update={"name": "odd | name\n# <b>heading</b>"})
    model = build_model(settings.model, Dataset.open(tiny_dataset).split("train"))
    matrix = score_split(model, test, settings.evaluate)
    ranks = rank_under_protocol(matrix, test.owner, "full")
    result = evaluate_matrix(matrix, test.owner, bootstrap=50, ranks=ranks)
    result = result.model_copy(
        update={"facts": {"split": "test", "mlflow run": "abc", "git.commit": "0123456789abcdef"}}
    )
    facts = card.collect_card_facts(result, manifest, settings, compute_slices(test, ranks), 1234567, 3, 1)
    kept = {card.FACT: facts.model_dump(mode="json")}
    return artifact.save(model, tmp_path_factory.mktemp("carded") / "model", kept)


def test_what_was_recorded_is_said(folder: Path) -> None:
    facts = card.read_card_facts(folder)
    assert facts is not None
    text = card.render_card(folder, "hire", "models:/hire/7")
    for part in (
        f"rSum **{facts.result.rsum:.1f}** of 600",
        facts.data.digest,
        "1,234,567 weights",
        "commit 0123456789ab",
        "MLflow run `abc`",
        'fetch("models:/hire/7"',
        "Best of 3 epochs: 2",
        "`lr=0.0005`",
        "8 images are a small test",
        "has not judged this model yet",
        "Data: Apache-2.0",
    ):
        assert part in text, part
    assert f"| train | {facts.data.splits['train'].images} |" in text
    assert text.count("| Words in the caption | t2i |") == len(facts.slices[0].slices)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "better, -1.25 to 1.25."),
        ({"global_weight": 0.0}, "better, -1.5 to 1.5."),
        ({"global_weight": 0.0, "global_head": False}, "better, -1.5 to 1.5."),
        ({"relation_match": False}, "better, -1 to 1."),
        ({"graphs": "none"}, "better, -1 to 1."),
    ],
)
def test_the_range_of_the_scores_is_that_of_this_model(
    folder: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    config = artifact.read_config(folder)
    config["model"] |= changes
    (tmp_path / artifact.CONFIG).write_text(json.dumps(config))
    text = card.render_card(tmp_path, "hire", "models:/hire/7")
    assert says in text and text.startswith("# Model card")


def test_names_from_data_are_neither_table_nor_markup(folder: Path) -> None:
    text = card.render_card(folder, "hire", "models:/hire/7")
    assert "odd \\| name # &lt;b>heading&lt;/b>" in text and "\n# <b>" not in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1, block


def test_the_gate_and_what_the_model_cannot_do_are_said(folder: Path) -> None:
    ground = Conditions(data="scenes", digest="d" * 64, split="test", images=8, protocol="full")
    shares = {
        "swap": Behaviour(captions=40, share=51.0, interval=(40.0, 60.0)),
        "shuffle": Behaviour(captions=40, share=90.0, interval=(80.0, 95.0)),
    }
    evidence = Evidence(version="7", ground=ground, figures={"full/rsum": 300.0}, behaviour=shares)
    decision = decide(evidence, None, GateSettings())
    text = card.render_card(folder, "hire", "models:/hire/7", decision)
    assert decision.summary() in text and "not judged this model yet" not in text
    assert "- **swap**: it tells a true caption from one with swapped subject and object in 51 % of 40" in text
    assert "- **shuffle**" not in text, "what it can do is no limit"
    assert "| size | not measured | at most 2000 MB | failed |" in text


def test_an_ablation_of_the_same_data_is_in_it(folder: Path, tmp_path: Path) -> None:
    facts = card.read_card_facts(folder)
    assert facts is not None
    row = '{"variant": "%s", "rsum": {"mean": 310, "low": 300, "high": 320}, "change": %s}'
    rows = f"[{row % ('base', 'null')}, {row % ('full', '{}')}]".replace("{}", '{"mean": 5, "low": 5, "high": 5}')
    origin = '{"data_digest": "%s", "seeds": [0, 1], "split": "test"}'
    path = tmp_path / "stages.json"
    path.write_text(f'{{"origin": {origin % facts.data.digest}, "rows": {rows}}}')
    table = card.format_ablation_table(path, facts.data.digest)
    assert "| base | 310.0 (300.0 to 320.0) |  |" in table and "| full | 310.0 (300.0 to 320.0) | +5.0 |" in table
    assert table in card.render_card(folder, "hire", "models:/hire/7", ablation=table)
    with pytest.raises(HireError, match="made on data"):
        card.format_ablation_table(path, "0" * 64)
    path.write_text("[]")
    with pytest.raises(HireError, match="not a table of 'hire ablate stages'"):
        card.format_ablation_table(path, facts.data.digest)


def test_the_card_beside_the_weights_does_not_disturb_them(folder: Path) -> None:
    (folder / card.CARD).write_text(card.render_card(folder, "hire", "models:/hire/7"))
    artifact.load(folder)


def test_a_model_without_facts_has_no_card(tiny_dataset: Path, settings: Settings, tmp_path: Path) -> None:
    model = build_model(settings.model, Dataset.open(tiny_dataset).split("train"))
    bare = artifact.save(model, tmp_path / "bare")
    assert card.read_card_facts(bare) is None
    with pytest.raises(HireError, match="no facts for a model card"):
        card.render_card(bare, "hire", "models:/hire/1")
    strange = artifact.save(model, tmp_path / "strange", {card.FACT: {"result": 1}})
    with pytest.raises(HireError, match=r"facts\.card is not as this version writes it"):
        card.read_card_facts(strange)
