"""What a run shows in Prefect: tables, Markdown, pictures and links; and its logs, as each flow imports this."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows import logs
from hire_model.evaluation.result import KS, Result

logs.install()


def table(key: str, rows: Sequence[Mapping[str, str]], description: str) -> None:
    """A table with a column per key of its rows."""
    create_table_artifact([dict(row) for row in rows], key=key, description=description)


def markdown(key: str, text: str) -> None:
    """A page of Markdown."""
    create_markdown_artifact(text, key=key)


def link(key: str, path: Path, description: str) -> None:
    """A link to a file on the machine that ran the flow."""
    create_link_artifact(path.resolve().as_uri(), link_text=str(path), key=key, description=description)


def progress(key: str, description: str) -> Callable[[float], None]:
    """A bar at nought; what is returned moves it to a share in 0-1."""
    bar: Any = create_progress_artifact(0.0, key=key, description=description)

    def move(share: float) -> None:
        update_progress_artifact(bar, 100 * share)

    return move


def recall(results: Mapping[str, Result]) -> None:
    """Recall of one model or several by name: a table with the 95 % intervals, and the curve over K."""
    first = next(iter(results.values()))
    where = f"{first.title}, {first.images:,} images, {first.captions:,} captions"
    table("recall", [_row(name, result) for name, result in results.items()], where)
    create_image_artifact(_picture(results), key="recall-curve", description=f"Recall@K, {where}")


def _row(name: str, result: Result) -> dict[str, str]:
    row = {"model": name, "rSum": _figure(result.rsum, result.rsum_interval)}
    for label, direction in (("i2t", result.i2t), ("t2i", result.t2i)):
        for k in KS:
            row[f"{label} R@{k}"] = _figure(getattr(direction, f"r{k}"), direction.intervals.get(f"r{k}"))
    return row


def _figure(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.1f}" + (f" ({interval[0]:.1f}–{interval[1]:.1f})" if interval else "")


def _picture(results: Mapping[str, Result]) -> str:
    """The curve as an address that holds the picture itself, so that no file server is needed."""
    from hire_model.evaluation.plots import plot_recall_points

    buffer = io.BytesIO()
    plot_recall_points(results).savefig(buffer, format="png", dpi=110, facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
