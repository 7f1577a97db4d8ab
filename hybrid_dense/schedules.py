"""The learning rate over another number of epochs."""

from __future__ import annotations


def stretch_epoch(epoch: int, ratio: float) -> int:
    """An epoch in proportion, the first at least."""
    return max(1, round(epoch * ratio))


def stretch_scheduler(scheduler: dict, ratio: float) -> None:
    """Scale one of a config's ``param_scheduler`` in place; what counts steps, as warm-ups do, stays."""
    if not scheduler.get("by_epoch", True):
        return
    first = scheduler.get("begin", 0)
    begin = round(first * ratio)
    if "end" in scheduler:
        scheduler["end"] = stretch_epoch(scheduler["end"], ratio)
        begin = min(begin, scheduler["end"] - 1)  # mmengine refuses a scheduler that ends where it begins
    if "begin" in scheduler:
        scheduler["begin"] = begin
    if scheduler.get("T_max"):
        # The place where it is reached is stretched, so that roundings leave a cosine its end.
        scheduler["T_max"] = max(1, round((first + scheduler["T_max"]) * ratio) - begin)
    if "milestones" in scheduler:
        scheduler["milestones"] = [stretch_epoch(milestone, ratio) for milestone in scheduler["milestones"]]
