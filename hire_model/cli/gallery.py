"""`hire gallery` and `hire search`: encode a data set once, then find its pictures by sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import GALLERIES, DatasetFolder, GalleryFolder, Overwrite
from hire_model.errors import HireError

if TYPE_CHECKING:
    from hire_model.gallery.format import GalleryManifest
    from hire_model.gallery.search import GalleryResult
    from hire_model.gallery.store import Gallery
    from hire_model.scoring.scorer import Scorer

app = typer.Typer(help="Encode data sets once, for searching.", no_args_is_help=True)
_MODEL = "models:/hire@champion, another address of the registry, or a model folder"


@app.command()
def build(
    dataset: DatasetFolder,
    split: Annotated[str, typer.Option(help="Only this split; all of them without it.")] = "",
    model: Annotated[str, typer.Option(help=f"{_MODEL}.")] = "models:/hire@champion",
    out: Annotated[Path | None, typer.Option(help="Folder to write; galleries/DATASET without it.")] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Also captions, to be found by images.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Encode every image once. The same line again does nothing, or goes on where it was interrupted."""
    from hire_model.data.store import Dataset

    chosen = Dataset.open(dataset).split(split)
    from hire_model.gallery.building import build

    folder = out or GALLERIES / dataset.expanduser().resolve().name
    scorer = _load_scorer(model)
    address = str(Path(model).resolve()) if Path(model).is_dir() else model
    built = build(scorer.model, chosen, folder, address=address, captions=captions, overwrite=overwrite)
    items = f"{built.encoded:,} items encoded" if built.encoded else "up to date, nothing to do"
    typer.echo(f"{folder}: {items}.\nNext:  hire search 'a dog' --gallery {folder}")


@app.command("list")
def list_(folder: Annotated[Path, typer.Argument(help="A folder of galleries.")] = GALLERIES) -> None:
    """The galleries in a folder, with model and data."""
    rows = [["gallery", "data set", "split", "images", "captions", "model", "made"]]
    for path, manifest in _list_galleries(folder).items():
        captions = f"{manifest.captions.items:,}" if manifest.captions else "none"
        counts = [f"{manifest.images.items:,}", captions, f"{manifest.address} {manifest.model[:12]}"]
        rows.append([str(path), manifest.data.name, manifest.split or "all", *counts, manifest.created])
    typer.echo(_align(rows) if rows[1:] else f"{folder}: no gallery here. Make one with 'hire gallery build DATASET'.")


@app.command()
def show(gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="Folder of the gallery.")]) -> None:
    """What a gallery holds, every file checked against its digest."""
    from hire_model.gallery.store import Gallery

    typer.echo(_align(_describe(Gallery.open(find_gallery(gallery)))))


def search(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Sentences, each in quotes.")],
    gallery: GalleryFolder = GALLERIES,
    top: Annotated[int, typer.Option(min=1, help="How many pictures to show for each sentence.")] = 10,
    shortlist: Annotated[int, typer.Option(min=0, help="Images to score pairwise; 0 takes the default.")] = 0,
    model: Annotated[str, typer.Option(help=f"{_MODEL}; the one that encoded the gallery without it.")] = "",
) -> None:
    """Find the pictures of a gallery that fit a sentence."""
    from hire_model.gallery.store import Gallery

    if not all(text.strip() for text in texts):
        raise HireError("TEXT: a sentence is empty. Say what to look for, in quotes.")
    found = Gallery.open(find_gallery(gallery))
    scorer = _load_scorer(model or found.manifest.address)
    from hire_model.gallery.search import SHORTLIST, search_images

    answers = search_images(scorer, found, texts, top, shortlist or max(SHORTLIST, top))
    for text, answer in zip(texts, answers, strict=True):
        typer.echo(f"{text}\n{_align(_tabulate_hits(answer, found))}")
        typer.echo(f"{answer.reranked:,} of {len(found):,} images scored. {answer.note}".rstrip() + "\n")


def _load_scorer(address: str) -> Scorer:
    from hire_model.scoring.scorer import Scorer
    from hire_model.settings import resolve
    from hire_model.tracking.registry import fetch
    from hire_model.training.distributed import pick_device

    settings = resolve(None).settings
    return Scorer.load(fetch(address, settings.tracking), pick_device(settings.train))


def _list_galleries(folder: Path) -> dict[Path, GalleryManifest]:
    from hire_model.gallery.format import GalleryManifest

    found = {}
    for path in sorted(folder.expanduser().glob("*/manifest.json")):
        try:
            found[path.parent] = GalleryManifest.read(path.parent)
        except HireError:
            continue  # a data set, say
    return found


def find_gallery(folder: Path) -> Path:
    """`folder` itself if it is a gallery, or the only gallery in it. Raises HireError for none, or several."""
    if (folder.expanduser() / "manifest.json").is_file():
        return folder
    found = list(_list_galleries(folder))
    if len(found) == 1:
        return found[0]
    if not found:
        raise HireError(f"{folder}: no gallery here. Make one with 'hire gallery build DATASET', or name its folder.")
    raise HireError(f"{folder} holds {len(found)} galleries; name one: {', '.join(map(str, found))}.")


def _describe(gallery: Gallery) -> list[list[str]]:
    manifest = gallery.manifest
    size = sum(facts.bytes for facts in manifest.files.values())
    facts = {
        "images": f"{len(gallery):,} with {manifest.images.fragments:,} regions, index {manifest.images.index}",
        "captions": f"{manifest.captions.items:,}, index {manifest.captions.index}" if manifest.captions else "none",
        "data set": f"{manifest.data.name}, split {manifest.split or 'all'}, version {manifest.data.digest}",
        "model": f"{manifest.address}, {manifest.model}",
        "numbers": f"{manifest.images.size} per region, {manifest.dim} per summary",
        "size": f"{size / 1e6:,.1f} MB in {len(manifest.files)} files, all as in the manifest",
        "made": manifest.created,
    }
    return [[name, value] for name, value in facts.items()]


def _tabulate_hits(answer: GalleryResult, gallery: Gallery) -> list[list[str]]:
    rows = [["rank", "id", "score", "shortlist", "picture"]]
    for rank, hit in enumerate(answer.hits, 1):
        place = "all" if hit.place is None else str(hit.place)
        rows.append([str(rank), hit.id, f"{hit.score:.4f}", place, str(gallery.picture(hit.row) or "none")])
    return rows


def _align(rows: list[list[str]]) -> str:
    """The rows as aligned columns, never cut: a path is there to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
