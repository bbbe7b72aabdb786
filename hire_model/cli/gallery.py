"""`hire gallery` and `hire search`: encode a data set once, then search its pictures with sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.hints import print_next
from hire_model.cli.options import (
    GALLERIES,
    OR_ADDRESS,
    DatasetFolder,
    GalleryFolder,
    HubCorrection,
    Overwrite,
    Ray,
    localize,
    refuse_address,
)
from hire_model.errors import HireError

if TYPE_CHECKING:
    from hire_model.gallery.changing import ChangeResult
    from hire_model.gallery.format import GalleryManifest
    from hire_model.gallery.search import GalleryResult
    from hire_model.gallery.store import Gallery
    from hire_model.scoring.scorer import Scorer

app = typer.Typer(help="Encode data sets for search, and change galleries.", no_args_is_help=True)
GalleryArgument = Annotated[
    Path, typer.Argument(metavar="GALLERY", parser=localize, help=f"Folder of the gallery{OR_ADDRESS}.")
]
ChangedGallery = Annotated[
    Path, typer.Argument(metavar="GALLERY", parser=refuse_address, help="Folder of the gallery.")
]
MetadataFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='JSON lines with metadata of images, such as {"id": "a.jpg", "year": 2020}.'),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Only images whose metadata has this value. Repeat for several keys."),
]
_MODEL = "Registry address such as models:/hire@champion, or a model folder"


@app.command()
def build(
    dataset: DatasetFolder,
    split: Annotated[str, typer.Option(help="Encode only this split. Default: all splits.")] = "",
    model: Annotated[str, typer.Option(help=f"{_MODEL}.")] = "models:/hire@champion",
    out: Annotated[Path | None, typer.Option(help="Folder of the gallery. Default: galleries/DATASET.")] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Also encode captions, for search by image.")] = False,
    metadata: MetadataFile = None,
    anchors: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            parser=localize,
            help=f"Choose shortlists by scores with captions of this data set{OR_ADDRESS}: slower to build, and they "
            "agree better with a model that matches relations.",
        ),
    ] = None,
    ray: Ray = "",
    overwrite: Overwrite = False,
) -> None:
    """Encode every image of a data set once. The same command continues an interrupted build."""
    from hire_model.data.store import Dataset

    images = Dataset.open(dataset).split(split)
    from hire_model.gallery.building import build
    from hire_model.workers import Workers

    folder = out or GALLERIES / dataset.expanduser().resolve().name
    scorer = _load_scorer(model)
    address = str(Path(model).resolve()) if Path(model).is_dir() else name_version(model)
    result = build(
        scorer.model, images, folder, address=address, captions=captions, metadata=metadata, overwrite=overwrite,
        anchor_captions=Dataset.open(anchors).split("").texts if anchors else None, workers=Workers(ray=ray),
    )  # fmt: skip
    items = f"{result.encoded:,} items encoded" if result.encoded else "up to date, nothing to do"
    typer.echo(f"{folder}: {items}.")
    place = ["--gallery", str(folder)]
    print_next(["hire", "search", "a dog", *place], ["hire", "demo", *place])


@app.command()
def add(
    gallery: ChangedGallery,
    dataset: DatasetFolder,
    split: Annotated[str, typer.Option(help="Add only this split. Default: all splits.")] = "",
    metadata: MetadataFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace images that have the same id.")] = False,
    model: Annotated[str, typer.Option(help=f"{_MODEL}. Default: the model that encoded the gallery.")] = "",
) -> None:
    """Add the images of a data set to a gallery. Searches see the old or the new gallery."""
    from hire_model.data.store import Dataset
    from hire_model.gallery.format import GalleryManifest

    folder, images = find_gallery(gallery), Dataset.open(dataset).split(split)
    scorer = _load_scorer(model or GalleryManifest.read(folder.expanduser()).address)
    from hire_model.gallery.changing import add

    _print_change(folder, add(scorer.model, images, folder, metadata=metadata, replace=replace))


@app.command()
def remove(
    gallery: ChangedGallery,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Images to remove.")] = None,
    where: Where = None,
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="Ignore ids that are not in the gallery.")] = False,
) -> None:
    """Remove images from a gallery, by id or by metadata."""
    from hire_model.gallery.changing import remove

    if not ids and not where:
        raise HireError("Nothing to remove. Give the ids of images, or --where KEY=VALUE.")
    folder = find_gallery(gallery)
    _print_change(folder, remove(folder, ids or (), parse_where(where), missing_ok))


def _print_change(folder: Path, result: ChangeResult) -> None:
    counts = {"added": result.added, "replaced": result.replaced, "removed": result.removed}
    done = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing to do"
    manifest = result.manifest
    typer.echo(f"{folder}: {done}. Now {manifest.images:,} images, generation {manifest.generation}.")


@app.command("list")
def list_(folder: Annotated[Path, typer.Argument(help="Folder that contains galleries.")] = GALLERIES) -> None:
    """List the galleries in a folder with model and data."""
    rows = [["gallery", "data set", "split", "images", "captions", "model", "created"]]
    for path, manifest in _list_galleries(folder).items():
        captions = f"{manifest.captions:,}" if manifest.captioned else "none"
        counts = [f"{manifest.images:,}", captions, f"{manifest.address} {manifest.model[:12]}"]
        rows.append([str(path), manifest.data.name, manifest.split or "all", *counts, manifest.created])
    typer.echo(
        _align(rows) if rows[1:] else f"{folder}: no gallery here. Create one with 'hire gallery build DATASET'."
    )


@app.command()
def show(gallery: GalleryArgument) -> None:
    """Check every file against its digest, and show the content of a gallery."""
    from hire_model.gallery.store import Gallery

    typer.echo(_align(_describe(Gallery.open(find_gallery(gallery)))))


def search(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Sentences, each in quotes.")],
    gallery: GalleryFolder = GALLERIES,
    top: Annotated[int, typer.Option(min=1, help="Number of pictures to show per sentence.")] = 10,
    shortlist: Annotated[
        int, typer.Option(min=0, help="Number of images to re-rank with the pair stages; 0 uses the default.")
    ] = 0,
    model: Annotated[str, typer.Option(help=f"{_MODEL}. Default: the model that encoded the gallery.")] = "",
    hub_correction: HubCorrection = False,
    where: Where = None,
) -> None:
    """Find the pictures of a gallery that match a sentence."""
    from hire_model.gallery.store import Gallery

    if not all(text.strip() for text in texts):
        raise HireError("TEXT: a sentence is empty. Expected a description of the picture, in quotes.")
    opened = Gallery.open(find_gallery(gallery))
    scorer = _load_scorer(model or opened.manifest.address)
    from hire_model.gallery.search import SHORTLIST, search_images

    filters = parse_where(where)
    results = search_images(scorer, opened, texts, top, shortlist or max(SHORTLIST, top), hub_correction, filters)
    found = opened.filter(filters) if filters else opened
    for text, result in zip(texts, results, strict=True):
        marks = [f"  {word}: not in the vocabulary" for word in dict.fromkeys(result.unknown)]
        typer.echo("\n".join([text, *marks]))
        typer.echo(f"{_align(_tabulate_hits(result, opened))}")
        typer.echo(f"{result.reranked:,} of {len(found):,} images scored. {result.note}".rstrip())
        typer.echo(f"Hub correction: {scorer.model.hubs.describe()}.\n" if hub_correction and scorer.model.hubs else "")


def _load_scorer(address: str) -> Scorer:
    from hire_model.scoring.scorer import Scorer
    from hire_model.settings import resolve
    from hire_model.tracking.registry import fetch
    from hire_model.training.distributed import pick_device

    settings = resolve(None).settings
    return Scorer.load(fetch(address, settings.tracking), pick_device(settings.train))


def name_version(address: str) -> str:
    """Return the address with the version's number instead of an alias, which may name another version later."""
    from hire_model.settings import resolve
    from hire_model.tracking import versions

    version = versions.find_by_address(resolve(None).settings.tracking, address)
    return version.uri if version else address


def _list_galleries(folder: Path) -> dict[Path, GalleryManifest]:
    from hire_model.gallery.format import GalleryManifest

    galleries = {}
    for path in sorted(folder.expanduser().glob("*/manifest.json")):
        try:
            galleries[path.parent] = GalleryManifest.read(path.parent)
        except HireError:
            continue  # a manifest of something else, such as a data set
    return galleries


def find_gallery(folder: Path) -> Path:
    """Return `folder` if it is a gallery, else the only gallery in it. Raise HireError if there are none or several."""
    if (folder.expanduser() / "manifest.json").is_file():
        return folder
    found = list(_list_galleries(folder))
    if len(found) == 1:
        return found[0]
    if not found:
        raise HireError(
            f"{folder}: no gallery here. Create one with 'hire gallery build DATASET', or give the folder of a gallery."
        )
    raise HireError(f"{folder}: contains {len(found)} galleries. Choose one: {', '.join(map(str, found))}.")


def _describe(gallery: Gallery) -> list[list[str]]:
    manifest = gallery.manifest
    facts = {
        "images": f"{len(gallery):,} with {gallery.images.lengths.sum():,} regions",
        "captions": f"{len(gallery.captions):,}" if gallery.captions else "none",
        "data set": f"{manifest.data.name}, split {manifest.split or 'all'}, version {manifest.data.digest}",
        "model": f"{manifest.address}, {manifest.model}",
        "numbers": f"{gallery.images.facts.size} per region, {manifest.dim} per summary",
        "shortlist": gallery.anchors.describe() if gallery.anchors else "global head, if the model has one",
        "size": f"{manifest.bytes / 1e6:,.1f} MB in {len(manifest.segments)} segments, all files match the manifest",
        "generation": f"{manifest.generation}{', changed since the build' * manifest.changed}",
        "created": manifest.created,
    }
    return [[name, value] for name, value in facts.items()]


def parse_where(pairs: list[str] | None) -> dict[str, str]:
    """Return the filters of --where KEY=VALUE by key. Raises HireError if one is not valid or a key occurs twice."""
    filters: dict[str, str] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise HireError(f"--where {pair}: expected KEY=VALUE, such as --where year=2020.")
        if key in filters:
            raise HireError(f"--where {pair}: the key '{key}' is given twice. An image must match all filters.")
        filters[key] = value
    return filters


def _tabulate_hits(result: GalleryResult, gallery: Gallery) -> list[list[str]]:
    rows = [["rank", "id", "score", "shortlist", "picture"]]
    for rank, hit in enumerate(result.hits, 1):
        shortlist_rank = "all" if hit.place is None else str(hit.place)
        rows.append([str(rank), hit.id, f"{hit.score:.4f}", shortlist_rank, str(gallery.picture(hit.row) or "none")])
    return rows


def _align(rows: list[list[str]]) -> str:
    """Return the rows as aligned columns. Cells are never truncated, so that paths can be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
