"""``python -m elemental`` is the command line."""

from __future__ import annotations

import gc
import sys

from .cli.main import main


def run() -> int:
    """Run the command of this process, and give its exit code."""
    code = main()
    gc.freeze()  # at its end Python would look for garbage in all that torch has made: half a second
    return code


if __name__ == "__main__":
    sys.exit(run())
