"""`hire data import`: one command per published layout. `Common` defines the options that all of them share."""

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
from hire_model.cli.options import Overwrite, Ray
from hire_model.errors import DataError

if TYPE_CHECKING:
    from hire_model.data.importers.base import Source

app = typer.Typer(help="Convert a published layout to a data set.", no_args_is_help=True)


class Dtype(StrEnum):
    """Number format of the stored features."""

    float16 = "float16"
    float32 = "float32"


class Restval(StrEnum):
    """What to do with the images of COCO's split restval."""

    train = "train"
    drop = "drop"


class Frame(StrEnum):
    """The picture whose pixels the boxes of Scene-Graph-Benchmark refer to."""

    resized = "resized"
    original = "original"


@dataclass(frozen=True)
class Common:
    """The options of every import command."""

    out: Annotated[Path, typer.Option(help="Folder of the new data set; must not exist.")]
    split: Annotated[list[str] | None, typer.Option(help="Import only this split; repeatable. Default: all.")] = None
    pictures: Annotated[Path | None, typer.Option(help="Folder of the pictures. It is linked, not copied.")] = None
    name: Annotated[str, typer.Option(help="Name of the data set. Default: name of the folder.")] = ""
    extractor: Annotated[str, typer.Option(help="Detector or encoder of the features; part of the version.")] = (
        "unknown"
    )
    licence: Annotated[str, typer.Option(help="Licence of the data, stored in the manifest.")] = ""
    dtype: Annotated[Dtype, typer.Option(help="Number format of the stored features.")] = Dtype.float16
    overwrite: Overwrite = False
    sgb: Annotated[
        Path | None, typer.Option(help="Import relations from this custom_prediction.json of Scene-Graph-Benchmark.")
    ] = None
    vg: Annotated[Path | None, typer.Option(help="Import relations from this relationships.json of Visual Genome.")] = (
        None
    )
    graph_images: Annotated[
        Path | None,
        typer.Option(help="With --sgb: custom_data_info.json, default: beside it. With --vg: image_data.json."),
    ] = None
    graph_frame: Annotated[
        Frame, typer.Option(help="With --sgb: boxes are in pixels of the resized (600/1000) or the original picture.")
    ] = Frame.resized
    graph_iou: Annotated[
        float, typer.Option(min=0.01, max=1, help="Minimum overlap (IoU) of a box of the graph with a region.")
    ] = 0.5
    graph_top: Annotated[int, typer.Option(min=1, help="Maximum number of relations per image; the best are kept.")] = (
        50
    )
    graph_words: Annotated[
        int, typer.Option(min=1, help="With --vg: number of predicates to keep, most frequent first.")
    ] = 50


def _add_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the last parameter of `command`, `common`, by one option per field of Common."""
    hints = get_type_hints(Common, include_extras=True)
    specific = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "common"]
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

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in specific] + shared
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


CaptionFile = Annotated[
    Path, typer.Option(help="Karpathy's dataset_*.json, or a table of image, split, caption (.jsonl or .tsv).")
]
FirstOption = Annotated[
    int,
    typer.Option(
        "--captions-per-image", min=0, help="Number of captions to keep per image; 5 for protocol coco-5k. 0: all."
    ),
]
RestvalOption = Annotated[
    Restval, typer.Option(help="Images of COCO's split restval: add to train, as papers do, or drop.")
]


@app.command()
@_add_common_options
def scan(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with {split}_ims.npy, {split}_caps.txt.")],
    captions_per_image: Annotated[
        str, typer.Option(help="auto, ids ({split}_ids.txt has the image row of each caption), or a number.")
    ] = "auto",
    *,
    common: Common,
) -> None:
    """Import a SCAN / VSE-infinity *_precomp folder."""
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
    """Import bottom-up-attention TSV files, with captions and splits from a captions file."""
    from hire_model.data.importers.base import Notes
    from hire_model.data.importers.butd_tsv import open_butd_tsv
    from hire_model.data.importers.captions import read_captions

    notes = Notes()
    captioned = read_captions(captions, common.split or (), restval.value, notes, first)
    _import(open_butd_tsv(source, captioned, notes), common)


@app.command()
@_add_common_options
def npz(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with one npz file per image.")],
    captions: CaptionFile,
    restval: RestvalOption = Restval.train,
    first: FirstOption = 0,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with the name of each class id, one per line.")
    ] = None,
    *,
    common: Common,
) -> None:
    """Import one npz file per image, with captions and splits from a captions file."""
    from hire_model.data.importers.base import Notes
    from hire_model.data.importers.captions import read_captions
    from hire_model.data.importers.files import read_vocabulary
    from hire_model.data.importers.npz import open_npz

    notes = Notes()
    names = read_vocabulary(classes, notes) if classes else ()
    captioned = read_captions(captions, common.split or (), restval.value, notes, first)
    _import(open_npz(source, captioned, notes, names), common)


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
        str,
        typer.Option(
            metavar="FILE|CHECKPOINT",
            help="ONNX file of a YOLOX detector, or a checkpoint of D-FINE, RT-DETRv2, OWLv2 or Grounding DINO: a "
            "folder or OWNER/NAME@COMMIT. Default: regions of a grid.",
        ),
    ] = "",
    classes: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAMES",
            help="What OWLv2 or Grounding DINO detect: a file with a name per line, or 'dog, red ball'.",
        ),
    ] = "",
    backbone: Annotated[
        str,
        typer.Option(
            metavar="CHECKPOINT",
            help="CLIP, SigLIP or DINOv2 checkpoint whose patches give the features. Default: EfficientNet-Lite0, or "
            "the states of the detector's queries.",
        ),
    ] = "",
    tower: Annotated[
        bool, typer.Option("--tower", help="Append the embedding of --backbone, for model.text.kind=clip or siglip.")
    ] = False,
    relations: Annotated[
        bool,
        typer.Option(
            "--relations", help="Relate the objects of --detector by geometry rules; see 'hire data relations'."
        ),
    ] = False,
    shares: Annotated[
        str, typer.Option(metavar="TRAIN,DEV,TEST", help="Sizes of the splits, if --captions has none.")
    ] = "80,10,10",
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other splits.")] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes. Default: one per CPU core, at most 8.", show_default=False)
    ] = 0,
    ray: Ray = "",
    strict: Annotated[bool, typer.Option("--strict", help="Fail if a picture is missing or cannot be used.")] = False,
    name: Annotated[str, typer.Option(help="Name of the data set. Default: that of --out.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """A folder of pictures with a captions file. Run it again to continue, or to add new pictures."""
    import os

    from hire_model.data.images.importing import ImageImport, import_images
    from hire_model.data.images.open_vocabulary import read_classes
    from hire_model.data.images.splits import Shares
    from hire_model.data.importers.base import Target
    from hire_model.workers import Workers

    job = ImageImport(
        folder,
        captions,
        captions_format.value,
        detector or None,
        Shares.parse(shares),
        seed,
        Workers(workers or min(os.cpu_count() or 1, 8), ray),
        strict,
        backbone,
        tower,
        read_classes(classes) if classes else (),
        relations,
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
    """Return the source with relations from --sgb or --vg, if one of them is set."""
    if not (common.sgb or common.vg):
        return source
    if common.sgb and common.vg:
        raise DataError("--sgb and --vg are both set. Expected only one of them.")
    from hire_model.data.importers.graph import GraphOptions, add_graphs, read_sgb, read_vg

    options = GraphOptions(
        common.graph_iou, common.graph_top, common.graph_frame.value, common.graph_words, common.graph_images
    )
    graphs = read_sgb(common.sgb, options) if common.sgb else read_vg(common.vg or Path(), options)
    return add_graphs(source, graphs)
