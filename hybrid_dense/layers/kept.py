"""Tensors that depend on sizes only, such as positions: made once for a size, not once for a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

import torch


def kept(make: Callable) -> Callable:
    """Keep what a function of hashable arguments makes, the latest 256; nobody may change it in place.

    While a graph is compiled, traced or exported the function runs as it is: the graph keeps its own.
    """
    remember = lru_cache(maxsize=256)(make)

    @wraps(make)
    def get(*arguments):
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return make(*arguments)
        # What inference made and kept could not be saved for a backward pass later on.
        with torch.inference_mode(False):
            return remember(*arguments)

    get.cache_info, get.cache_clear = remember.cache_info, remember.cache_clear
    return get
