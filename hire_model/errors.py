"""The one exception that a user's mistake raises: its message says what, where, what was expected and what to do."""

RESUME_COMMAND = "the same command with --resume (of 'mlflow run': with -P resume=yes)"
"""How a training goes on, for messages that say so."""


class HireError(Exception):
    """A fault that the user can mend. The command line prints the message alone and exits with status 2."""


class DataError(HireError):
    """A fault in data: the message names the file, the row and the field, and what was expected there."""


class SettingsError(HireError):
    """A fault in the settings: an unknown key, a value of the wrong kind, or values that contradict each other."""


class TrainingStopped(HireError):  # noqa: N818  what happened, and no error where a user asked for it
    """Training ended early but in order: the message names the checkpoint and the line that goes on from it."""
