"""Draw plots for the reports and the docs with matplotlib, as inline SVG or as files."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.ranks import NO_QUERY, compute_chance_recall
from hire_model.evaluation.result import KS, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#1f2328", "#c9d1d9"
BLUE, ORANGE, GREEN, PINK = "#2a7fc4", "#d5601a", "#12957a", "#b8609a"  # distinguishable with common colour blindness
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hire",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "text.parse_math": False,
}


def plot_recall(ranks: Ranks, owner: np.ndarray, max_k: int = 50) -> Figure:
    """Plot R@K for K from 1 to `max_k` (or the gallery's size) in both directions; dotted: a random order."""
    gallery = int(np.bincount(ranks.fold).max())
    ks = np.arange(1, min(max_k, gallery) + 1)
    in_fold = ranks.fold[owner] == 0
    by_chance = compute_chance_recall(owner[in_fold], gallery, ks)
    with apply_style():
        figure, axes = make_canvas(6.4, 3.7)
        directions = (("image → text", ranks.i2t, BLUE, "-"), ("text → image", ranks.t2i, ORANGE, "--"))
        for (label, all_ranks, colour, dash), chance in zip(directions, by_chance, strict=True):
            query_ranks = np.sort(all_ranks[all_ranks != NO_QUERY])
            recall = 100 * np.searchsorted(query_ranks, ks, side="right") / len(query_ranks)
            axes.plot(ks, recall, dash, color=colour, label=label)
            axes.plot(ks, chance, ":", color=colour, linewidth=1.3, label=f"chance, {label}")
        axes.set(xlabel="K", ylabel="recall@K in %", ylim=(0, 102), xlim=(ks[0] - 0.3, ks[-1] + 0.3))
        axes.set_xticks([k for k in (1, 5, 10, 20, 30, 40, 50) if k <= ks[-1]])
        add_legend_above(axes, 2)
    return figure


def plot_recall_points(results: Mapping[str, Result]) -> Figure:
    """Plot R@1, R@5 and R@10 of models by name, a panel per direction; bars are the 95 % intervals, if any."""
    from matplotlib.figure import Figure

    with apply_style():
        figure = Figure(figsize=(7.2, 3.7), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, title, side in zip(panels, ("image → text", "text → image"), ("i2t", "t2i"), strict=True):
            for number, ((name, result), colour) in enumerate(zip(results.items(), (BLUE, ORANGE), strict=False)):
                direction = getattr(result, side)
                values = np.array([getattr(direction, f"r{k}") for k in KS])
                ends = np.array([direction.intervals.get(f"r{k}", (v, v)) for k, v in zip(KS, values, strict=True)])
                spread = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
                axes.errorbar(
                    np.arange(len(KS)) + 0.06 * number, values, spread, marker="o", color=colour, capsize=3, label=name
                )
            axes.set(title=title, xlabel="K", ylim=(0, 102))
            axes.set_xticks(range(len(KS)), [str(k) for k in KS])
        panels[0].set_ylabel("recall@K in %")
        panels[1].legend(loc="lower right")
    return figure


def plot_training(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot mean training loss and dev rSum per epoch.

    history: a row per complete epoch with 'epoch' counted from 0, 'loss', and 'dev' with 'rsum'.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] + 1 for row in history]
    losses, rsums = [row["loss"] for row in history], [row["dev"]["rsum"] for row in history]
    with apply_style():
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, title, values, colour in (
            (upper, "Training loss", losses, BLUE),
            (lower, "rSum on the dev split (0–600)", rsums, ORANGE),
        ):
            axes.plot(epochs, values, "o-", color=colour, markersize=4)
            axes.set_title(title)
            axes.grid(axis="x", visible=False)
        best = int(np.argmax(rsums))
        _mark_best(lower, epochs[best], rsums[best])
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def plot_robustness(lines: Mapping[str, Mapping[float, Sequence[float]]], ylabel: str = "rSum") -> Figure:
    """Plot recall against the share of edges that were lost.

    lines: maps a name such as 'match+stage, relations dropped' to {share in 0-1: values of the seeds}. Names with the
    same text before the comma have the same colour, names with the same text after it the same dash. The band is the
    range over the seeds.
    """
    heads = list(dict.fromkeys(name.split(",")[0] for name in lines))
    tails = list(dict.fromkeys(name.split(",", 1)[-1] for name in lines))
    colours, dashes, marks = (BLUE, ORANGE, GREEN, PINK), ("-", "--", ":", "-."), "osD^"
    with apply_style():
        figure, axes = make_canvas(6.4, 3.9)
        for name, points in lines.items():
            head, tail = heads.index(name.split(",")[0]), tails.index(name.split(",", 1)[-1])
            shares = sorted(points)
            x, values = [100 * share for share in shares], [np.asarray(points[share], float) for share in shares]
            colour, dash, mark = colours[head % 4], dashes[tail % 4], marks[head % 4]
            middle = [value.mean() for value in values]
            axes.plot(x, middle, dash, marker=mark, markersize=5, color=colour, label=name)
            axes.fill_between(x, [v.min() for v in values], [v.max() for v in values], color=colour, alpha=0.15, lw=0)
        axes.set(xlabel="share of edges lost, in %", ylabel=ylabel)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.margins(y=0.12)
        add_legend_above(axes, 2 if len(lines) > 1 else 1)
    return figure


def plot_two_samples(reference: np.ndarray, journal: np.ndarray) -> Figure:
    """Plot shares in % of the values of two samples: a histogram of numbers, or bars of the most frequent names."""
    with apply_style():
        figure, axes = make_canvas(4.8, 2.8)
        samples = (("training data", reference, BLUE, "-"), ("journal", journal, ORANGE, "--"))
        if reference.dtype.kind in "fi":
            both = np.concatenate([reference, journal])
            step = np.ceil(max(1.0, np.ptp(both) / 24))
            whole = np.arange(both.min() - 0.5, both.max() + step + 0.5, step)  # each bin contains a whole number
            edges = whole if (both == both.round()).all() else np.histogram_bin_edges(both, 24)
            for label, sample, colour, dash in samples:
                share = 100 * np.histogram(sample, edges)[0] / len(sample)
                axes.stairs(share, edges, color=colour, linestyle=dash, linewidth=2, label=label)
        else:
            names, counts = np.unique(np.concatenate([reference, journal]), return_counts=True)
            names = names[np.argsort(-counts, kind="stable")][:12]
            for shift, (label, sample, colour, _) in zip((-0.2, 0.2), samples, strict=True):
                share = np.array([100 * (sample == name).mean() for name in names])
                axes.bar(np.arange(len(names)) + shift, share, 0.4, color=colour, label=label)
            axes.set_xticks(range(len(names)), names.tolist(), rotation=40, ha="right")
        axes.set_ylabel("share in %")
        add_legend_above(axes, 2)
    return figure


def render_svg(figure: Figure, label: str) -> str:
    """Render the figure as an <svg> element for HTML that uses the page's width and colours and has no URLs.

    label: description for screen readers.
    """
    with apply_style():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"\bxlink:href=", "href=", body).replace(INK, "currentColor").replace(GRID, "var(--line)")
    return f'<svg role="img" aria-label="{html.escape(label)}" {view[0] if view else ""}>{body}'


def save_plot(figure: Figure, path: str | Path) -> None:
    """Write the figure to a .png or .svg file with white background; the same figure gives the same bytes."""
    with apply_style():
        metadata = {"Date": None} if str(path).endswith(".svg") else None
        figure.savefig(path, dpi=160, facecolor="white", metadata=metadata)


def apply_style() -> Any:
    """Return a context in which matplotlib uses the style of Hire's plots."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def make_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure with one panel; width and height in inches."""
    from matplotlib.figure import Figure  # not pyplot, which has global state and is not thread-safe

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def add_legend_above(axes: Axes, columns: int) -> None:
    """Add a legend above the panel, in `columns` columns."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, handlelength=2.6)


def _mark_best(axes: Axes, epoch: float, rsum: float) -> None:
    axes.plot([epoch], [rsum], "o", color=ORANGE, markersize=8, markerfacecolor="none")
    axes.margins(y=0.25)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.annotate(f"best {rsum:.1f}", (epoch, rsum), (0, 8), textcoords="offset points", ha="center")
