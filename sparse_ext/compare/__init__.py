"""A dense and a sparse network side by side, from one config: what did it save? `python -m sparse_ext compare config.toml`"""

from .arms import ARMS
from .comparison import compare
from .config import Config
from .task import Task
from .training import Training

__all__ = ["ARMS", "Config", "Task", "Training", "compare"]
