"""Render the drift report: one HTML file that works offline, like the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from hire_model.evaluation.pages import render_template
from hire_model.evaluation.plots import plot_two_samples, render_svg
from hire_model.monitoring.drift import STATISTICS, Drift


def render(drift: Drift, facts: Mapping[str, str]) -> str:
    """Render the report as HTML. facts: the sources of the compared data, by name."""
    from markupsafe import Markup

    curves = {}
    for statistic in drift.statistics:
        pair, name = statistic.samples, STATISTICS[statistic.samples.name]
        if len(pair.reference) and len(pair.journal):
            label = f"Shares of the values in the training data and in the journal: {name}."
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
