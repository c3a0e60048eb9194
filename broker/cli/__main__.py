"""Starts the command line: `python -m broker.cli`."""

from __future__ import annotations

from broker.cli import main

if __name__ == "__main__":
    main()
