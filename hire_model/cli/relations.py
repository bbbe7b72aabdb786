"""`hire data relations`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hire_model.cli.data import print_written
from hire_model.cli.options import DatasetFolder, Overwrite


class Maker(StrEnum):
    """What makes relations."""

    geometry = "geometry"
    prior = "prior"


def relations(
    dataset: DatasetFolder,
    maker: Annotated[
        Maker, typer.Option("--from", help="Rules about boxes, or a prior learned from the training split.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new data set; must not exist.")],
    fit: Annotated[
        str,
        typer.Option(
            metavar="relations|captions|FILE",
            help="With --from prior: what to learn from; FILE is Visual Genome's relationships.json. Default: "
            "relations of the training split if it has imported ones, else its captions.",
        ),
    ] = "",
    top: Annotated[int, typer.Option(min=1, help="Largest number of relations in which a region is the subject.")] = 2,
    train: Annotated[str, typer.Option(help="Name of the training split.")] = "train",
    name: Annotated[str, typer.Option(help="Name of the data set. Default: that of --out.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Copy a data set with relations that are made from its boxes and classes. Its own relations are replaced."""
    from hire_model.data.importers.base import Target
    from hire_model.data.store import Dataset
    from hire_model.workflows.relations import RelationJob, make_relations

    job = RelationJob(maker.value, top, fit, train)
    _, notes = make_relations(Dataset.open(dataset), job, Target(out, name, overwrite=overwrite))
    for sentence in notes.sentences():
        typer.echo(f"  {sentence}")
    print_written(out)
