"""`python -m training`, which `torchrun -m training` also runs."""

from training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
