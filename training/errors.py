"""The one error of training that a user can do something about."""

from convoy.errors import ConvoyError


class TrainingError(ConvoyError):
    """Training, export or evaluation cannot go on; the text says what is wrong and what to do."""
