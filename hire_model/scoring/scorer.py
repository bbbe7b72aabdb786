"""Load a model, then score pairs, rank and explain. The API follows CrossEncoder of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import ImageRegions, all_finite
from hire_model.errors import DataError
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.scoring.explain import Explanation, explain_encoded
from hire_model.scoring.matrix import map_classes, map_predicates

ImageTextPair = tuple[ImageRegions, str]
Item = TypeVar("Item")
_BLOCK = 256
# Limits of the blocks in `score_items`. A single block would pad every image to the largest one.
_PAIRS = 256  # maximum number of pairs
_FRAGMENTS = 16_384  # maximum number of regions and words, with padding; larger tensors are slower
_STEP = 16  # the sizes of two images, or of two texts, in a block differ by less than this
_FEW = 64  # up to this many pairs form one block, whatever their sizes, because each block has a fixed cost


class RankedDocument(TypedDict):
    """A ranked document: its position in the given list, and its score."""

    corpus_id: int
    score: float


class Scorer:
    """Scores images, given as regions, against texts. Higher is a better match; scores are within -1.5 to 1.5.

    Example:
        >>> from hire_model import Dataset, Scorer
        >>> scorer = Scorer.load("runs/latest/model")
        >>> split = Dataset.open("datasets/scenes").split("test")
        >>> images = [split.regions(row) for row in range(5)]
        >>> scorer.predict([(images[0], "a man rides a horse"), (images[1], "a cat on a table")]).shape
        (2,)
        >>> best = scorer.rank("a cat on a table", images, top_k=3)  # dicts with corpus_id and score
        >>> len(best)
        3

    Args:
        model: the model; it is moved to `device` and set to evaluation mode.
        device: where to compute.
        predicates: names of the predicate numbers in the images' relations; by default the model's own.
        classes: names of the images' class ids; by default the model's own.
    """

    def __init__(
        self,
        model: Hire,
        device: str | torch.device = "cpu",
        predicates: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.model = model.eval().to(device)
        self.device = torch.device(device)
        self.predicates = tuple(model.predicates if predicates is None else predicates)
        classes = model.classes if classes is None else classes
        self._maps = map_predicates(model.predicates, self.predicates), map_classes(model.classes, classes)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        predicates: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Scorer:
        """Load the model in `folder` and check its digests.

        Args:
            folder: a model folder.
            device: where to compute.
            predicates: from the manifest of the images' data set, if it is not the training data.
            classes: from the same manifest.

        Raises:
            HireError: if there is no model, or it is damaged.
        """
        return cls(artifact.load(folder), device, predicates, classes)

    @torch.inference_mode()
    def predict(self, pairs: Sequence[ImageTextPair]) -> np.ndarray:
        """Score n pairs of image and text. An image or text that occurs several times is encoded once.

        Returns:
            Scores [n] float32.

        Raises:
            DataError: if an image does not fit the model or a text is not valid; the message names the pair.
        """
        for row, (image, text) in enumerate(pairs):
            self.check(image, text, f"pair {row}")
        images, image_index = deduplicate([pair[0] for pair in pairs], id)
        texts, text_index = deduplicate([pair[1] for pair in pairs], str)
        scores = np.empty(len(pairs), np.float32)
        encoded_images = [self.encode_images(images[i : i + _BLOCK]) for i in range(0, len(images), _BLOCK)]
        encoded_texts = [self.encode_texts(texts[i : i + _BLOCK]) for i in range(0, len(texts), _BLOCK)]
        blocks = np.stack([image_index // _BLOCK, text_index // _BLOCK], axis=1)
        for block in np.unique(blocks, axis=0):
            rows = np.flatnonzero((blocks == block).all(axis=1))
            index = [side[rows] % _BLOCK for side in (image_index, text_index)]
            scores[rows] = self.score(encoded_images[block[0]], encoded_texts[block[1]], *index)
        return scores

    def rank(
        self, query: ImageRegions | str, documents: Sequence[ImageRegions] | Sequence[str], top_k: int | None = None
    ) -> list[RankedDocument]:
        """Rank `documents` from best to worst: images for a text, or texts for an image.

        Args:
            query: a text or an image.
            documents: images for a text, texts for an image.
            top_k: number of documents to return; by default all.

        Returns:
            The best documents. Equal scores keep the order of `documents`.
        """
        if isinstance(query, str):
            scores = self.predict([(image, query) for image in documents])  # type: ignore[misc]
        else:
            scores = self.predict([(query, text) for text in documents])  # type: ignore[misc]
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [RankedDocument(corpus_id=int(row), score=float(scores[row])) for row in order]

    def explain(self, image: ImageRegions, text: str) -> Explanation:
        """Return which regions of `image` each word of `text` attends to, and how much it adds to the score."""
        self.check(image, text, "pair 0")
        return self.explain_encoded(self.encode_images([image]), text)

    def explain_encoded(self, image: EncodedImages, text: str) -> Explanation:
        """Explain one encoded image against `text`."""
        tokens = CaptionBank.from_lists(self.model.vocabulary.encode([text])).tokens([0]).to(self.device)
        return explain_encoded(self.model, image, tokens, text)

    def find_unknown_words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the words of each text that are not in the vocabulary. The model cannot tell them apart."""
        return self.model.vocabulary.find_unknown_words(texts)

    def check(self, image: ImageRegions, text: str, where: str) -> None:
        """Raise DataError, with a message that starts with `where`, if the image or the text does not fit the model."""
        check_text(text, where)
        if not isinstance(image, ImageRegions):
            raise DataError(
                f"{where}: the image is {type(image).__name__}, expected hire_model.data.store.ImageRegions."
            )
        if image.features.ndim != 2 or image.features.shape[1] != self.model.feature_dim or not len(image.features):
            raise DataError(
                f"{where}: features have shape {list(image.features.shape)}, expected [1 or more regions, "
                f"{self.model.feature_dim}] as in the training data."
            )
        if not all_finite(image.features):
            raise DataError(f"{where}: a feature is NaN or infinite, expected finite numbers.")
        count, edges = len(image.features), len(image.relations)
        shapes = {"boxes": [count, 4], "classes": [count], "relations": [edges, 3], "relation_scores": [edges]}
        for name, shape in shapes.items():
            actual = list(getattr(image, name).shape)
            if actual != shape:
                raise DataError(f"{where}: {name} have shape {actual}, expected {shape}.")
        limits = {"subject": count, "predicate": len(self.predicates), "object": count}
        for column, (name, limit) in enumerate(limits.items()):
            wrong = (image.relations[:, column] < 0) | (image.relations[:, column] >= limit)
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{where}: relation {row} has {name} {image.relations[row, column]}, expected 0 to {limit - 1}."
                )

    @torch.inference_mode()
    def encode_images(self, images: Sequence[ImageRegions]) -> EncodedImages:
        """Encode images, padded to the longest. They must have passed `check`."""
        return self.model.encode_image(collate_regions(images, *self._maps).to(self.device))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts, padded to the longest."""
        bank = CaptionBank.from_lists(self.model.vocabulary.encode(texts))
        return self.model.encode_text(bank.tokens(range(len(bank))).to(self.device))

    @torch.inference_mode()
    def score(
        self, images: EncodedImages, texts: EncodedTexts, image_index: np.ndarray, text_index: np.ndarray
    ) -> np.ndarray:
        """Score the pairs (image_index[k], text_index[k]) of encoded items; return [K] float32."""
        scores = np.empty(len(image_index), np.float32)
        for start in range(0, len(scores), _BLOCK):
            block = slice(start, start + _BLOCK)
            index = [torch.from_numpy(side[block]).to(self.device) for side in (image_index, text_index)]
            scores[block] = self.model.score_pairs(images, texts, *index).total.float().cpu().numpy()
        return scores

    @torch.inference_mode()
    def _score_one(self, image: EncodedImages, text: EncodedTexts, times: int) -> np.ndarray:
        """Return the score of one image and one text, repeated [times] float32. It needs no index of pairs."""
        return np.full(times, self.model.score(image, text).total.item(), np.float32)

    def score_items(
        self,
        images: Sequence[EncodedImages],
        texts: Sequence[EncodedTexts],
        image_index: np.ndarray,
        text_index: np.ndarray,
    ) -> np.ndarray:
        """Score pairs of items that were encoded one by one. Pairs of similar size form a block, to reduce padding.

        Args:
            images: each contains one image; an object that occurs several times in the list is joined once.
            texts: each contains one caption; repeated objects are joined once, too.
            image_index: [K], position in `images` of the image of each pair.
            text_index: [K], position in `texts` of the caption of each pair.

        Returns:
            Scores [K] float32.
        """
        if len(images) == len(texts) == 1:
            return self._score_one(images[0], texts[0], len(image_index))
        images, image_position = deduplicate(images, id)
        texts, text_position = deduplicate(texts, id)
        image_index, text_index = image_position[image_index], text_position[text_index]
        if 0 < len(image_index) <= _FEW:
            return self.score(
                EncodedImages.concatenate(images), EncodedTexts.concatenate(texts), image_index, text_index
            )
        scores = np.empty(len(image_index), np.float32)
        for rows in _split_by_size(_get_sizes(images)[image_index], _get_sizes(texts)[text_index], image_index):
            used_images, image = np.unique(image_index[rows], return_inverse=True)
            used_texts, text = np.unique(text_index[rows], return_inverse=True)
            joined_images = EncodedImages.concatenate([images[i] for i in used_images])
            joined_texts = EncodedTexts.concatenate([texts[i] for i in used_texts])
            scores[rows] = self.score(joined_images, joined_texts, image, text)
        return scores


def check_text(text: object, where: str) -> None:
    """Raise DataError, with a message that starts with `where`, if `text` is not a string of valid Unicode."""
    if not isinstance(text, str):
        raise DataError(f"{where}: the text is {type(text).__name__}, expected str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text contains half a character, expected Unicode: {error}.") from error


def deduplicate(items: Sequence[Item], key: Callable[[Item], object]) -> tuple[list[Item], np.ndarray]:
    """Return the distinct items in order of appearance, and for each item its position [n] among them."""
    distinct: dict[object, Item] = {}
    for item in items:
        distinct.setdefault(key(item), item)
    positions = {item_key: position for position, item_key in enumerate(distinct)}
    return list(distinct.values()), np.array([positions[key(item)] for item in items], np.int64)


def _split_by_size(regions: np.ndarray, words: np.ndarray, image_index: np.ndarray) -> Iterator[np.ndarray]:
    """Split K pairs into blocks by the sizes [K] of their items. In a block, pairs of the same image are adjacent."""
    order = np.lexsort((image_index, words // _STEP, regions // _STEP))
    steps = np.stack([regions // _STEP, words // _STEP])[:, order]
    for group in np.split(order, np.flatnonzero((np.diff(steps) != 0).any(axis=0)) + 1):
        if len(group):
            size = max(1, min(_PAIRS, _FRAGMENTS // int(regions[group].max() + words[group].max())))
            yield from np.split(group, range(size, len(group), size))


def _get_sizes(items: Sequence[EncodedImages] | Sequence[EncodedTexts]) -> np.ndarray:
    return np.array([item.mask.shape[1] for item in items], np.int64)
