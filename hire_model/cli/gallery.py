"""`hire gallery` and `hire search`: encode a data set once, then search its pictures with sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.hints import print_next
from hire_model.cli.options import GALLERIES, DatasetFolder, GalleryFolder, HubCorrection, Overwrite
from hire_model.errors import HireError

if TYPE_CHECKING:
    from hire_model.gallery.format import GalleryManifest
    from hire_model.gallery.search import GalleryResult
    from hire_model.gallery.store import Gallery
    from hire_model.scoring.scorer import Scorer

app = typer.Typer(help="Encode data sets for search.", no_args_is_help=True)
_MODEL = "Registry address such as models:/hire@champion, or a model folder"


@app.command()
def build(
    dataset: DatasetFolder,
    split: Annotated[str, typer.Option(help="Encode only this split. Default: all splits.")] = "",
    model: Annotated[str, typer.Option(help=f"{_MODEL}.")] = "models:/hire@champion",
    out: Annotated[Path | None, typer.Option(help="Folder of the gallery. Default: galleries/DATASET.")] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Also encode captions, for search by image.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Encode every image of a data set once. The same command continues an interrupted build."""
    from hire_model.data.store import Dataset

    images = Dataset.open(dataset).split(split)
    from hire_model.gallery.building import build

    folder = out or GALLERIES / dataset.expanduser().resolve().name
    scorer = _load_scorer(model)
    address = str(Path(model).resolve()) if Path(model).is_dir() else name_version(model)
    result = build(scorer.model, images, folder, address=address, captions=captions, overwrite=overwrite)
    items = f"{result.encoded:,} items encoded" if result.encoded else "up to date, nothing to do"
    typer.echo(f"{folder}: {items}.")
    place = ["--gallery", str(folder)]
    print_next(["hire", "search", "a dog", *place], ["hire", "demo", *place])


@app.command("list")
def list_(folder: Annotated[Path, typer.Argument(help="Folder that contains galleries.")] = GALLERIES) -> None:
    """List the galleries in a folder with model and data."""
    rows = [["gallery", "data set", "split", "images", "captions", "model", "created"]]
    for path, manifest in _list_galleries(folder).items():
        captions = f"{manifest.captions.items:,}" if manifest.captions else "none"
        counts = [f"{manifest.images.items:,}", captions, f"{manifest.address} {manifest.model[:12]}"]
        rows.append([str(path), manifest.data.name, manifest.split or "all", *counts, manifest.created])
    typer.echo(
        _align(rows) if rows[1:] else f"{folder}: no gallery here. Create one with 'hire gallery build DATASET'."
    )


@app.command()
def show(gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="Folder of the gallery.")]) -> None:
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
) -> None:
    """Find the pictures of a gallery that match a sentence."""
    from hire_model.gallery.store import Gallery

    if not all(text.strip() for text in texts):
        raise HireError("TEXT: a sentence is empty. Expected a description of the picture, in quotes.")
    opened = Gallery.open(find_gallery(gallery))
    scorer = _load_scorer(model or opened.manifest.address)
    from hire_model.gallery.search import SHORTLIST, search_images

    results = search_images(scorer, opened, texts, top, shortlist or max(SHORTLIST, top), hub_correction)
    for text, result in zip(texts, results, strict=True):
        marks = [f"  {word}: not in the vocabulary" for word in dict.fromkeys(result.unknown)]
        typer.echo("\n".join([text, *marks]))
        typer.echo(f"{_align(_tabulate_hits(result, opened))}")
        typer.echo(f"{result.reranked:,} of {len(opened):,} images scored. {result.note}".rstrip())
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
    size = sum(facts.bytes for facts in manifest.files.values())
    facts = {
        "images": f"{len(gallery):,} with {manifest.images.fragments:,} regions, index {manifest.images.index}",
        "captions": f"{manifest.captions.items:,}, index {manifest.captions.index}" if manifest.captions else "none",
        "data set": f"{manifest.data.name}, split {manifest.split or 'all'}, version {manifest.data.digest}",
        "model": f"{manifest.address}, {manifest.model}",
        "numbers": f"{manifest.images.size} per region, {manifest.dim} per summary",
        "size": f"{size / 1e6:,.1f} MB in {len(manifest.files)} files, all match the manifest",
        "created": manifest.created,
    }
    return [[name, value] for name, value in facts.items()]


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
