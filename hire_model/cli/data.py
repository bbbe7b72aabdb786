"""`hire data`: generate, import, check and show data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.hints import print_next
from hire_model.cli.options import DatasetFolder, Overwrite, make_ordered_group

if TYPE_CHECKING:
    from rich.table import Table

    from hire_model.data.schema import Manifest, SplitCounts
    from hire_model.data.store import Dataset

_MANY_PHOTOGRAPHS = 2000  # flickr8k_mini was tuned on 700, flickr8k_regions on 5,856

app = typer.Typer(
    cls=make_ordered_group("synth", "import", "relations", "show", "verify", "validate", "profile", "contrasts"),
    help="Generate, import, check and show data sets.",
    no_args_is_help=True,
)


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder of the new data set; must not exist.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training images.")] = 4000,
    dev: Annotated[int, typer.Option(min=0, help="Number of dev images.")] = 200,
    test: Annotated[int, typer.Option(min=0, help="Number of test images.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same data set.")] = 0,
    large: Annotated[
        bool, typer.Option("--large", help="Streets, rooms and shelves of 15 to 36 objects instead of 3 to 11.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate relational scenes: pictures, captions, detections and relations, without a download."""
    from hire_model.data.synthetic import generate

    generate(out, train=train, dev=dev, test=test, seed=seed, large=large, overwrite=overwrite)
    print_written(out)


@app.command()
def verify(dataset: DatasetFolder) -> None:
    """Check that a data set is complete: digests, columns, indices. Exit with status 1 if there is an error.

    'hire data validate' does the same, and then checks the content.
    """
    from hire_model.data.verify import verify

    findings = verify(dataset)
    for finding in findings:
        typer.echo(str(finding))
    typer.echo(f"{dataset}: {len(findings)} errors")
    if findings:
        raise typer.Exit(1)


@app.command()
def show(
    dataset: DatasetFolder,
    split: Annotated[str, typer.Option(help="Show only this split. Default: all splits.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Number of images on the contact sheet, evenly spread.")] = 48,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the pictures, if the data set has none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. Default: runs/sheets/DATASET.html.")
    ] = None,
) -> None:
    """Show counts, vocabularies and one image, and write a contact sheet: images with boxes, relations and captions."""
    from rich.console import Console

    from hire_model.data.store import Dataset
    from hire_model.evaluation.contact_sheet import render
    from hire_model.files import check_writable, write_text

    data, console = Dataset.open(dataset), Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    page = out or Path("runs/sheets") / f"{dataset.expanduser().resolve().name}.html"
    check_writable(page)
    console.print(_make_count_table(data.manifest))
    console.print(_make_fact_table(data.manifest))
    console.print(_make_sample_table(data))
    console.print(f"Contact sheet: {write_text(render(data.split(split), limit, images), page)}")


def print_written(out: Path) -> None:
    """Print the counts of a new data set and the next commands."""
    from rich.console import Console

    from hire_model.data.schema import Manifest

    manifest = Manifest.read(out.expanduser())
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(_make_count_table(manifest))
    console.print(f"Written to {out}, version {manifest.digest[:12]}.")
    arguments = suggest_training(manifest, out)
    if not arguments:
        console.print("To train, a data set needs a split named train, and another one with images.")
    training = [["hire", "train", *arguments]] if arguments else []
    print_next(["hire", "data", "validate", str(out)], ["hire", "data", "show", str(out)], *training)


def suggest_training(manifest: Manifest, folder: Path) -> list[str]:
    """Return the arguments of `hire train` for a data set: a recipe, and its splits where the recipe names others.

    An empty list means that no training is possible, because fewer than two splits have images.
    """
    from hire_model.settings import resolve

    names = [name for name, counts in manifest.splits.items() if counts.images]
    train = _pick_split(names, ("train",))
    others = [name for name in names if name != train]
    if not train or not others:
        return []
    dev = _pick_split(others, ("dev", "val", ""))
    test = _pick_split([name for name in others if name != dev], ("test",)) or dev
    recipe = _choose_recipe(manifest, manifest.splits[train])
    data = resolve(recipe, environ={}).settings.data
    used = {"train": data.train, "dev": data.dev, "test": data.evaluation_split.name}
    wanted = {"train": train, "dev": dev, "test": test}
    values = [f"data.{key}={wanted[key]}" for key in wanted if wanted[key] != used[key]]
    if manifest.has_made_relations:
        values += ["model.graphs=semantic", "model.predicate_vectors=true"]
    settings = [word for value in values for word in ("--set", value)]
    return [*([] if recipe == "synthetic" else ["--recipe", recipe]), "--data", str(folder), *settings]


def _choose_recipe(manifest: Manifest, train: SplitCounts) -> str:
    """Return the recipe that was tuned on the data most similar to this training split."""
    from hire_model.data.synthetic import EXTRACTOR
    from hire_model.settings import list_recipes

    if train.relations and not manifest.has_made_relations:
        photographs = manifest.feature_extractor != EXTRACTOR and "flickr8k_entities" in list_recipes()
        return "flickr8k_entities" if photographs else "synthetic"
    return "flickr8k_regions" if train.images >= _MANY_PHOTOGRAPHS else "flickr8k_mini"


def _pick_split(names: list[str], beginnings: tuple[str, ...]) -> str:
    """Return the first name that begins with one of `beginnings`, in their order; "" if there is none."""
    return next((name for start in beginnings for name in sorted(names, key=len) if name.startswith(start)), "")


def _make_count_table(manifest: Manifest) -> Table:
    """Return a table of images, captions, regions and relations per split."""
    from rich.table import Table

    table = Table("split", title=manifest.name)
    for heading in ("images", "captions", "regions", "relations"):
        table.add_column(heading, justify="right")
    for name, counts in manifest.splits.items():
        numbers = (counts.images, counts.captions, counts.regions, counts.relations)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _make_fact_table(manifest: Manifest) -> Table:
    from rich.table import Table

    from hire_model.evaluation.dataset_figures import describe_maker

    table = Table(show_header=False, box=None)
    features = f"{manifest.feature_dim} x {manifest.feature_dtype}, by {manifest.feature_extractor}"
    for name, value in (
        ("version", manifest.digest),
        ("features", features),
        ("classes", _list_names(manifest.classes)),
        ("predicates", _list_names(manifest.predicates)),
        *([("relations by", describe_maker(manifest.relation_maker))] if manifest.relation_maker else []),
        ("source", manifest.source or "unknown"),
        ("licence", manifest.licence or "unknown"),
        ("created", manifest.created),
    ):
        table.add_row(name, value)
    return table


def _list_names(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "none"


def _make_sample_table(data: Dataset) -> Table:
    """Return a table of the first image of the first split: captions, regions and relations."""
    from rich.table import Table

    split = data.split(next(iter(data.manifest.splits)))
    regions, names, predicates = split.regions(0), data.manifest.classes, data.manifest.predicates
    labels = [names[c] if c >= 0 else "?" for c in regions.classes.tolist()]
    table = Table(show_header=False, title=f"image {split.image_id(0)} of split {split.name}")
    for text, owner in zip(split.texts, split.owner.tolist(), strict=True):
        if owner == 0:
            table.add_row("caption", text)
    table.add_row("regions", f"{len(labels)}: {', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}")
    for subject, predicate, object_ in regions.relations[:8].tolist():
        table.add_row(
            "relation", f"{labels[subject]} ({subject}) {predicates[predicate]} {labels[object_]} ({object_})"
        )
    picture = split.picture(0)
    table.add_row("picture", str(picture) if picture else "none")
    return table
