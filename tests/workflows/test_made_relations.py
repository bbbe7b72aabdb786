"""Data sets with made relations: what the prior sees, what is written, and the same relations for new pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from picture_examples import save_model, write_pictures
from PIL import Image
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.images import recorded
from hire_model.data.images.extractors import GridExtractor, PictureRegions
from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.importers.base import Target
from hire_model.data.relations.fitting import FOLDS
from hire_model.data.relations.nouns import ClassFinder
from hire_model.data.schema import FROM_FILE, RELATION_PRIOR, ExtractorFacts, MakerFacts
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError, HireError
from hire_model.evaluation.contact_sheet import render
from hire_model.gallery import changing
from hire_model.model import artifact
from hire_model.scoring.pictures import PictureReader
from hire_model.service.pictures import open_reader
from hire_model.training.caption_negatives import is_predicate, learn_words
from hire_model.workflows.relations import RelationJob, find_named_relations, make_relations

CLASSES = ("person", "bicycle", "dog")
PREDICATES = ("rides", "chases")
ON = np.array([[0.3, 0.1, 0.5, 0.7], [0.2, 0.5, 0.6, 0.9]], np.float32)
CAPTIONS = {0: "A man rides a bicycle", 1: "A dog chases a bicycle"}
Change = Callable[[ImageRecord], ImageRecord]


def keep(record: ImageRecord) -> ImageRecord:
    return record


def write(out: Path, change: Change = keep, relations: bool = True, detector: Path | None = None) -> Dataset:
    """Write 30 training and 10 dev images: people who ride a bicycle, and dogs that chase one."""
    rng = np.random.default_rng(0)
    with DatasetWriter(
        out, name="rides", feature_dim=3, feature_extractor="x", classes=CLASSES, predicates=PREDICATES, licence="mine"
    ) as writer:
        if detector:
            writer.record_extractor(ExtractorFacts(kind="yolox", name="x", digest="0", file=True), detector)
        for index in range(40):
            kind = index % 2
            record = ImageRecord(
                f"image {index}",
                "train" if index < 30 else "dev",
                rng.random((2, 3), np.float32),
                [CAPTIONS[kind], "A man, a dog and a bicycle"],
                width=100,
                height=100,
                boxes=ON,
                classes=np.array([2 * kind, 1]),
                relations=[(0, kind, 1, 1.0)] if relations else (),
            )
            writer.add(change(record))
    return Dataset.open(out)


def make(data: Dataset, out: Path, job: RelationJob) -> Dataset:
    make_relations(data, job, Target(out))
    return Dataset.open(out)


def list_relations(data: Dataset, image: int) -> list[tuple[str, str, str]]:
    layout, manifest = data.layout(image), data.manifest
    names = [manifest.classes[number] for number in layout.classes.tolist()]
    return [(names[s], manifest.predicates[p], names[o]) for s, p, o in layout.relations.tolist()]


@pytest.mark.parametrize("fit", ["captions", "relations"])
def test_a_prior_learns_the_relations_of_the_training_split(tmp_path: Path, fit: str) -> None:
    made = make(write(tmp_path / "data"), tmp_path / "made", RelationJob("prior", fit=fit))
    for image in (0, 38):
        assert list_relations(made, image) == [("person", "rides", "bicycle")]
        assert list_relations(made, image + 1) == [("dog", "chases", "bicycle")]
    facts = made.manifest.relation_maker
    assert facts is not None and facts.name == f"prior from {fit} of split train of rides, 2 per region"
    assert facts.digest == made.manifest.files[RELATION_PRIOR].sha256


@pytest.mark.parametrize("fit", ["captions", "relations"])
def test_nothing_of_other_splits_changes_the_prior(tmp_path: Path, fit: str) -> None:
    def change(record: ImageRecord) -> ImageRecord:
        if record.split == "train":
            return record
        texts = ["A dog sits on a person", "Two persons hold a bicycle"] * 5
        moved = np.array([[0.0, 0.0, 0.1, 0.1], [0.8, 0.8, 0.9, 0.9]], np.float32)
        return dataclasses.replace(
            record, captions=texts, boxes=moved, classes=np.array([1, 0]), relations=[(1, 1, 0, 1.0)]
        )

    job = RelationJob("prior", fit=fit)
    made = [make(write(tmp_path / name, how), tmp_path / f"{name} made", job) for name, how in
            (("data", keep), ("changed", change))]  # fmt: skip
    assert made[0].manifest.relation_maker == made[1].manifest.relation_maker
    assert (made[0].folder / RELATION_PRIOR).read_bytes() == (made[1].folder / RELATION_PRIOR).read_bytes()
    for image in range(30):
        assert list_relations(made[0], image) == list_relations(made[1], image) != []


@pytest.mark.parametrize("fit", ["captions", "relations"])
def test_the_relations_of_a_training_image_do_not_come_from_itself(tmp_path: Path, fit: str) -> None:
    """All training images with a person and a dog are in one fold: the others teach nothing about them; dev gets it."""
    fold = [f"image {index}" for index in range(2, 30, FOLDS)]

    def change(record: ImageRecord) -> ImageRecord:
        if record.image_id not in (*fold, "image 33"):
            return record
        texts = ["A man chases a dog", "A man, a dog and a bicycle"] if record.split == "train" else ["a picture"]
        relations = [(0, 1, 1, 1.0)] if record.split == "train" else ()
        return dataclasses.replace(record, classes=np.array([0, 2]), captions=texts, relations=relations)

    made = make(write(tmp_path / "data", change), tmp_path / "made", RelationJob("prior", fit=fit))
    assert all(list_relations(made, index) == [] for index in range(2, 30, FOLDS))
    assert list_relations(made, 33) == [("person", "chases", "dog")]


def test_everything_but_the_relations_is_copied(tmp_path: Path) -> None:
    (tmp_path / "detector.onnx").write_bytes(b"weights")
    data = write(tmp_path / "data", detector=tmp_path / "detector.onnx")
    made = make(data, tmp_path / "made", RelationJob("geometry"))
    assert made.manifest.extractor == data.manifest.extractor
    assert (made.folder / "extractor.onnx").read_bytes() == b"weights"
    assert verify(made.folder) == [] and made.manifest.licence == "mine" and made.manifest.classes == CLASSES
    assert made.manifest.files["features.npy"] == data.manifest.files["features.npy"]
    for name in ("image_ids", "image_splits", "image_sizes", "boxes", "classes", "caption_texts", "caption_ids"):
        assert np.array_equal(getattr(made, name), getattr(data, name)), name
    assert np.array_equal(made.caption_images, data.caption_images)
    assert list_relations(made, 0) == [("person", "above", "bicycle")] and made.manifest.relation_maker is not None
    assert made.manifest.digest != data.manifest.digest
    other = make(data, tmp_path / "other", RelationJob("geometry", top=3))
    assert np.array_equal(other.relations, made.relations) and other.manifest.digest != made.manifest.digest


def test_a_contact_sheet_says_what_made_the_relations(tmp_path: Path) -> None:
    made = make(write(tmp_path / "data"), tmp_path / "made", RelationJob("geometry"))
    page = render(made.split("dev"), 2)
    assert "geometry rules, 2 per region" in page and "person above bicycle" in page
    assert "relations by" not in render(write(tmp_path / "plain").split("dev"), 2)


def test_a_prior_learns_from_visual_genome_by_the_names_of_objects(tmp_path: Path) -> None:
    def relationship(predicate: str, subject: str, object_: str) -> dict[str, object]:
        ends = ({"name": subject, "x": 30, "y": 10, "w": 20, "h": 60}, {"names": [object_], "x": 20, "y": 50, "w": 40})
        return {"predicate": predicate, "subject": ends[0], "object": ends[1] | {"h": 40}}

    content = [
        {"image_id": i, "relationships": [relationship("Pushes", "woman", "bicycle"), relationship("on", "hat", "man")]}
        for i in range(5)
    ]
    path = tmp_path / "relationships.json"
    path.write_text(json.dumps(content))
    made = make(write(tmp_path / "data"), tmp_path / "made", RelationJob("prior", fit=str(path)))
    assert list_relations(made, 0) == list_relations(made, 38) == [("person", "pushes", "bicycle")]
    assert list_relations(made, 1) == [] and made.manifest.predicates == ("pushes",)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (RelationJob("geometry", fit="captions"), "geometry rules are not fitted"),
        (RelationJob("prior", train="training"), "no split 'training'"),
        (RelationJob("prior", fit="missing.json"), "no such file"),
        (RelationJob("prior", fit="relations"), "has no relations. Use --fit captions"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(tmp_path: Path, job: RelationJob, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(write(tmp_path / "data", relations=False), tmp_path / "made", job)
    assert not (tmp_path / "made").exists()


def test_a_data_set_is_not_replaced_by_its_own_copy(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    with pytest.raises(DataError, match="the data set itself"):
        make_relations(data, RelationJob("geometry"), Target(tmp_path / "data", overwrite=True))


def test_captions_that_name_no_class_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "data", lambda record: dataclasses.replace(record, captions=["Un chien"]), relations=False)
    with pytest.raises(DataError, match="no relation between two of the 3 classes"):
        make(data, tmp_path / "made", RelationJob("prior"))


def test_made_relations_are_no_evidence(tmp_path: Path) -> None:
    made = make(write(tmp_path / "data"), tmp_path / "made", RelationJob("geometry"))
    with pytest.raises(DataError, match="nothing to learn"):
        make(made, tmp_path / "again", RelationJob("prior", fit="relations"))
    again = make(made, tmp_path / "again", RelationJob("prior"))
    assert again.manifest.relation_maker is not None and "captions" in again.manifest.relation_maker.name


def test_regions_that_cannot_be_related_are_refused(tmp_path: Path) -> None:
    whole = np.array([[0, 0, 1, 1]] * 2, np.float32)
    data = write(tmp_path / "data", lambda record: dataclasses.replace(record, boxes=whole))
    with pytest.raises(DataError, match="no relation was made"):
        make(data, tmp_path / "made", RelationJob("geometry"))


def test_the_command_prints_what_it_did(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    arguments = ["data", "relations", str(data.folder), "--from", "prior", "--out", str(tmp_path / "made")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "fitted on 30 relations: relations of split train of rides" in result.output
    assert "40 relations of" in result.output and "--set model.graphs=semantic" in result.output
    shown = CliRunner().invoke(app, ["data", "show", str(tmp_path / "made"), "--out", str(tmp_path / "sheet.html")])
    assert "prior from relations of split train of rides" in shown.output


def test_a_relation_has_a_preposition_or_a_verb_between_two_named_phrases() -> None:
    lexicon = learn_words([*CAPTIONS.values(), "A large dog is next to a person", "The person and the dog"] * 5)
    finder = ClassFinder(CLASSES)
    assert find_named_relations("A large dog is next to the person", lexicon, finder) == [((2,), "next to", (0,))]
    assert find_named_relations("A person and a dog", lexicon, finder) == []
    kept = [
        text
        for text in ("on", "is holding", "covered by", "medium", "a small", "is", "one")
        if is_predicate(text.split())
    ]
    assert kept == ["on", "is holding", "covered by"]


class NamedCells(GridExtractor):
    """A grid whose cells have classes, as objects of a detector do."""

    classes: tuple[str, ...] = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.classes = CLASSES

    def extract(self, image: Image.Image) -> PictureRegions:
        regions = super().extract(image)
        return dataclasses.replace(regions, classes=np.arange(len(regions.classes), dtype=np.int32) % 3)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Imported pictures with relations by geometry rules."""
    monkeypatch.setitem(recorded.KINDS, "grid", lambda facts, folder: NamedCells())
    captions = write_pictures(tmp_path / "photos", 6)
    job = ImageImport(tmp_path / "photos" / "pictures", captions, detector="named cells", relations=True)
    import_images(job, Target(tmp_path / "set"), NamedCells)
    return Dataset.open(tmp_path / "set")


def train_prior(photos: Dataset, out: Path) -> Dataset:
    """Make the relations of imported pictures by a prior, learned from a file."""
    ends = {"name": "person", "x": 0, "y": 0, "w": 50, "h": 50}, {"name": "dog", "x": 40, "y": 0, "w": 50, "h": 50}
    content = [{"image_id": 0, "relationships": [{"predicate": "pats", "subject": ends[0], "object": ends[1]}] * 9}]
    path = out.parent / "relationships.json"
    path.write_text(json.dumps(content))
    return make(photos, out, RelationJob("prior", fit=str(path), train=next(iter(photos.manifest.splits))))


@pytest.mark.parametrize("maker", ["geometry", "prior"])
def test_a_new_picture_gets_relations_of_the_same_maker(photos: Dataset, tmp_path: Path, maker: str) -> None:
    data = photos if maker == "geometry" else train_prior(photos, tmp_path / "made")
    assert data.manifest.relation_maker is not None and data.manifest.relation_maker.kind == maker
    folder = save_model(data, tmp_path / "model", class_vectors=True)
    picture = data.picture(1)
    assert picture is not None
    read, stored = PictureReader.load(folder).read_file(picture).regions, data.regions(1)
    assert np.array_equal(read.relations, stored.relations) and len(read.relations)
    np.testing.assert_allclose(read.relation_scores, stored.relation_scores, rtol=1e-6)


def test_a_model_whose_relations_cannot_be_made_refuses_pictures(photos: Dataset, tmp_path: Path) -> None:
    data = train_prior(photos, tmp_path / "made")
    folder = save_model(data, tmp_path / "model")
    (folder / RELATION_PRIOR).write_bytes(b"x")
    with pytest.raises(DataError, match="no relation prior"):
        PictureReader.load(folder)
    assert "its log has the reason" in str(open_reader(folder))
    with pytest.raises(HireError, match=rf"{RELATION_PRIOR}: its SHA-256 differs"):
        artifact.load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["relation_maker"] |= {"kind": FROM_FILE, "name": "predictions.json"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"by 'predictions.json', cannot be made"):
        PictureReader.load(folder)


def test_importing_with_relations_needs_a_detector(tmp_path: Path) -> None:
    job = ImageImport(tmp_path, tmp_path / "captions.csv", relations=True)
    with pytest.raises(DataError, match="--relations needs --detector"):
        import_images(job, Target(tmp_path / "set"))


def test_a_gallery_refuses_images_with_relations_of_another_maker(tmp_path: Path) -> None:
    import gallery_examples

    data = write(tmp_path / "data")
    one, other = (make(data, tmp_path / f"top {top}", RelationJob("geometry", top=top)) for top in (1, 2))
    model = gallery_examples.make_model(one.split("train"))
    gallery_examples.make_gallery(model, one.split("train"), tmp_path / "gallery")
    with pytest.raises(HireError, match=r"makers of relations .*rules, 2 per region, .*expected geometry rules, 1"):
        changing.add(model, other.split("dev"), tmp_path / "gallery")


def test_the_maker_of_given_relations_is_unknown(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    assert data.manifest.relation_maker is None
    assert "relation_maker" not in (data.folder / "manifest.json").read_text()


def test_a_gallery_takes_images_whose_relations_came_from_another_file(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data").manifest
    one, other = (
        manifest.model_copy(update={"relation_maker": MakerFacts(kind=FROM_FILE, name=name, digest=name[0] * 64)})
        for name in ("a.json", "b.json")
    )
    changing._check_data(one, SimpleNamespace(data=other), tmp_path)  # type: ignore[arg-type]
