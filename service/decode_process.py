"""A process that decodes images, and the one that forks it.

Run as a program, this is the fork server: it imports once what decoding takes, so that each process
that it forks is there within milliseconds and has little memory of its own. Both end with the
process that started them, when their sockets are closed; SIGTERM and SIGINT are for that one alone.

A decoding process gets jobs over its socket, in messages of one or several, and answers likewise.
Image files and pixels lie in memory that it shares with the service.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from time import monotonic, thread_time

import numpy as np

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode
from service.memory import reuse_freed_memory
from service.scheduling import COMPUTES, give_way

# The first byte of a message to a decoding process: what the rest is.
SPEC, JOBS = b"s", b"j"
JOB = struct.Struct("<IIQQQ")
"""Number of the job and of the `InputSpec`; where the file lies, its size, where the pixels go."""
RESULT = struct.Struct("<IBfH")
"""Number of the job, what became of it, the seconds of processor time, bytes of text behind it."""
DECODED, REFUSED, FAILED = range(3)
STARTED = struct.Struct("<I")
"""The first message of a decoding process: its number."""
FORK = struct.Struct("<QQ")
"""To the fork server: the fields of `Limits`. With it come a socket and the shared memory."""

MESSAGE_BYTES = 2**16
TEXT_BYTES = 1000
# Results that are sent together where jobs wait, since each message wakes the event loop; and how
# long one waits for the others, beside the image that is being decoded.
TOGETHER, TOGETHER_SECONDS = 8, 0.005


def main() -> None:
    """Fork a decoding process for each message on the socket that is the standard input."""
    _close_inherited()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    reuse_freed_memory()
    orders = socket.socket(fileno=os.dup(0))
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(orders, FORK.size, 2)
        if not message:
            return
        try:
            child = os.fork() == 0
        except OSError as error:  # the service will try again
            sys.stderr.write(f"convoy-serve: cannot start a process: {error.strerror}\n")
        else:
            if child:
                break
        for fd in fds:
            os.close(fd)
    orders.close()
    os.close(0)
    give_way(COMPUTES)
    channel, memory = socket.socket(fileno=fds[0]), mmap.mmap(fds[1], 0)
    with suppress(OSError):  # the service has ended
        _work(channel, memory, Limits(*FORK.unpack(message)))


def _close_inherited() -> None:
    """Close what is not meant for this process: a listening socket must end with the service."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # it was the one that listed them
                os.close(int(name))


def _work(channel: socket.socket, memory: mmap.mmap, limits: Limits) -> None:
    """Answer jobs until the socket is closed."""
    specs: list[InputSpec] = []
    results: list[bytes] = []
    due = 0.0
    channel.send(STARTED.pack(os.getpid()))
    while True:
        try:
            message = channel.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT if results else 0)
        except BlockingIOError:
            _send(channel, results)
            continue
        if not message:
            return
        if message[:1] == SPEC:
            specs.append(InputSpec.model_validate_json(message[1:]))
            continue
        for number, spec, begin, size, out in JOB.iter_unpack(message[1:]):
            start = thread_time()
            outcome, text = _decode(memory, specs[spec], limits, begin, size, out)
            due = due if results else monotonic() + TOGETHER_SECONDS
            results.append(RESULT.pack(number, outcome, thread_time() - start, len(text)) + text)
            if len(results) == TOGETHER or monotonic() > due:
                _send(channel, results)


def _send(channel: socket.socket, results: list[bytes]) -> None:
    channel.send(b"".join(results))
    results.clear()


def _decode(
    memory: mmap.mmap, spec: InputSpec, limits: Limits, begin: int, size: int, out: int
) -> tuple[int, bytes]:
    """What became of an image, and the text for whoever sent it or for the log."""
    pixels = np.frombuffer(memory, np.uint8, spec.nbytes, out).reshape(spec.shape)
    try:
        decode(memory[begin : begin + size], spec, limits, out=pixels)
    except ImageError as error:
        return REFUSED, str(error).encode()[:TEXT_BYTES]
    except Exception as error:
        return FAILED, repr(error).encode()[:TEXT_BYTES]
    return DECODED, b""


if __name__ == "__main__":
    main()
