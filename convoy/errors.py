"""Errors that both sides of the wire share.

ConvoyError
├── ImageError      bytes that do not become the pixels a model needs
├── BundleError     a model bundle that cannot be read, written or trusted
└── ClientError     see convoy.client.errors
"""


class ConvoyError(Exception):
    """Base of every error that Convoy raises on purpose; its text is meant for people."""


class ImageError(ConvoyError, ValueError):
    """An image cannot be used; the text says why, in terms its sender understands."""


class BundleError(ConvoyError):
    """A bundle cannot be read, written or trusted; the text names the file and what to do."""
