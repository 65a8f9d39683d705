"""Both servers asked the same, and the page that shows it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import grpc

from service.oip.regions import FOLDER
from tests.bundles import make_bundle
from tests.conformance.calls import Told, ask
from tests.conformance.cases import GROUPS, KEY, NOISE, ROOM, Case, cases
from tests.conformance.triton_server import triton_server
from tests.servers import PATIENCE, server_process

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "triton-differences.md"
RECORD = Path(__file__).with_name("triton.json")
SHOWN = 220
SAME, SAME_CODE = "same", "same code"
HEAD = """\
# Beside a real Triton

The same {rows} requests, good and bad, sent to this service and to a real `tritonserver` 2.51 (the
binary in the wheel of nvidia-pytriton 0.7.0, its Python backend, the same ONNX file in the same
ONNX Runtime), with what both answer. {same} answers are the same to the letter, {code} errors have
the same status code in other words; the last column says why the other {other} differ. Texts of
errors are for people, so they are our own: they name the field and the limit. What is measured
(times) is left out; long answers are compared whole and shown cut.

Both servers have the model `tiny` (32 x 32 pixels in `images`, three classes; versions 1 and 2 lie
there, the newest serves) and `files` (image files in `encoded_images`). Triton runs with its
defaults, this service with `--shared-memory --log-settings`, which are off by default. The requests
are those of `tests/conformance/cases.py`, sent in this order. This page is written by

    python -m tests.conformance --triton

and without `--triton` from what Triton told when it was last asked
(`tests/conformance/triton.json`). The tests hold this service to it on both fronts, and Triton
where it is installed.
"""

Answers = list[Told]


@dataclass(frozen=True)
class Row:
    """What both told of one case."""

    case: Case
    triton: Told
    ours: Told

    @property
    def differs(self) -> bool:
        """Whether it needs an explanation: the words of an error may be one's own."""
        if self.triton.code != self.ours.code:
            return True
        return self.ours.code == "OK" and _without_words(self.triton) != _without_words(self.ours)

    @property
    def verdict(self) -> str:
        """The last cell of the row."""
        if self.differs:
            return self.case.why
        return SAME if self.triton.text == self.ours.text else SAME_CODE


def ask_convoy(front: str) -> Answers:
    """What this service tells, in the order of `cases`."""
    flags = (f"--front={front}", "--shared-memory", "--log-settings")
    with _bundles() as models, server_process(models, *flags) as server:
        return _ask_all(server.grpc_address)


def ask_triton() -> Answers:
    """What a real tritonserver tells; it must be installed."""
    with _bundles() as models, triton_server(models) as address:
        return _ask_all(address)


def recorded() -> Answers:
    """What it told when it was last asked."""
    return [Told(**one) for one in json.loads(RECORD.read_text())]


def record(answers: Answers) -> None:
    """Keep what Triton told."""
    RECORD.write_text(json.dumps([asdict(one) for one in answers], indent=1) + "\n")


def rows(triton: Answers, ours: Answers) -> list[Row]:
    """Both, side by side."""
    return [Row(*one) for one in zip(cases(), triton, ours, strict=True)]


def page(found: list[Row]) -> str:
    """The page in Markdown: what it is, and a table for each group."""
    verdicts = [row.verdict for row in found]
    same, code = (verdicts.count(one) for one in (SAME, SAME_CODE))
    other = len(found) - same - code
    lines = [HEAD.format(rows=len(found), same=same, code=code, other=other).rstrip()]
    left = iter(found)
    for title, group in GROUPS:
        lines += [
            "",
            f"## {title}",
            "",
            "| request | Triton | Convoy | same? |",
            "|---|---|---|---|",
        ]
        for _, row in zip(group, left, strict=False):
            cells = (_cell(row.case.name), _told(row.triton), _told(row.ours), _cell(row.verdict))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _without_words(told: Told) -> str:
    """An answer, without the words of the errors in a stream."""
    return re.sub(r'error "(\\.|[^"\\])*"', "error", told.text)


def _told(told: Told) -> str:
    text = told.text[:SHOWN] + (" ..." if len(told.text) > SHOWN else "")
    return f"{told.code}: `{_cell(text)}`"


def _cell(text: str) -> str:
    """In one line, with what would end the cell escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def _ask_all(address: str) -> Answers:
    with _object(), grpc.insecure_channel(address) as channel:
        return [_ask(channel, case) for case in cases()]


def _ask(channel: grpc.Channel, case: Case) -> Told:
    end = monotonic() + PATIENCE
    while case.until not in (told := ask(channel, case.call)).text and monotonic() < end:
        pass
    return told


@contextmanager
def _bundles() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bundle(folder, "tiny", version=1)
        make_bundle(folder, "tiny", version=2)
        make_bundle(folder, "files")
        yield folder


@contextmanager
def _object() -> Iterator[None]:
    file = FOLDER / KEY
    file.write_bytes(NOISE.tobytes() + bytes(ROOM))
    try:
        yield
    finally:
        file.unlink()
