"""The one error of training that a user can do something about."""

from convoy.errors import ConvoyError


class TrainingError(ConvoyError):
    """Training, export or evaluation cannot go on; the text says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; the error's type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
