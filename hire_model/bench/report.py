"""Print the figures of a suite as a table, and draw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hire_model.bench.suite import Figures

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = (
    ("scoring.ratio_to_loop", "{:.2f} ×", "a loop over captions in torch"),
    ("scoring.share_of_peak", "{:.0%}", "this machine's matrix products"),
    ("rerank.ms_per_1000", "{:.1f} ms", ""),
    ("training.ratio_to_plain", "{:.2f} ×", "padded pairs, scored at once"),
    ("search.p99_ms", "{:.1f} ms", ""),
    ("serving.share_of_ceiling", "{:.0%}", "a handler that does nothing"),
)


def get_figure(figures: Figures, name: str) -> float | None:
    """Return the figure called `group.name`; None if it was not measured."""
    group, _, key = name.partition(".")
    value = figures[group][key]
    return None if value is None else float(value)


def make_table(figures: Figures) -> Table:
    """Return the table that `hire bench` prints."""
    from rich.box import SIMPLE
    from rich.table import Table

    machine = figures["machine"]
    title = f"{figures['recipe']}, {figures['data']}; one thread, {machine['processor']}, torch {machine['torch']}"
    table = Table(title=title, box=SIMPLE)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("compared with")
    for name, form, base in _ROWS:
        value = get_figure(figures, name)
        reason = figures[name.partition(".")[0]].get("reason", base)
        table.add_row(name, "-" if value is None else form.format(value), base if value is not None else reason)
    return table


def save_plots(figures: Figures, path: Path) -> None:
    """Draw pairs per second, seconds per step and the search's latencies into one picture."""
    from matplotlib.figure import Figure

    from hire_model.evaluation.plots import BLUE, ORANGE, apply_style, save_plot

    scoring, training, search = figures["scoring"], figures["training"], figures["search"]
    rate = scoring["pairs_per_second"]
    panels = (
        ("pairs/s", {"loop": rate / scoring["ratio_to_loop"], "hire": rate}),
        ("seconds per step", {"plain": training["plain_seconds_per_step"], "hire": training["seconds_per_step"]}),
        ("search, ms", {name: search[f"{name}_ms"] for name in ("p50", "p95", "p99")}),
    )
    with apply_style():
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        for axes, (label, bars) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.bar(list(bars), list(bars.values()), color=[ORANGE] * (len(bars) - 1) + [BLUE], width=0.6)
            axes.set_title(label, fontsize="medium")
    save_plot(figure, path)
