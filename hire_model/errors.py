"""Errors that a user can fix. Each message names what is wrong, where, what was expected and what to do."""

RESUME_COMMAND = "the same command with --resume (for 'mlflow run': with -P resume=yes)"
"""How to continue a training; part of several messages."""


class HireError(Exception):
    """An error that the user can fix. The command line prints only the message and exits with status 2."""


class DataError(HireError):
    """An error in data. The message names the file, the row, the field and the expected value."""


class SettingsError(HireError):
    """An error in the settings: an unknown key, a value of the wrong type, or values that contradict each other."""


class TrainingStopped(HireError):  # noqa: N818  an interruption by the user, not an error
    """The training was interrupted. The message names the checkpoint and how to continue from it."""
