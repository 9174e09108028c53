"""`python -m sparse_ext`: what is installed, and why CUDA is unavailable where it is."""

from .config import show_config

show_config()
