"""What can be compared: ARMS, the kinds of arms that a config may name."""

from .base import PRECISIONS, Contender, Matched, Size
from .dense import Dense, EarlyStop, EqualFlops, EqualSeconds
from .smaller import LowRank, Narrower
from .sparse import Sparse

ARMS: dict[str, type[Contender]] = {
    kind.KIND: kind for kind in (Dense, Sparse, EqualFlops, EqualSeconds, Narrower, LowRank, EarlyStop)
}

__all__ = ["ARMS", "PRECISIONS", "Contender", "Dense", "Matched", "Size", "Sparse"]
