"""Errors that are the user's to mend, told apart from bugs."""


class QcamError(Exception):
    """Bad input or an unusable environment: shown as one line, exit code 2, no traceback.

    The message says what was wrong, where, and what to do next.
    """


class GateError(Exception):
    """A gate the user asked for does not hold: shown as one line, exit code 1."""
