"""The two kinds of error a command reports as one message instead of a traceback."""


class InputError(ValueError):
    """The user's input or configuration is wrong. The command exits with code 2.

    The message names the file, line or field, the value seen and the value wanted.
    """


class Failure(RuntimeError):
    """The work cannot go on though the input was accepted (a NaN loss, a full disk). Exit code 1."""
