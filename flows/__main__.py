"""Run `python -m flows NAME`, which does the same as `hire flow NAME`."""

from __future__ import annotations

import typer

from flows.cli import flow

typer.run(flow)
