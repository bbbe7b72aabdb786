"""Means and spreads over seeds, and tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spread(BaseModel):
    """The mean, the lowest and the highest value over the seeds."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of one or more values."""
        numbers = list(values)
        return cls(mean=sum(numbers) / len(numbers), low=min(numbers), high=max(numbers))

    def text(self, digits: int = 1, sign: bool = False) -> str:
        """Format as '301.2 (298.0 to 304.1)', or as one value if all are equal. sign: write +3.1 for 3.1."""
        form = f"{'+' if sign else ''}.{digits}f"
        mean, low, high = (format(value, form) for value in (self.mean, self.low, self.high))
        return mean if low == high else f"{mean} ({low} to {high})"


class Origin(BaseModel):
    """The origin of the figures, written at the top of each file."""

    model_config = ConfigDict(frozen=True)

    command: str
    recipe: str
    overrides: list[str]
    data: str
    data_digest: str
    split: str
    protocol: str
    seeds: list[int]
    code: str
    machines: list[str]

    def markdown(self) -> str:
        """Format as a list, one fact per line."""
        settings = " ".join(self.overrides) or "none"
        return "\n".join(
            [
                f"- command: `{self.command}`",
                f"- recipe `{self.recipe}`, overrides: {settings}",
                f"- data: {self.data}, digest `{self.data_digest[:16]}`; split {self.split}, protocol {self.protocol}",
                f"- seeds: {', '.join(map(str, self.seeds))}; each cell is their mean (lowest to highest)",
                f"- machine: {'; '.join(self.machines)}; code {self.code}",
            ]
        )


@dataclass(frozen=True)
class Table:
    """A table of text; the first column has the names of the rows."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Format as Markdown, with all columns but the first aligned right."""
        rule = ["---", *["---:"] * (len(self.headings) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.headings, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def rich(self) -> Any:
        """Format for the terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable

        table = RichTable(
            title=self.title, caption=self.note or None, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left", no_wrap=not index)
        for row in self.rows:
            table.add_row(*row)
        return table
