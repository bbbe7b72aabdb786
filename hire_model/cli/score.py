"""`hire score`: score one picture against sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.errors import HireError

if TYPE_CHECKING:
    from hire_model.data.store import ImageRegions
    from hire_model.scoring.explain import Explanation

_REGIONS = 2  # named for each word


def score(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file, such as a JPEG.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Sentences, each in quotes.")],
    model: Annotated[
        str, typer.Option(help="Registry address such as models:/hire@champion, or a model folder.")
    ] = "models:/hire@champion",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what each word adds to the score, and the regions it attends to.")
    ] = False,
) -> None:
    """Score a picture against sentences, best first. The model must be trained on imported pictures."""
    if not all(text.strip() for text in texts):
        raise HireError("TEXT: a sentence is empty. Expected a description of the picture, in quotes.")
    from hire_model.scoring.pictures import PictureReader
    from hire_model.scoring.scorer import Scorer
    from hire_model.settings import resolve
    from hire_model.tracking.registry import fetch
    from hire_model.training.distributed import pick_device

    settings = resolve(None).settings
    folder = fetch(model, settings.tracking)
    reader = PictureReader.load(folder)
    read = reader.read_file(picture)
    scorer = Scorer.load(folder, pick_device(settings.train))
    typer.echo(
        f"{picture}: {read.width} x {read.height} pixels, {len(read.regions.boxes)} regions ({reader.facts.name})"
    )
    unknown = scorer.find_unknown_words(texts)
    for hit in scorer.rank(read.regions, texts):
        text = texts[hit["corpus_id"]]
        typer.echo(f"{hit['score']:8.4f}  {text}")
        for word in dict.fromkeys(unknown[hit["corpus_id"]]):
            typer.echo(f"          {word}: not in the vocabulary")
        if explain:
            _print_explanation(scorer.explain(read.regions, text), read.regions, reader.classes)


def _print_explanation(explanation: Explanation, regions: ImageRegions, classes: tuple[str, ...]) -> None:
    """Print a line per word: its contribution, and the regions with the largest weights."""
    width = max(map(len, explanation.words))
    for word, part, weights in zip(explanation.words, explanation.contributions, explanation.weights, strict=True):
        best = (-weights).argsort(kind="stable")[:_REGIONS].tolist()
        names = (f"{_name_region(regions, row, classes)} {100 * weights[row]:.0f} %" for row in best)
        typer.echo(f"          {part:+.4f}  {word.ljust(width)}  {', '.join(names)}")


def _name_region(regions: ImageRegions, row: int, classes: tuple[str, ...]) -> str:
    """Return the class of a region, or its number and the percentages of the picture that it covers."""
    number = int(regions.classes[row])
    if number >= 0:
        return classes[number]
    left, top, right, bottom = (round(100 * value) for value in regions.boxes[row].tolist())
    return f"region {row + 1} (x {left}-{right} %, y {top}-{bottom} %)"
