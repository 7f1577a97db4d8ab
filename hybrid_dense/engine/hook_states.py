"""What hooks remember and mmengine does not save: kept in checkpoints, so that a resumed training behaves the same."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.hooks import Hook

# Hooks of mmengine with memory of their own, by class name. EMAHook and CheckpointHook save theirs by themselves;
# timers and the hooks that switch something at an epoch find their state again from the clock and the epoch.
_REMEMBERED = {"EarlyStoppingHook": ("wait_count", "best_score")}


def collect_states(hooks: Iterable[Hook]) -> dict[str, dict]:
    """State of every hook that has some, by class name; a second hook of a class is called ``Name.1``.

    A hook of one's own takes part by having ``state_dict()`` and ``load_state_dict()``: plain values and tensors only.
    """
    return {name: _state(hook) for name, hook in _named(hooks)}


def restore_states(hooks: Iterable[Hook], states: dict[str, dict]) -> None:
    """Give the hooks back what `collect_states` has taken; hooks without saved state stay as they are."""
    for name, hook in _named(hooks):
        if name not in states:
            continue
        if hasattr(hook, "load_state_dict"):
            hook.load_state_dict(states[name])
        else:
            vars(hook).update(states[name])


def _named(hooks: Iterable[Hook]) -> list[tuple[str, Hook]]:
    named, seen = [], {}
    for hook in hooks:
        kind = type(hook).__name__
        if kind in _REMEMBERED or hasattr(hook, "state_dict"):
            number = seen[kind] = seen.get(kind, -1) + 1
            named.append((f"{kind}.{number}" if number else kind, hook))
    return named


def _state(hook: Hook) -> dict:
    if hasattr(hook, "state_dict"):
        return hook.state_dict()
    return {key: getattr(hook, key) for key in _REMEMBERED[type(hook).__name__]}
