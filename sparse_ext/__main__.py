"""`python -m sparse_ext`: what is installed, and why CUDA is unavailable where it is. `... calibrate`: see calibrate.py."""

import sys

from .calibrate import calibrate
from .config import show_config

if sys.argv[1:2] == ["calibrate"]:
    calibrate(sys.argv[2:])
elif sys.argv[1:]:
    sys.exit(f"expected `python -m sparse_ext`, or `python -m sparse_ext calibrate`, got {' '.join(sys.argv[1:])!r}")
else:
    show_config()
