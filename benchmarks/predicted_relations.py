"""Measure how much of what relations bring a predictor could replace: true, predicted and no relations in the start.

    python benchmarks/predicted_relations.py --data DATASET [--recipe flickr8k_entities] [--folds 2] [--epochs 8]

A network predicts the predicate of each ordered pair of regions from their classes, features and boxes. It is trained
on the training split in folds, so that no image gets a prediction of a network that saw its relations; dev gets the
mean of the networks. The closed-form start then counts predicates: none, the predicted probabilities, or the true ones.
If predicted relations do not beat none, then nothing that reads the same regions can replace a lost relation.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from hire_model.batch import Regions
from hire_model.data.boxes import PAIR_VALUES, describe_pairs
from hire_model.data.loading import collate_regions
from hire_model.data.splits import open_dataset, open_splits
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.implicit_edges import mark_pairs
from hire_model.model.layers import masked_mean, normalize
from hire_model.model.warm_start import average_states, solve_cca
from hire_model.progress import show_progress
from hire_model.settings import resolve

_BLOCK = 64


class PairPredictor(nn.Module):
    """Logits of each predicate, the last one for no relation, of pairs of regions."""

    def __init__(self, features: int, classes: int, predicates: int) -> None:
        super().__init__()
        self.subject, self.object = (nn.Embedding(classes + 1, 64) for _ in range(2))
        self.first, self.second = (nn.Linear(features, 64) for _ in range(2))
        self.rest = nn.Sequential(
            nn.Linear(128 + PAIR_VALUES, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, predicates + 1)
        )

    def forward(self, regions: Regions, features: Tensor) -> Tensor:
        """Return [B, R, R, predicates + 1]; features [B, R, F] are normalised."""
        names = regions.classes + 1
        subject, object_ = self.subject(names) + self.first(features), self.object(names) + self.second(features)
        size = names.shape[1]
        pairs = [subject[:, :, None].expand(-1, -1, size, -1), object_[:, None].expand(-1, size, -1, -1)]
        return self.rest(torch.cat([*pairs, describe_pairs(regions.boxes)], dim=-1))


def read_blocks(split: Split) -> list[Regions]:
    """Return all images of a split in blocks."""
    starts = range(0, len(split.images), _BLOCK)
    return [
        collate_regions([split.regions(row) for row in range(s, min(s + _BLOCK, len(split.images)))]) for s in starts
    ]


def label_pairs(regions: Regions, predicates: int) -> Tensor:
    """Return the predicate of each pair [B, R, R]; `predicates` for none, -100 where there is no pair."""
    labels = torch.where(mark_pairs(regions.mask), predicates, -100)
    image, subject, predicate, object_ = regions.relations.unbind(1)
    labels[image, subject, object_] = predicate
    return labels


def train_predictor(model: Hire, blocks: list[Regions], classes: int, epochs: int) -> PairPredictor:
    """Train a predictor on the relations of these images."""
    predictor = PairPredictor(model.feature_dim, classes, len(model.predicates))
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * len(blocks)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in show_progress(range(steps), "train a predictor"):
        if step % len(blocks) == 0:
            order = torch.randperm(len(blocks)).tolist()
        regions = blocks[order[step % len(blocks)]]
        logits = predictor(regions, model.regions.normalize(regions.features))
        labels = label_pairs(regions, len(model.predicates))
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return predictor.eval()


@torch.inference_mode()
def count_predicted(model: Hire, predictor: PairPredictor, blocks: list[Regions]) -> tuple[Tensor, np.ndarray]:
    """Return the expected number of relations per predicate and region [N, P], and hits of the best predicate."""
    counts, hits = [], []
    for regions in blocks:
        logits = predictor(regions, model.regions.normalize(regions.features))
        shares = logits.softmax(dim=-1)[..., :-1] * mark_pairs(regions.mask)[..., None]
        counts.append(shares.sum(dim=(1, 2)) / regions.mask.sum(dim=1, keepdim=True))
        image, subject, predicate, object_ = regions.relations.unbind(1)
        hits.append((logits[image, subject, object_][:, :-1].argmax(dim=1) == predicate).numpy())
    return torch.cat(counts), np.concatenate(hits)


@torch.inference_mode()
def describe_images(model: Hire, blocks: list[Regions]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean features [N, F], shares of classes [N, C], and true numbers of relations per predicate [N, P]."""
    assert model.explicit is not None and model.explicit.semantic is not None and model.explicit.predicates is not None
    assert model.regions.classes is not None
    features, classes, predicates = [], [], []
    for regions in blocks:
        features.append(masked_mean(model.regions.normalize(regions.features), regions.mask))
        classes.append(model.regions.classes.count(regions))
        chosen = model.explicit.semantic.select_relations(regions)
        predicates.append(model.explicit.predicates.count(regions, chosen))
    return torch.cat(features), torch.cat(classes), torch.cat(predicates)


@torch.inference_mode()
def describe_captions(model: Hire, texts: list[str]) -> Tensor:
    """Return the mean states of the frozen text encoder [M, H]."""
    bank, device = build_caption_bank(model, texts), torch.device("cpu")
    blocks = show_progress(range(0, len(bank), 256), "encode captions")
    return torch.cat([average_states(model, bank, range(s, min(s + 256, len(bank))), device) for s in blocks])


def measure_start(
    train: list[Tensor], dev: list[Tensor], texts: tuple[Tensor, Tensor], owners: tuple[np.ndarray, np.ndarray],
    ridges: tuple[float, float], size: int,
) -> float:  # fmt: skip
    """Return rSum on dev of the CCA of the blocks of image values `train` with the captions."""
    scales = [(train[0].var(dim=0).sum() / block.var(dim=0).sum()).sqrt() for block in train]
    x, x_dev = (torch.cat([b * s for b, s in zip(blocks, scales, strict=True)], dim=1) for blocks in (train, dev))
    x_mean, y_mean = x.mean(dim=0), texts[0].mean(dim=0)
    x, x_dev, y, y_dev = x - x_mean, x_dev - x_mean, texts[0] - y_mean, texts[1] - y_mean
    cross = x[torch.from_numpy(owners[0])].T @ y / len(y)
    a, b, _ = solve_cca(x.T @ x / len(x), y.T @ y / len(y), cross, *ridges, size)
    matrix = (normalize(x_dev @ a) @ normalize(y_dev @ b).T).numpy()
    return protocols.evaluate_matrix(matrix, owners[1], "full", bootstrap=0).rsum


def predict_counts(
    model: Hire, train: list[Regions], dev: list[Regions], classes: int, folds: int, epochs: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return the expected relations of the training images, of the dev images, and hits on the training relations."""
    counts: list[Tensor] = [torch.empty(0)] * len(train)
    dev_counts, hits = [], []
    for fold in range(folds):
        held = range(fold, len(train), folds)
        kept = [block for index, block in enumerate(train) if index not in held]
        predictor = train_predictor(model, kept, classes, epochs)
        for index in held:
            counts[index], hit = count_predicted(model, predictor, [train[index]])
            hits.append(hit)
        dev_counts.append(count_predicted(model, predictor, dev)[0])
    return torch.cat(counts), torch.stack(dev_counts).mean(dim=0), np.concatenate(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="flickr8k_entities")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    settings = resolve(args.recipe, [f"data.path={args.data}"]).settings
    torch.manual_seed(settings.train.seed)
    splits = open_splits(open_dataset(settings.data), settings.data)
    model = build_model(settings.model, splits.train).eval()
    train, dev = read_blocks(splits.train), read_blocks(splits.dev)
    classes = len(splits.train.dataset.manifest.classes)
    predicted, predicted_dev, hits = predict_counts(model, train, dev, classes, args.folds, args.epochs)
    print(f"The likeliest predicate of a related pair is the true one in {100 * hits.mean():.1f} % of {len(hits):,}.")
    (features, names, true), (features_dev, names_dev, true_dev) = (describe_images(model, b) for b in (train, dev))
    texts = describe_captions(model, splits.train.texts), describe_captions(model, splits.dev.texts)
    owners = splits.train.owner, splits.dev.owner
    ridges = settings.train.warm_image_ridge, settings.train.warm_text_ridge
    for label, relations, relations_dev in [
        ("none", [], []),
        ("predicted", [predicted], [predicted_dev]),
        ("true", [true], [true_dev]),
    ]:
        figures = [
            measure_start([*base, *relations], [*base_dev, *relations_dev], texts, owners, ridges, settings.model.dim)
            for base, base_dev in (([features, names], [features_dev, names_dev]), ([features], [features_dev]))
        ]
        print(f"{label} relations: rSum {figures[0]:.1f} with class names, {figures[1]:.1f} without")


if __name__ == "__main__":
    main()
