"""`python -m benchmarks [NAME...] [--quick] [--record] [--set KEY=NUMBER]`: the named benchmarks, else all, in order."""

import sys

from benchmarks.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
