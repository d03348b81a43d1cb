"""The ways in which Handful fails, and what a shell sees of each.

    Failure
    ├── Unreadable   one bad image: a row in the output, never the end of a run
    ├── Broken       the system failed (storage, bundle): exit 1, a retry may help
    ├── Misuse       the command was wrong: exit 2
    └── BadData      the data is bad: exit 3, a retry will not help

A command turns these four into one line on stderr; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class Failure(Exception):
    """A failure that is told to the user in one line. `exit_code` is what the process returns."""

    exit_code = 1


class Unreadable(Failure):
    """One image that cannot be used.

    Args:
        code: one lower-case word that programs count by, such as `truncated` or `too_large`.
        message: a sentence that a person understands.
    """

    exit_code = 3

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Broken(Failure):
    """The store, a bundle or the machine let us down; nothing half-done is left behind."""


class Misuse(Failure):
    """The command line asks for something that is not allowed."""

    exit_code = 2


class BadData(Failure):
    """The images themselves make the work meaningless: too few classes, too many unreadable."""

    exit_code = 3
