"""``python -m minilm``: the command line, where its script is not on the path (``torchrun -m minilm``)."""

import sys

from minilm.cli import main

if __name__ == "__main__":
    sys.exit(main())
