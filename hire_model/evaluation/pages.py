"""A template made into a page: the report of an evaluation, and the monitor's."""

from __future__ import annotations

from typing import Any


def page(template: str, **values: Any) -> str:
    """`template` of this package's folder `templates` as HTML: values are escaped, and a missing one is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hire_model.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
