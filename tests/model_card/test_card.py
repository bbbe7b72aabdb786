"""The model card contains the facts of the training, and names from the data do not break its Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hire_model.data.schema import MakerFacts, Manifest
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
    """An untrained model with the facts of a training; the name of its data set contains markup."""
    torch.manual_seed(0)
    test = Dataset.open(tiny_dataset).split("test")
    maker = MakerFacts(kind="geometry", name="geometry rules", digest="ab" * 32)
    changed = {"name": "odd | name\n# <b>heading</b>", "relation_maker": maker}
    manifest: Manifest = test.dataset.manifest.model_copy(update=changed)
    model = build_model(settings.model, Dataset.open(tiny_dataset).split("train"))
    matrix = score_split(model, test, settings.evaluate)
    ranks = rank_under_protocol(matrix, test.owner, "full")
    result = evaluate_matrix(matrix, test.owner, bootstrap=50, ranks=ranks)
    result = result.model_copy(
        update={"facts": {"split": "test", "mlflow run": "abc", "git.commit": "0123456789abcdef"}}
    )
    facts = card.collect_card_facts(result, manifest, settings, compute_slices(test, ranks), 1234567, 3, 1)
    saved_facts = {card.FACT: facts.model_dump(mode="json")}
    return artifact.save(model, tmp_path_factory.mktemp("card") / "model", saved_facts)


def test_the_card_contains_the_recorded_facts(folder: Path) -> None:
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
        "8 images are a small test set",
        "has not checked this model yet",
        "Data: Apache-2.0",
        "numbers per region. Relations: geometry rules, sha256 abababababababab.\n\n| split |",
    ):
        assert part in text, part
    assert f"| train | {facts.data.splits['train'].images} |" in text
    assert text.count("| Words in the caption | t2i |") == len(facts.slices[0].slices)


@pytest.mark.parametrize(
    ("changes", "range_"),
    [
        ({}, "better, -1.25 to 1.25."),
        ({"global_weight": 0.0}, "better, -1.5 to 1.5."),
        ({"global_weight": 0.0, "global_head": False}, "better, -1.5 to 1.5."),
        ({"relation_match": False}, "better, -1 to 1."),
        ({"graphs": "none"}, "better, -1 to 1."),
    ],
)
def test_the_range_of_the_scores_depends_on_the_settings(
    folder: Path, tmp_path: Path, changes: dict[str, object], range_: str
) -> None:
    config = artifact.read_config(folder)
    config["model"] |= changes
    (tmp_path / artifact.CONFIG).write_text(json.dumps(config))
    text = card.render_card(tmp_path, "hire", "models:/hire/7")
    assert range_ in text and text.startswith("# Model card")


def test_names_from_the_data_are_escaped(folder: Path) -> None:
    text = card.render_card(folder, "hire", "models:/hire/7")
    assert "odd \\| name # &lt;b>heading&lt;/b>" in text and "\n# <b>" not in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1, block


def test_the_card_has_the_decision_of_the_gate_and_the_weaknesses(folder: Path) -> None:
    conditions = Conditions(data="scenes", digest="d" * 64, split="test", images=8, protocol="full")
    shares = {
        "swap": Behaviour(captions=40, share=51.0, interval=(40.0, 60.0)),
        "shuffle": Behaviour(captions=40, share=90.0, interval=(80.0, 95.0)),
    }
    evidence = Evidence(version="7", ground=conditions, figures={"full/rsum": 300.0}, behaviour=shares)
    decision = decide(evidence, None, GateSettings())
    text = card.render_card(folder, "hire", "models:/hire/7", decision)
    assert decision.summary() in text and "not checked this model yet" not in text
    scores_above = "the true caption scores above the changed one (swapped subject and object)"
    assert f"- **swap**: {scores_above} for 51 % of 40" in text
    assert "- **shuffle**" not in text, "not a weakness"
    assert "| size | not measured | at most 2000 MB | failed |" in text


def test_an_ablation_is_added_only_if_it_is_on_the_same_data(folder: Path, tmp_path: Path) -> None:
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
    with pytest.raises(HireError, match="from the data set with digest"):
        card.format_ablation_table(path, "0" * 64)
    path.write_text("[]")
    with pytest.raises(HireError, match="not a table of 'hire ablate stages'"):
        card.format_ablation_table(path, facts.data.digest)


def test_a_model_folder_with_a_card_loads(folder: Path) -> None:
    (folder / card.CARD).write_text(card.render_card(folder, "hire", "models:/hire/7"))
    artifact.load(folder)


def test_a_model_without_facts_has_no_card(tiny_dataset: Path, settings: Settings, tmp_path: Path) -> None:
    model = build_model(settings.model, Dataset.open(tiny_dataset).split("train"))
    bare = artifact.save(model, tmp_path / "bare")
    assert card.read_card_facts(bare) is None
    with pytest.raises(HireError, match="no facts for a model card"):
        card.render_card(bare, "hire", "models:/hire/1")
    invalid = artifact.save(model, tmp_path / "invalid", {card.FACT: {"result": 1}})
    with pytest.raises(HireError, match=r"facts\.card does not have the format of this version"):
        card.read_card_facts(invalid)
