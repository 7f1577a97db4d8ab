"""Fetch a file of weights into torch's hub cache, once a machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import distributed


def leader_first(fetch: Callable[[], Path]) -> Path:
    """Let one process of each machine download; the others wait, and then find the file there."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return fetch()
    path = None
    try:
        if int(os.environ.get("LOCAL_RANK") or distributed.get_rank()) == 0:
            path = fetch()
    finally:  # in a failure too, or the others would wait for ever
        distributed.barrier()
    return path or fetch()


def fetch_url(source: str) -> Path:
    """Download a URL into torch's hub cache, unless it is there.

    Raises:
        FileNotFoundError: it could not be downloaded.
        ValueError: the hash that the name ends with is not the file's.
    """
    remote = Path(urlparse(source).path)
    # Eight digits are a date.
    expected = re.search(r"-(?!\d{8}$)([0-9a-f]{8,64})$", remote.stem)
    # Without a hash in the name, two addresses may well use the same name for different weights.
    address = "" if expected else f"-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    path = Path(torch.hub.get_dir(), "checkpoints", f"{remote.stem}{address}{remote.suffix}")
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(source, str(path), expected[1] if expected else None)
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(f"could not download {source} ({one_line(error)}); {mend('it')}") from None
    except RuntimeError:
        raise ValueError(f"{source} is not the file that its name says: the hash differs; download it anew") from None
    return path


def mend(what: str) -> str:
    return f"check the name and the connection, or download {what} elsewhere and give its path"


def one_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
