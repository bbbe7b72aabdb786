"""The drift report: one HTML file that opens offline, like the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from hire_model.evaluation.plots import plot_two_samples, render_svg
from hire_model.evaluation.report import render_template
from hire_model.monitoring.drift import STATISTICS, Drift


def render(drift: Drift, facts: Mapping[str, str]) -> str:
    """Render the report as HTML. facts: where the compared data come from."""
    from markupsafe import Markup

    curves = {}
    for one in drift.statistics:
        pair, name = one.samples, STATISTICS[one.samples.name]
        if len(pair.reference) and len(pair.journal):
            label = f"Shares of the values that were learned and that were asked: {name}."
            curves[name] = Markup(render_svg(plot_two_samples(pair.reference, pair.journal), label))
    return render_template(
        "hire_model.monitoring",
        "drift.html.j2",
        verdict=drift.verdict,
        findings=drift.findings(),
        rows=drift.rows(),
        facts=facts,
        curves=curves,
    )
