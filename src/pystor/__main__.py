"""`python -m pystor` is the command `stor`."""

import sys

from pystor.cli import main

if __name__ == "__main__":
    sys.exit(main())
