"""Log lines that reach the user from every process."""

from __future__ import annotations

import logging
import sys

from mmengine.dist import get_rank, is_main_process


def log_from_any_rank(logger: logging.Logger, text: str, level: int = logging.WARNING) -> None:
    """Log a line; a warning goes to stderr too where mmengine's logger would keep it to itself: on all ranks but 0."""
    logger.log(level, text)
    if level >= logging.WARNING and not is_main_process():
        print(f"hybrid-dense: warning: rank {get_rank()}: {text}", file=sys.stderr, flush=True)
