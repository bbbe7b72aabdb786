"""`hire data import`: one command per published layout; what they share is asked for once, in `Common`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from hire_model.cli.data import print_written
from hire_model.cli.options import Overwrite
from hire_model.errors import DataError

if TYPE_CHECKING:
    from hire_model.data.importers.base import Source

app = typer.Typer(help="Turn a published layout into a data set of this project.", no_args_is_help=True)


class Dtype(StrEnum):
    """Number format of the stored features."""

    float16 = "float16"
    float32 = "float32"


class Restval(StrEnum):
    """What becomes of COCO's split restval."""

    train = "train"
    drop = "drop"


class Frame(StrEnum):
    """What Scene-Graph-Benchmark's boxes are measured in."""

    resized = "resized"
    original = "original"


@dataclass(frozen=True)
class Common:
    """The options of every import command."""

    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")]
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeatable. Default: all.")] = None
    pictures: Annotated[Path | None, typer.Option(help="Folder of the pictures; linked, not copied.")] = None
    name: Annotated[str, typer.Option(help="Name of the data set. Default: that of --out.")] = ""
    extractor: Annotated[str, typer.Option(help="What made the features; part of the data set's version.")] = "unknown"
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.")] = ""
    dtype: Annotated[Dtype, typer.Option(help="Number format of the stored features.")] = Dtype.float16
    overwrite: Overwrite = False
    sgb: Annotated[Path | None, typer.Option(help="Relations: Scene-Graph-Benchmark's custom_prediction.json.")] = None
    vg: Annotated[Path | None, typer.Option(help="Relations: Visual Genome's relationships.json.")] = None
    graph_images: Annotated[
        Path | None,
        typer.Option(help="--sgb: custom_data_info.json, by default the one beside it; --vg: image_data.json."),
    ] = None
    graph_frame: Annotated[
        Frame, typer.Option(help="--sgb: its boxes are those of the resized picture (600/1000) or of the original.")
    ] = Frame.resized
    graph_iou: Annotated[
        float, typer.Option(min=0.01, max=1, help="Least overlap (IoU) of a graph's box with a region.")
    ] = 0.5
    graph_top: Annotated[int, typer.Option(min=1, help="At most so many relations per image, the best.")] = 50
    graph_words: Annotated[int, typer.Option(min=1, help="--vg: the so many most frequent predicates are kept.")] = 50


def _add_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose last parameter is `common`, the fields of Common as options of its own."""
    hints = get_type_hints(Common, include_extras=True)
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "common"]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(Common)
    ]

    @functools.wraps(command)
    def wrapper(**values: object) -> None:
        common = Common(**{field.name: values.pop(field.name) for field in fields(Common)})  # type: ignore[arg-type]
        command(**values, common=common)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


CaptionFile = Annotated[
    Path, typer.Option(help="Karpathy's dataset_*.json, or a table of image, split, caption (.jsonl or .tsv).")
]
FirstOption = Annotated[
    int,
    typer.Option(
        "--captions-per-image", min=0, help="Only an image's first so many captions; 5 for protocol coco-5k. 0: all."
    ),
]
RestvalOption = Annotated[Restval, typer.Option(help="COCO's restval: into train, as papers do, or left out.")]


@app.command()
@_add_common_options
def scan(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with {split}_ims.npy, {split}_caps.txt.")],
    captions_per_image: Annotated[
        str, typer.Option(help="ids: row numbers in {split}_ids.txt; a number: so many per image; auto: find out.")
    ] = "auto",
    *,
    common: Common,
) -> None:
    """SCAN / VSE-infinity *_precomp folders."""
    from hire_model.data.importers.scan import open_scan

    _import(open_scan(source, splits=common.split or (), captions_per_image=captions_per_image), common)


@app.command("butd-tsv")
@_add_common_options
def butd_tsv(
    source: Annotated[list[Path], typer.Argument(metavar="FILE...", help="One or more TSV files.")],
    captions: CaptionFile,
    restval: RestvalOption = Restval.train,
    first: FirstOption = 0,
    *,
    common: Common,
) -> None:
    """Bottom-up-attention TSV; captions and splits come from a file of their own."""
    from hire_model.data.importers.base import Notes
    from hire_model.data.importers.butd_tsv import open_butd_tsv
    from hire_model.data.importers.captions import read_captions

    notes = Notes()
    known = read_captions(captions, common.split or (), restval.value, notes, first)
    _import(open_butd_tsv(source, known, notes), common)


@app.command()
@_add_common_options
def npz(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with one npz file per image.")],
    captions: CaptionFile,
    restval: RestvalOption = Restval.train,
    first: FirstOption = 0,
    classes: Annotated[Path | None, typer.Option(help="Text file with the name of each class id, one a line.")] = None,
    *,
    common: Common,
) -> None:
    """One npz file per image; captions and splits come from a file of their own."""
    from hire_model.data.importers.base import Notes
    from hire_model.data.importers.captions import read_captions
    from hire_model.data.importers.files import read_vocabulary
    from hire_model.data.importers.npz import open_npz

    notes = Notes()
    names = read_vocabulary(classes, notes) if classes else ()
    known = read_captions(captions, common.split or (), restval.value, notes, first)
    _import(open_npz(source, known, notes, names), common)


class CaptionsFormat(StrEnum):
    """Layout of a captions file of pictures."""

    auto = "auto"
    csv = "csv"
    tsv = "tsv"
    jsonl = "jsonl"
    coco = "coco"
    karpathy = "karpathy"
    token = "token"
    hf = "hf"


@app.command()
def images(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of pictures; folders right below count too.")
    ],
    captions: Annotated[
        Path, typer.Option(help="CSV, TSV, JSON lines, COCO, Karpathy, Flickr token file, or imagefolder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    captions_format: Annotated[
        CaptionsFormat, typer.Option(help="Layout of --captions. Default: recognised from the content.")
    ] = CaptionsFormat.auto,
    detector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ONNX file of a YOLOX detector. Default: regions of a grid.")
    ] = None,
    shares: Annotated[
        str, typer.Option(metavar="TRAIN,DEV,TEST", help="Sizes of the splits, if --captions has none.")
    ] = "80,10,10",
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other splits.")] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes. Default: one per CPU core, at most 8.", show_default=False)
    ] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if a picture is missing or cannot be used.")] = False,
    name: Annotated[str, typer.Option(help="Name of the data set. Default: that of --out.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """A folder of pictures with a captions file. Run it again to continue, or to add new pictures."""
    import os

    from hire_model.data.images.importing import ImageImport, import_images
    from hire_model.data.images.splits import Shares
    from hire_model.data.importers.base import Target

    job = ImageImport(
        folder,
        captions,
        captions_format.value,
        detector,
        Shares.parse(shares),
        seed,
        workers or min(os.cpu_count() or 1, 8),
        strict,
    )
    _, notes = import_images(job, Target(out, name, licence=licence, overwrite=overwrite))
    for sentence in notes.sentences():
        typer.echo(f"  {sentence}")
    print_written(out)


def _import(source: Source, common: Common) -> None:
    from hire_model.data.importers.base import Target, write_dataset

    target = Target(
        common.out, common.name, common.extractor, common.dtype.value, common.licence, common.pictures, common.overwrite
    )
    source = _add_relations(source, common)
    write_dataset(source, target)
    for sentence in source.notes.sentences():
        typer.echo(f"  {sentence}")
    print_written(common.out)


def _add_relations(source: Source, common: Common) -> Source:
    """The source with the graph that --sgb or --vg names, if one does."""
    if not (common.sgb or common.vg):
        return source
    if common.sgb and common.vg:
        raise DataError("--sgb and --vg both name a graph. Expected one of them.")
    from hire_model.data.importers.graph import GraphOptions, add_graphs, read_sgb, read_vg

    options = GraphOptions(
        common.graph_iou, common.graph_top, common.graph_frame.value, common.graph_words, common.graph_images
    )
    graphs = read_sgb(common.sgb, options) if common.sgb else read_vg(common.vg or Path(), options)
    return add_graphs(source, graphs)
