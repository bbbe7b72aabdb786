"""Records, tables and plots of `hire ablate edges`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from hire_model.ablation.stages import Variant
from hire_model.ablation.study import Study, TrialRecord
from hire_model.ablation.tables import Origin, Spread, Table
from hire_model.evaluation import plots
from hire_model.evaluation.bootstrap import draw_rsums
from hire_model.evaluation.result import Interval, Result
from hire_model.files import write_text
from hire_model.training.damage import Damage

RANKS = "ranks"  # folder of the ranks, a folder per model
NO_GRAPHS = "no-graphs"
_DRAWS, _SEED = 1000, 0


class Point(BaseModel):
    """The figures of a model on images with a share (0-1) of damage; share 0 is undamaged, for any damage.

    relations, pairs: the shares of relations and of pairs of boxes that were really changed.
    """

    damage: Damage
    share: float
    relations: float
    pairs: float
    result: Result

    @property
    def name(self) -> str:
        """Return a heading such as '50 % relations dropped'."""
        return _name(self.damage, self.share)

    @property
    def file_name(self) -> str:
        """Return the name of the file of the ranks."""
        return self.name.replace(" % ", "-").replace(" ", "-") + ".npz"


class EdgeRecord(TrialRecord):
    """The points of a model that were evaluated so far. The first one is undamaged."""

    dev_rsum: float
    parameters: int
    points: list[Point]

    def find(self, name: str) -> Point | None:
        """Return the point with this name, None if it was not evaluated."""
        return next((point for point in self.points if point.name == name), None)


class Cell(BaseModel):
    """The figures of a variant with one damage, over its seeds.

    Attributes:
        rsums: rSum of each seed, in the order of `seeds`.
        lost: rSum minus that of undamaged images, per seed.
        kept: share in % of what graphs bring over no-graphs that is left; None without that variant.
        relations: share of relations really changed, 0-1; pairs: the same for pairs of boxes.
        metrics: all metrics by name.
    """

    variant: str
    damage: Damage
    share: float
    name: str
    seeds: list[int]
    rsums: list[float]
    rsum: Spread
    lost: Spread
    kept: float | None
    relations: Spread
    pairs: Spread
    metrics: dict[str, Spread]


class Contrast(BaseModel):
    """A difference in differences: how much less `variant` loses by the damage than `reference`, in points of rSum.

    The mean over the seeds that both have; interval: 95 %, bootstrap over images, which are the same for all models.
    """

    variant: str
    reference: str
    name: str
    seeds: list[int]
    difference: float
    interval: Interval


class EdgeTable(BaseModel):
    """The table, as stored in edges.json."""

    origin: Origin
    graphs: str
    parameters: dict[str, int]
    cells: list[Cell]
    contrasts: list[Contrast]


def build_table(
    study: Study,
    variants: Sequence[Variant],
    records: Sequence[EdgeRecord],
    wanted: Sequence[tuple[Damage, float]],
    owner: np.ndarray,
) -> EdgeTable:
    """Build the table of the records that are done. owner: [M] image of each caption."""
    by_variant = {v.name: [record for record in records if record.variant == v.name] for v in variants}
    names = [_name(damage, share) for damage, share in wanted]
    plain = by_variant.get(NO_GRAPHS, [])
    cells = [
        cell
        for name in names
        for variant in variants
        if (cell := _build_cell(variant.name, name, by_variant[variant.name], plain))
    ]
    contrasts = [
        contrast
        for name in names[1:]
        for variant in variants
        if (contrast := _build_contrast(study.out, variant, name, by_variant, owner))
    ]
    settings = study.plan([(variants[-1].name, variants[-1].overrides)])[0].settings
    return EdgeTable(
        origin=study.describe_origin(settings, [point.result for record in records for point in record.points]),
        graphs=settings.model.graphs,
        parameters={name: found[0].parameters for name, found in by_variant.items() if found},
        cells=cells,
        contrasts=contrasts,
    )


def _name(damage: Damage, share: float) -> str:
    return f"{100 * share:.0f} % {damage}" if share else "undamaged"


def _build_cell(variant: str, name: str, records: Sequence[EdgeRecord], plain: Sequence[EdgeRecord]) -> Cell | None:
    found = [(record, point) for record in records if (point := record.find(name))]
    if not found:
        return None
    points = [point for _, point in found]
    metrics = [point.result.metrics() for point in points]
    clean = [record.points[0].result.rsum for record, _ in found]
    rsums = [point.result.rsum for point in points]
    without = np.mean([record.points[0].result.rsum for record in plain]) if plain else None
    brought = None if without is None else float(np.mean(clean) - without)
    return Cell(
        variant=variant,
        damage=points[0].damage,
        share=points[0].share,
        name=name,
        seeds=[record.seed for record, _ in found],
        rsums=rsums,
        rsum=Spread.of(rsums),
        lost=Spread.of(a - b for a, b in zip(rsums, clean, strict=True)),
        kept=100 * float(np.mean(rsums) - without) / brought if without is not None and brought else None,
        relations=Spread.of(point.relations for point in points),
        pairs=Spread.of(point.pairs for point in points),
        metrics={key: Spread.of(values[key] for values in metrics) for key in metrics[0]},
    )


def _build_contrast(
    out: Path, variant: Variant, name: str, by_variant: dict[str, list[EdgeRecord]], owner: np.ndarray
) -> Contrast | None:
    first = {record.seed: record for record in by_variant[variant.name] if record.find(name)}
    second = {record.seed: record for record in by_variant.get(variant.reference, []) if record.find(name)}
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences, draws = [], []
    for seed in seeds:
        lost = []
        for record in (first[seed], second[seed]):
            damaged = record.find(name)
            assert damaged is not None
            clean = record.points[0]
            lost.append(damaged.result.rsum - clean.result.rsum)
            draws.append(_draw(out, record, damaged, owner) - _draw(out, record, clean, owner))
        differences.append(lost[0] - lost[1])
    low, high = np.percentile(np.mean(draws[::2], axis=0) - np.mean(draws[1::2], axis=0), [2.5, 97.5])
    return Contrast(
        variant=variant.name,
        reference=variant.reference,
        name=name,
        seeds=seeds,
        difference=float(np.mean(differences)),
        interval=(float(low), float(high)),
    )


def _draw(out: Path, record: EdgeRecord, point: Point, owner: np.ndarray) -> np.ndarray:
    """Return rSum of `_DRAWS` draws of images."""
    with np.load(out / RANKS / record.key / point.file_name) as ranks:
        return draw_rsums(ranks["i2t"], ranks["t2i"], owner, ranks["fold"], _DRAWS, _SEED)


def make_tables(table: EdgeTable) -> list[Table]:
    """Make the tables to print and write: a row per variant, a column per damage."""
    cells = {(cell.variant, cell.name): cell for cell in table.cells}
    names = list(dict.fromkeys(cell.name for cell in table.cells))
    rows = [variant for variant in table.parameters if (variant, names[0]) in cells]

    def fill(title: str, columns: Sequence[str], form: Callable[[Cell], str], note: str = "") -> Table:
        body = [[v, *(form(cells[v, c]) if (v, c) in cells else "" for c in columns)] for v in rows]
        return Table(title, ["variant", *columns], body, note)

    note = (
        f"model.graphs={table.graphs}. The same images are damaged alike for all variants; +damage also trained on "
        "damaged edges. Weights: " + ", ".join(f"{name} {count:,}" for name, count in table.parameters.items()) + "."
    )
    tables = [
        fill("rSum by damage", names, lambda cell: cell.rsum.text(), note),
        fill("Change of rSum, per seed", names[1:], lambda cell: cell.lost.text(sign=True)),
    ]
    if NO_GRAPHS in rows:
        kept = "Share in % of the gain over no-graphs that is left"
        tables.append(fill(kept, names[1:], lambda cell: "" if cell.kept is None else f"{cell.kept:.0f}"))
    tables.append(_make_contrast_table(table, names[1:]))
    changed = [
        [name, *(f"{100 * x.mean:.0f}" for x in (cells[rows[0], name].relations, cells[rows[0], name].pairs))]
        for name in names[1:]
    ]
    tables.append(Table("Edges really changed, in %", ["damage", "relations", "pairs of boxes"], changed))
    return tables


def _make_contrast_table(table: EdgeTable, names: Sequence[str]) -> Table:
    found = {(c.variant, c.reference, c.name): c for c in table.contrasts}
    pairs = list(dict.fromkeys((c.variant, c.reference) for c in table.contrasts))
    rows = []
    for variant, reference in pairs:
        row = [f"{variant}, not {reference}"]
        for name in names:
            contrast = found.get((variant, reference, name))
            row.append(_format_contrast(contrast) if contrast else "")
        rows.append(row)
    note = "Positive: the first variant loses less. 95 % interval of a paired bootstrap over images, mean over seeds."
    return Table("Difference in differences of rSum", ["variants", *names], rows, note)


def _format_contrast(contrast: Contrast) -> str:
    low, high = contrast.interval
    return f"{contrast.difference:+.1f} ({low:+.1f} to {high:+.1f})"


def write_files(table: EdgeTable, out: Path) -> None:
    """Write edges.json, edges.md and the two plots."""
    write_text(table.model_dump_json(indent=1) + "\n", out / "edges.json")
    images = "![rSum by the share of edges lost](edges.svg)\n\n![Its change from 0 %](edges-change.svg)"
    parts = [table.origin.markdown(), images, *(part.markdown() for part in make_tables(table))]
    write_text("\n\n".join(parts) + "\n", out / "edges.md")
    rsums: dict[str, dict[float, list[float]]] = {}
    changes: dict[str, dict[float, list[float]]] = {}
    plotted = next((cell.damage for cell in table.cells if cell.share), table.cells[0].damage)
    for cell in table.cells:
        if cell.damage == plotted:
            rsums.setdefault(cell.variant, {})[cell.share] = cell.rsums
            at_zero = rsums[cell.variant][0.0]
            changes.setdefault(cell.variant, {})[cell.share] = [a - b for a, b in zip(cell.rsums, at_zero, strict=True)]
    for file, lines, label in (("edges", rsums, "rSum"), ("edges-change", changes, "change of rSum from 0 %")):
        figure = plots.plot_robustness(lines, f"{label}, {plotted}")
        for ending in ("svg", "png"):
            plots.save_plot(figure, out / f"{file}.{ending}")
