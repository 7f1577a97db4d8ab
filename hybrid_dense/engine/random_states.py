"""Random numbers from seeds that tell where a training stands, and the states of all generators as plain data."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(*numbers: int) -> int:
    """Seed python's, numpy's and torch's CPU generator from whole numbers from 0 up; returns a seed made of them.

    Different numbers give independent sequences, neighbours too. Devices are left alone, so that workers can call it.
    """
    # With their count, because zeros at the end would change nothing.
    words = np.random.SeedSequence((len(numbers), *numbers)).generate_state(4)
    seed = int.from_bytes(words.tobytes(), "little")
    random.seed(seed)
    np.random.seed(words)
    torch.default_generator.manual_seed(seed % 2**63)
    return seed % 2**63


def seed_everything(*numbers: int) -> None:
    """Seed the generators of all devices as well; it waits for none of them."""
    torch.manual_seed(seed_generators(*numbers))


def read_random_states() -> dict:
    """The states of python's, numpy's and torch's generators, those of all CUDA devices included.

    Numbers, tuples and tensors only, so that a weights-only load reads them.
    """
    numpy_state = np.random.get_state(legacy=False)
    words = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return dict(
        python=random.getstate(),
        numpy=dict(numpy_state, state=dict(numpy_state["state"], key=words)),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    )


def restore_random_states(states: dict) -> None:
    """Put back what `read_random_states` gave; devices that it did not see keep their states."""
    random.setstate(states["python"])
    # Loading may have moved the tensors to a device.
    words = states["numpy"]["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(dict(states["numpy"], state=dict(states["numpy"]["state"], key=words)))
    torch.set_rng_state(states["torch"].cpu())
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)
