"""What can go wrong in the service, said without any word of a transport.

ConvoyError
├── RequestError              one call fails, the service lives
│   ├── InvalidRequest        the caller's mistake
│   ├── ModelNotFound         no such model or version
│   ├── Unauthenticated       the caller has not shown that it may do that
│   ├── Unsupported           this server does not do that
│   ├── RegionNotFound        no such region of shared memory
│   ├── RegionExists          there is a region of that name
│   ├── LoadFailed            a model is not what its caller wants it to be; the old one serves
│   ├── Overloaded
│   │   ├── QueueFull         no room in the queue; try again after `retry_after`
│   │   ├── QueueTooLong      the wait would outlast the deadline; as above
│   │   ├── TooManyStreams    as many are open as may be; as above
│   │   └── OutOfMemory       the device has no memory for even one image; as above
│   ├── DeadlineExceeded      the caller's deadline has passed
│   ├── NotServing            the service is starting, or about to stop
│   └── ModelFailure          the model broke its contract; `detail` is for the log only
└── StartupError              the service does not start
    ├── UsageError            a wrong setting, a port in use, nothing to serve: exit code 2
    └── UnfitError            a bundle or a device that cannot be trusted: exit code 3
"""

from __future__ import annotations

from convoy.errors import ConvoyError


class RequestError(ConvoyError):
    """One call fails; the text is for its caller."""


class InvalidRequest(RequestError):
    """The request is wrong; the text names the field and the limit it broke."""


class ModelNotFound(RequestError):
    """No such model or version; the text lists what there is."""


class Unauthenticated(RequestError):
    """The caller has not shown that it may do that."""


class Unsupported(RequestError):
    """This server does not do that; the text says what to do instead."""


class RegionNotFound(RequestError):
    """No such region of shared memory."""


class RegionExists(RequestError):
    """There is a region of shared memory of that name."""


class LoadFailed(RequestError):
    """A model could not be changed; what served before goes on."""


class Overloaded(RequestError):
    """Nothing was done, for lack of room or time; `retry_after` is in seconds."""

    def __init__(self, text: str, *, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """There is no room for the request now."""


class QueueTooLong(Overloaded):
    """The requests ahead would take longer than what is left of the deadline."""


class TooManyStreams(Overloaded):
    """As many streams are open as may be."""


class OutOfMemory(Overloaded):
    """The device has no memory for a batch."""


class DeadlineExceeded(RequestError):
    """The deadline passed before the network ran."""


class NotServing(RequestError):
    """The service is starting or stopping, or the model being taken out; a replica may answer."""


class ModelFailure(RequestError):
    """The model failed or broke its contract; callers get a fixed text, the log gets `detail`."""

    def __init__(self, detail: str) -> None:
        super().__init__("the model failed on this request; the server's log has the detail")
        self.detail = detail


class StartupError(ConvoyError):
    """The service does not start; the text is one line for the operator."""

    exit_code = 1


class UsageError(StartupError):
    """A setting is wrong, a port is taken, or there is nothing to serve."""

    exit_code = 2


class UnfitError(StartupError):
    """A bundle or a device cannot be trusted to serve."""

    exit_code = 3
