"""What `hire registry show` prints."""

from io import StringIO

from rich.console import Console

from hire_model.cli.registry import _table
from hire_model.tracking.versions import Version


def test_a_narrow_terminal_cuts_no_alias_off() -> None:
    tags = {"gate.decision": "passed", "gate.split": "test, 200 images", "gate.data.digest": "681267ab61f38513"}
    version = Version(
        "hire", number="12", aliases=("challenger", "champion", "previous"), run_id="ca810b90aabb", tags=tags
    )
    out = StringIO()
    Console(file=out, width=72).print(_table("hire", [version]))
    words = out.getvalue().split()
    assert {"challenger", "champion", "previous", "12", "681267ab", "ca810b90"} <= set(words)
