"""`python -m flows NAME` is `hire flow NAME`."""

from __future__ import annotations

import typer

from flows.cli import flow

typer.run(flow)
