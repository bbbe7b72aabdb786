"""Read picture files as regions for a model, with the extractor and the relation maker of its training data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from hire_model.data.images.extractors import Extractor
from hire_model.data.images.pictures import DecodeLimits, PictureError, decode_picture
from hire_model.data.images.recorded import open_recorded
from hire_model.data.loading import renumber_classes
from hire_model.data.relations.maker import RelationMaker
from hire_model.data.relations.making import relate_image
from hire_model.data.relations.recorded import open_maker
from hire_model.data.schema import ExtractorFacts
from hire_model.data.store import ImageRegions
from hire_model.errors import DataError
from hire_model.model import artifact
from hire_model.scoring.matrix import map_classes

NO_MORE_THAN_IMPORT = DecodeLimits()
NO_EXTRACTOR = "this model was not trained on a data set imported from pictures, so it cannot read picture files"


@dataclass(frozen=True)
class ReadPicture:
    """Regions of a picture, ready to be scored. width, height: pixels of the upright picture."""

    regions: ImageRegions
    width: int
    height: int


class PictureReader:
    """Reads pictures for one model.

    Example:
        >>> from hire_model import Scorer
        >>> from hire_model.scoring.pictures import PictureReader
        >>> scorer, reader = Scorer.load("runs/latest/model"), PictureReader.load("runs/latest/model")
        >>> scores = scorer.predict([(reader.read_file("photo.jpg").regions, "a dog on a sofa")])

    Args:
        extractor: makes the regions.
        facts: its description.
        classes: the model's class names; empty if it has no class vectors, and the ids then stay as they are.
        maker: makes the relations; None for a model without relations.
    """

    def __init__(
        self,
        extractor: Extractor,
        facts: ExtractorFacts,
        classes: tuple[str, ...],
        maker: RelationMaker | None = None,
    ) -> None:
        self.extractor, self.facts, self.maker = extractor, facts, maker
        self.classes = classes or extractor.classes
        self._map = map_classes(classes, extractor.classes) if classes else None

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open the extractor and the relation maker of the model in `folder`.

        Raises:
            HireError: the model has none, a package is missing, or its weights are not those of the training.
        """
        facts = artifact.read_extractor(folder)
        if facts is None:
            raise DataError(
                f"{folder}: {NO_EXTRACTOR}. Import pictures with 'hire data import images' and train on them."
            )
        classes = artifact.read_config(folder).get("classes", ())
        made_by = artifact.read_relation_maker(folder)
        maker = open_maker(made_by, Path(folder)) if made_by else None
        return cls(open_recorded(facts, Path(folder)), facts, tuple(classes), maker)

    def read(self, data: bytes, limits: DecodeLimits = NO_MORE_THAN_IMPORT) -> ReadPicture:
        """Return the regions of a picture file with this content. Raises PictureError if it cannot be used."""
        picture = decode_picture(data, limits)
        found = self.extractor.extract(picture.image)
        regions = ImageRegions(
            features=found.features,
            boxes=found.boxes,
            classes=found.classes,
            scores=found.scores,
            relations=np.zeros((0, 3), np.int32),
            relation_scores=np.zeros(0, np.float32),
        )
        if self.maker is not None:  # it expects the extractor's class numbers
            regions = relate_image(self.maker, regions, picture.width, picture.height)
        classes = renumber_classes(regions.classes, self._map).astype(np.int32)
        return ReadPicture(replace(regions, classes=classes), picture.width, picture.height)

    def read_file(self, path: str | Path) -> ReadPicture:
        """Return the regions of a picture file. Raises DataError that names the file if it cannot be used."""
        try:
            return self.read(Path(path).expanduser().read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
        except PictureError as error:
            raise DataError(f"{path}: {error}. Expected a picture, such as a JPEG.") from error
