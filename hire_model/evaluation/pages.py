"""Render an HTML page from a template. All pages share the style of the report."""

from __future__ import annotations

from typing import Any


def render_template(package: str, template: str, **values: Any) -> str:
    """Render a template from the folder `templates` of `package` as HTML; it can include templates of this package.

    Values are escaped; a missing value is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("hire_model.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
