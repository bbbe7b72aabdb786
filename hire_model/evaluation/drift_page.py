"""The monitor's report: one HTML file that opens offline, as the report of an evaluation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hire_model.evaluation import figures


def render(
    verdict: str,
    findings: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    facts: Mapping[str, str],
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> str:
    """The report as HTML.

    findings: what is wrong, a sentence each; rows: the table, with a column per key; facts: where it comes from;
    samples: by name what was learned and what was asked, as for `figures.two_samples`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    words = "Shares of the values that were learned and that were asked: {}."
    drawn = {
        name: figures.inline_svg(figures.two_samples(*both), words.format(name))
        for name, both in samples.items()
        if min(map(len, both))
    }
    environment = Environment(
        loader=PackageLoader("hire_model.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("drift.html.j2").render(
        verdict=verdict,
        findings=findings,
        rows=rows,
        facts=facts,
        curves={name: Markup(svg) for name, svg in drawn.items()},
    )
