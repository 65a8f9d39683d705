"""Ask this service and a real tritonserver the same, and write docs/triton-differences.md.

python -m tests.conformance             with what Triton told when it was last asked
python -m tests.conformance --triton    asks it anew; it is installed where it is missing (2 GB)
"""

from __future__ import annotations

import argparse

from benchmarks.peers import triton
from benchmarks.peers.environments import python_of
from tests.conformance.comparison import PAGE, ask_convoy, ask_triton, page, record, recorded, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--triton", action="store_true")
    if parser.parse_args().triton:
        python_of(triton.NAME, triton.PACKAGES)
        record(ask_triton())
    PAGE.write_text(page(rows(recorded(), ask_convoy("grpcio"))))


if __name__ == "__main__":
    main()
