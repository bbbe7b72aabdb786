"""The monitor's report: one HTML file that opens offline, as the report of an evaluation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hire_model.evaluation import plots
from hire_model.evaluation.pages import page


def render(
    verdict: str,
    findings: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    facts: Mapping[str, str],
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> str:
    """The report as HTML.

    findings: what is wrong, a sentence each; rows: the table, with a column per key; facts: where it comes from;
    samples: by name what was learned and what was asked, as for `plots.plot_two_samples`.
    """
    from markupsafe import Markup

    words = "Shares of the values that were learned and that were asked: {}."
    drawn = {
        name: plots.render_svg(plots.plot_two_samples(*both), words.format(name))
        for name, both in samples.items()
        if min(map(len, both))
    }
    return page(
        "drift.html.j2",
        verdict=verdict,
        findings=findings,
        rows=rows,
        facts=facts,
        curves={name: Markup(svg) for name, svg in drawn.items()},
    )
