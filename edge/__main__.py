"""`python -m edge`: one edge process."""

from __future__ import annotations

import sys

from edge.process import main

if __name__ == "__main__":
    sys.exit(main())
