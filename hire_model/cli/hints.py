"""Print the commands that usually follow. tests/test_next_steps.py runs every command that is printed this way."""

from __future__ import annotations

import shlex


def print_next(*commands: list[str]) -> None:
    """Print commands, each as a list of words, below the line "Next:", quoted for a shell."""
    print("\nNext:")
    for command in commands:
        print(f"  {shlex.join(command)}")
