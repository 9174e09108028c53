"""What a refusal must look like."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# PyTorch's own: keys of a state dict, what a schema rules out, no memory, numbers beyond 64 bits, its dense product.
PYTORCH = "Missing key|Unexpected key|Expected a value of type|allocate memory|Overflow|must have the same dtype"


def refused(action: Callable[[], Any]) -> str:
    """Does it, and returns the sentence by which it was refused; "" if it was not. AssertionError if that is no sentence."""
    try:
        action()
    except (ValueError, TypeError, RuntimeError) as error:
        if not re.search(f"expected .*, got|{PYTORCH}", text := str(error), re.S):
            raise AssertionError(f"refused in no sentence: {error!r}") from error
        return text
    return ""
