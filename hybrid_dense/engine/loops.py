"""Training loops of mmengine whose course is a matter of seed and step alone, so that they can be taken up exactly.

Before every step the generators are seeded from (seed, rank, step), before every sample from (seed, rank, epoch, batch,
place in the batch). So what a later step draws does not hang on what was drawn before it, by whichever process, and it
does not matter how many workers load the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from hybrid_dense.engine.data_order import Draw, put_in_order
from hybrid_dense.engine.hooks.exact_resume import ExactResumeHook
from hybrid_dense.engine.random_states import seed_everything

NO_BATCH = "the training set is smaller than one batch and drop_last leaves it out; take a smaller batch_size"


class ExactLoop:
    """What both loops share; stands before mmengine's loop among the bases."""

    def __init__(self, runner, dataloader, *args, **options):
        super().__init__(runner, dataloader, *args, **options)
        self.order = put_in_order(self.dataloader, self.common_seed, runner.rank)
        self.place_data(0, 0)
        runner.register_hook(ExactResumeHook())

    @property
    def common_seed(self) -> int:
        """The runner's seed without what mmengine may add for the rank: the order of the data is one for all."""
        return self.runner.seed - (self.runner.rank if self.runner._randomness_cfg.get("diff_rank_seed") else 0)

    @property
    def sampler(self):
        """The sampler under the batches, None where a batch sampler of some other make has none."""
        return getattr(self.order, "sampler", None)

    def place_data(self, epoch: int, position: int) -> None:
        """Let the data go on in this epoch, from its batch number ``position`` on."""
        self.order.start_at(epoch, position)
        self.steps_before_epoch = self._iter - position

    def seed_for(self, draw: Draw, number: int) -> None:
        seed_everything(draw, self.order.seed, self.order.rank, number)

    def run_iter(self, *args) -> None:
        self.seed_for(Draw.STEP, self._iter)
        super().run_iter(*args)

    def describe_place(self, epochs: int, steps: int) -> dict:
        """Where the data stand after so many finished epochs and steps, as plain data for `take_up`.

        The caller says how many, since hooks save before the loop counts what they save.
        """
        epoch, position = self.find_place(epochs, steps)
        position = max(position, 0)  # an accumulation that began in the epoch before is taken up in this one
        seeds = dict(seed=self.order.seed, sampler_seed=getattr(self.sampler, "seed", None))
        return dict(epoch=epoch, position=position, **seeds, **self.sizes())

    def sizes(self) -> dict[str, int]:
        """What must not change for a training to go on exactly."""
        images = getattr(self.order, "batch_size", 1)
        images = sum(images) if isinstance(images, Sequence) else images  # one for each of several data sets
        return dict(processes=self.runner.world_size, batch_size=images, samples=len(self.dataloader.dataset))

    def take_up(self, place: dict | None) -> None:
        """Go on from `describe_place`; None, from a checkpoint of plain mmengine, goes by the number of steps."""
        # The loader was built before the training's seed was known; samplers look at theirs when iteration begins.
        sampler_seed = getattr(self.sampler, "seed", None)
        if place is None:
            if sampler_seed == self.order.seed:
                sampler_seed = self.common_seed
            self.take_seeds(self.common_seed, sampler_seed)
            self.place_data(*self.guess_place())
            return
        self.take_seeds(place["seed"], place["sampler_seed"])
        now = self.sizes()
        before = {name: place[name] for name in now}
        if now == before:
            self.place_data(place["epoch"], place["position"])
        else:
            self.take_up_resized(place["epoch"], place["position"], before, now)

    def take_seeds(self, seed: int, sampler_seed: int | None) -> None:
        self.order.seed = seed
        if hasattr(self.sampler, "seed") and sampler_seed is not None:
            self.sampler.seed = sampler_seed

    def take_up_resized(self, epoch: int, position: int, before: dict, now: dict) -> None:
        """Go on after the same share of the epoch, in batches of another size."""
        share = position * before["processes"] * before["batch_size"] / before["samples"]
        self.place_data(epoch, round(share * now["samples"] / (now["processes"] * now["batch_size"])))
        print_log(
            f"saved with {_describe(before)}, resumed with {_describe(now)}: epoch {epoch + 1} goes on after "
            f"{share:.0%} of its data, and the training is not the one that it would have been",
            "current",
        )


@LOOPS.register_module()
class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):
    """mmengine's `EpochBasedTrainLoop`, same arguments, that goes on exactly where it was stopped, inside epochs too.

    It brings `ExactResumeHook` along. What keeps a state that neither the seed nor the epoch tells begins anew: mmdet's
    CustomSampleSizeSampler, and transforms with a generator or a cache of their own.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if not len(self.dataloader):
            raise ValueError(NO_BATCH)

    def run_epoch(self) -> None:
        if self.order.epoch != self._epoch:
            self.place_data(self._epoch, 0)
        self.seed_for(Draw.EPOCH, self._epoch)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, self.order.position):
            self.run_iter(index, batch)
        self.seed_for(Draw.EPOCH_END, self._epoch)  # for the validation too
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def find_place(self, epochs: int, steps: int) -> tuple[int, int]:
        return (epochs, 0) if epochs != self.order.epoch else (epochs, steps - self.steps_before_epoch)

    def guess_place(self) -> tuple[int, int]:
        position = self._iter - self._epoch * len(self.dataloader)
        return self._epoch, min(max(position, 0), len(self.dataloader))

    def take_up_resized(self, *args) -> None:
        super().take_up_resized(*args)
        # Steps are counted as if all of them had been of today's size, since epochs are counted in them.
        self._iter = self._epoch * len(self.dataloader) + min(self.order.position, len(self.dataloader))
        self.place_data(self._epoch, self._iter - self._epoch * len(self.dataloader))
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)


@LOOPS.register_module()
class ExactIterLoop(ExactLoop, IterBasedTrainLoop):
    """mmengine's `IterBasedTrainLoop`, same arguments, that goes on exactly where it was stopped; see `ExactEpochLoop`.

    A sampler that ends is started again, in its next epoch's order. ``fast_forward_on_resume`` is without effect: the
    way to where the training stopped costs no loading.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.dataloader_iterator = _EndlessBatches(self)

    def run(self):
        try:
            return super().run()
        finally:
            # Workers of an iterator that is let go end at once; the garbage collector would wait 5 s for each.
            self.dataloader_iterator.batches = None

    def find_place(self, epochs: int, steps: int) -> tuple[int, int]:
        return self.order.epoch, steps - self.steps_before_epoch

    def guess_place(self) -> tuple[int, int]:
        # An infinite sampler can be told by mmengine's `skip`; the others end after the loader's length.
        return (0, self._iter) if hasattr(self.sampler, "skip") else divmod(self._iter, len(self.dataloader))


class _EndlessBatches:
    """In place of mmengine's iterator: begins where `ExactLoop.place_data` says, when the first batch is asked for."""

    def __init__(self, loop: ExactIterLoop):
        self.loop = loop
        self.batches: Iterator | None = None

    def __next__(self):
        if self.batches is None:
            self.begin()
        try:
            return next(self.batches)
        except StopIteration:
            self.loop.place_data(self.loop.order.epoch + 1, 0)
            self.begin()
            batch = next(self.batches, None)
            if batch is None:
                raise ValueError(NO_BATCH) from None
            return batch

    def begin(self) -> None:
        if hasattr(self.loop.sampler, "set_epoch"):
            self.loop.sampler.set_epoch(self.loop.order.epoch)
        self.batches = iter(self.loop.dataloader)

    def skip_iter(self, steps: int) -> None:
        """Nothing is left to skip: the hook has set the place."""


def _describe(sizes: dict[str, int]) -> str:
    return "{processes} × {batch_size} images a step of {samples}".format(**sizes)
