"""Turn any config of mmdet or mmseg into one that this engine trains: the same training, with nothing lost."""

from __future__ import annotations

from mmengine.config import Config

# mmengine's class, and ours that does the same and more.
REPLACED: dict[str, str] = {
    "CheckpointHook": "AtomicCheckpointHook",
    "EpochBasedTrainLoop": "ExactEpochLoop",
    "IterBasedTrainLoop": "ExactIterLoop",
    "OptimWrapper": "GuardedOptimWrapper",
}
# Hooks that every training gets, unless its config has one of that type.
ADDED: tuple[str, ...] = ("SignalHook", "SicknessHook", "WatchdogHook", "BatchSizeHook", "BroadcastBuffersHook")


def equip(cfg: Config) -> Config:
    """Exchange classes and add hooks, in place; what the config sets for itself stays.

    The dumped config then says all of it, so that it also runs under the hosts' own tools.
    """
    loop = cfg.get("train_cfg") or {}
    if "by_epoch" in loop and "type" not in loop:
        loop["type"] = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
    # The runner would add its own where the config has none; None means that it wants none.
    default = dict(checkpoint=dict(type="CheckpointHook", interval=1))
    cfg.default_hooks = dict(default, **(cfg.get("default_hooks") or {}))
    if cfg.get("optim_wrapper"):
        cfg.optim_wrapper.setdefault("type", "OptimWrapper")  # as the runner would
    places = [cfg.get("train_cfg"), cfg.get("optim_wrapper"), *(cfg.get("default_hooks") or {}).values()]
    for place in places:
        if isinstance(place, dict) and type_name(place) in REPLACED:
            place["type"] = REPLACED[type_name(place)]
    hooks = list(cfg.get("custom_hooks") or [])
    present = {type_name(hook) for hook in hooks}
    cfg.custom_hooks = [*hooks, *(dict(type=name) for name in ADDED if name not in present)]
    return cfg


def type_name(part: dict) -> str | None:
    """The class that a part of a config names; mmengine's newer style of configs gives the class itself."""
    kind = part.get("type")
    return kind.__name__ if isinstance(kind, type) else kind
