"""Write the report of every validation and test beside the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from hybrid_dense.evaluation.report import print_report, write_report


@HOOKS.register_module()
class MetricsReportHook(Hook):
    """Write ``metrics.json`` and ``metrics.md`` into the work folder after each validation and test, over older ones.

    They hold what the evaluators return and the ``class_tables`` of those metrics that keep them. A test is printed
    too; a validation leaves the terminal to the progress bar and has a line in the log.
    """

    priority = "LOW"

    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        if runner.rank == 0 and metrics:
            self._write(runner, runner.val_loop, _validation_title(runner), metrics)
            runner.logger.info(f"figures of every class: {runner.work_dir}/metrics.md")

    def after_test_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        if runner.rank == 0 and metrics:
            figures, tables = self._write(runner, runner.test_loop, "Test", metrics)
            print_report("Test", figures, tables)

    def _write(self, runner, loop: BaseLoop, title: str, metrics: Mapping[str, float]) -> tuple[dict, list]:
        figures = {name: float(value) for name, value in metrics.items() if isinstance(value, SupportsFloat)}
        tables = [table for metric in loop.evaluator.metrics for table in getattr(metric, "class_tables", ())]
        write_report(runner.work_dir, title, figures, tables)
        return figures, tables


def _validation_title(runner) -> str:
    if not isinstance(runner._train_loop, BaseLoop):  # `runner.val()` alone; its public name would build the loop
        return "Validation"
    epochs = f"{runner.epoch} epochs, " if isinstance(runner.train_loop, EpochBasedTrainLoop) else ""
    return f"Validation after {epochs}{runner.iter} steps"
