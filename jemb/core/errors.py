"""The two kinds of error a command reports as one message instead of a traceback."""


def _original(message: object) -> object:
    """What was said in a loader process: torch raises it again with that process's traceback around it."""
    text = str(message)
    if "Original Traceback (most recent call last):" not in text:
        return message
    return text.rpartition("\njemb.core.errors.")[2].partition(": ")[2].rstrip()


class InputError(ValueError):
    """The user's input or configuration is wrong. The command exits with code 2.

    The message names the file, line or field, the value seen and the value wanted.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_original(message))


class Failure(RuntimeError):
    """The work cannot go on though the input was accepted (a NaN loss, a full disk). Exit code 1."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_original(message))
