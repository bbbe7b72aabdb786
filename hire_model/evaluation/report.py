"""Render the report of an evaluation: one HTML file with all its content, which works offline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from hire_model.evaluation import plots, slices
from hire_model.evaluation.examples import Example, Explain, choose_examples
from hire_model.evaluation.pages import render_template
from hire_model.evaluation.protocols import Ensemble, find_protocol, rank_under_protocol
from hire_model.evaluation.ranks import compute_chance_recall
from hire_model.evaluation.result import KS, Result

if TYPE_CHECKING:
    from hire_model.data.store import Split

_FACTS_FIRST = ("model", "data", "data digest", "split", "protocol", "command", "machine", "date")


def render(
    result: Result,
    similarity: np.ndarray | Ensemble,
    split: Split,
    *,
    history: Sequence[Mapping[str, Any]] = (),
    explain: Explain | None = None,
    examples: int = 8,
) -> str:
    """Render the report as HTML.

    Args:
        result: Result of `evaluate_matrix` on the same matrix; its `facts` are shown at the top.
        similarity: [N, M] over the split's images and captions.
        split: The split that was evaluated.
        history: One row per epoch as in `plots.plot_training`; empty for no training curve.
        explain: Explains the score of (image index, caption index); None shows only captions and boxes.
        examples: Total number of example queries: best and worst of both directions.

    Raises:
        HireError: As `rank_under_protocol`.
    """
    from markupsafe import Markup

    matrix = similarity.matrix if isinstance(similarity, Ensemble) else similarity
    ranks = rank_under_protocol(matrix, split.owner, find_protocol(result.protocol))
    shown = list(choose_examples(matrix, split, ranks, explain, examples))
    curves = {"Recall": plots.render_svg(plots.plot_recall(ranks, split.owner), _describe_curve(result))}
    if history:
        label = "Training loss and dev rSum per epoch."
        curves["Training"] = plots.render_svg(plots.plot_training(history), label)
    script = files("hire_model.evaluation").joinpath("templates/report.js").read_text("utf-8")
    return render_template(
        "hire_model.evaluation",
        "report.html.j2",
        result=result,
        facts=_order_facts(result.facts),
        ks=KS,
        chance=_compute_chance(result, split.owner),
        curves={name: Markup(svg) for name, svg in curves.items()},
        slices=slices.compute_slices(split, ranks),
        groups=_group_examples(shown),
        scenes={panel.scene.image: panel.scene for example in shown for panel in example.panels},
        explained=explain is not None,
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _order_facts(facts: Mapping[str, str]) -> dict[str, str]:
    first = [key for key in _FACTS_FIRST if key in facts]
    return {key: facts[key] for key in [*first, *(key for key in facts if key not in first)]}


def _compute_chance(result: Result, owner: np.ndarray) -> dict[str, list[float]]:
    """Compute R@1, R@5 and R@10 of a random order in each direction. All folds have the same size."""
    images = result.images // result.folds
    i2t, t2i = compute_chance_recall(owner[owner < images], images, np.array(KS))
    return {"i2t": i2t.tolist(), "t2i": t2i.tolist()}


def _group_examples(shown: Sequence[Example]) -> list[tuple[str, list[Example]]]:
    titles = {
        ("t2i", "worst"): "Text to image: worst results",
        ("i2t", "worst"): "Image to text: worst results",
        ("t2i", "best"): "Text to image: best results",
        ("i2t", "best"): "Image to text: best results",
    }
    groups = [(title, [e for e in shown if (e.direction, e.verdict) == key]) for key, title in titles.items()]
    return [(title, group) for title, group in groups if group]


def _describe_curve(result: Result) -> str:
    return (
        f"Recall at K for K from 1 to 50. Image to text: {result.i2t.r1:.1f} % at 1, {result.i2t.r10:.1f} % at 10. "
        f"Text to image: {result.t2i.r1:.1f} % at 1, {result.t2i.r10:.1f} % at 10."
    )
