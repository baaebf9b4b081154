"""`python -m tests.chaos --minutes N --seed S`: break things for N minutes, then prove that nothing was lost.

Exit status 0 only when the checker found nothing. `make chaos MINUTES=N SEED=S` is the usual way here.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.init import below_init
from tests.chaos.run import Run
from tests.support.hub import find_hub


def main() -> int:
    """Parse, run, keep the place if it failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long things go wrong (default: 3)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of every choice")
    parser.add_argument("--keep", action="store_true", help="keep log and homes even when all went well")
    options = parser.parse_args()
    if find_hub() is None:
        print("The chaos run needs the official hub: make setup", file=sys.stderr)
        return 1
    place = Path(tempfile.mkdtemp(prefix="hapi-chaos-", dir="/tmp"))
    code = below_init(lambda: Run(place, options.seed, options.minutes * 60).play())
    if code == 0 and not options.keep:
        shutil.rmtree(place, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
