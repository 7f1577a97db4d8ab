"""A checkpoint's worth of harm, and what it is done to."""

import os
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import HistoryBuffer


class Payload:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@dataclass(frozen=True)
class Kit:
    """A config as data, weights of its model, an image, and the folder that a payload makes when it runs."""

    config: Path
    weights: dict
    image: Path
    harmed: Path

    def training_checkpoint(self, **extra) -> dict:
        """What a runner saves after the first epoch, in small."""
        log = HistoryBuffer()
        log.update(0.5)
        hub = dict(log_scalars={"train/loss": log}, runtime_info={"iter": 2}, resumed_keys={"train/loss": True})
        meta = dict(epoch=1, iter=2, dataset_meta=dict(classes=("background",)))
        return dict(meta=meta, state_dict=dict(self.weights), message_hub=hub) | extra

    @property
    def python(self) -> str:
        """A config that does harm when it is run."""
        return f"import os\nos.mkdir({str(self.harmed)!r})\ngpu_ids = [0]\n"
