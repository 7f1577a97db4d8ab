"""Save checkpoints so that a training survives a kill, a full disk or a moved folder at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, save_checkpoint
from torch import Tensor
from torch.nn import Parameter

from hybrid_dense.engine import files, full_disk, latest
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.hook_states import collect_states, restore_states
from hybrid_dense.engine.resume_command import command_of
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped

# Names of the checkpoints that were saved in the middle of an epoch, in the message hub.
_MID_EPOCH = "mid_epoch_ckpts"


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which deletes before it writes, the other way round; the arguments are the same.

    - A checkpoint, the best ones included, is there whole or not at all, its SHA-256 beside it. Then older ones go.
    - A disk that is full stops the training on every rank with one line; what was saved before is untouched.
    - `last_checkpoint` holds a name relative to the work folder, and nothing in a checkpoint minds if the folder moves.
    - ``resume=True`` without a path goes on from the latest checkpoint that is whole (`engine.latest.find_latest`). A
      FlexibleRunner asks no hook before it resumes: name it what `find_latest` finds as ``load_from``, as `train` does.
    - State of other hooks that mmengine leaves out is saved too (`engine.hook_states`).

    After a better validation the last checkpoint is written again, with the new best score, if it is of the same step.
    An ``out_dir`` in a remote store (`s3://…`) gets this order of things, but neither checksums nor temporary names.
    """

    # Meta of the checkpoint that is being written, and the bytes of its tensors.
    _meta: dict | None = None
    _needed = 0

    def before_run(self, runner) -> None:
        # mmengine's own search takes a relative name for a path from the current folder, and any file for a whole one.
        # A FlexibleRunner has done it by now.
        if runner._resume and runner._load_from is None and isinstance(runner, Runner):
            found = latest.find_latest(runner.work_dir)
            runner._resume, runner._load_from = found is not None, found and str(found)
            if found is None:
                runner.logger.info(f"nothing to resume in {runner.work_dir}, starting from the beginning")
        starts = all_gather_object(str(runner._load_from) if runner._resume else "the beginning")
        if len(set(starts)) > 1:
            ranks = "; ".join(f"rank {rank} from {start}" for rank, start in enumerate(starts))
            raise ValueError(f"all processes must share a work folder; now they would go on from: {ranks}")

    def before_train(self, runner) -> None:
        hub = runner.message_hub
        super().before_train(runner)
        for key in [key for key in hub.runtime_info if key == "last_ckpt" or key.startswith("best_ckpt")]:
            if hub.get_info(key):  # from where the folder was when it was saved
                hub.update_info(key, self._path(Path(hub.get_info(key)).name))
        self.last_ckpt = _info(hub, "last_ckpt")
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = _info(hub, "best_ckpt")
        elif self.save_best:
            self.best_ckpt_path_dict = {key: _info(hub, f"best_ckpt_{key}") for key in self.key_indicators}
        # Not a deque of fixed length: while the new one is written, there is one more.
        self.keep_ckpt_ids = list(getattr(self, "keep_ckpt_ids", ()))
        refusal, self._locks = None, []
        if self._is_local and is_main_process():
            try:
                for folder in sorted({Path(self.out_dir), Path(runner.work_dir)}):
                    if folder.is_dir():
                        self._locks.append(files.hold(folder))
                        files.clean_up(folder)
            except ValueError as error:
                refusal = str(error)
        refusals = list(filter(None, all_gather_object(refusal)))
        if refusals:  # on every rank, or the others would wait
            raise ValueError(refusals[0])

    def after_train(self, runner) -> None:
        super().after_train(runner)
        for lock in filter(None, self._locks):
            os.close(lock)

    def save_now(self, runner, finished: int | None = None) -> Path:
        """Save a checkpoint in the middle of an epoch, as ``iter_<finished iterations>.pth``; returns its path.

        To be called by every rank, from `after_train_iter`, or from elsewhere with the number of iterations that are
        ``finished``. It goes when a later one has been saved.
        """
        step = runner.iter + 1 if finished is None else finished
        meta = dict(epoch=runner.epoch, iter=step)
        if not self.by_epoch:
            self._save_checkpoint_with_step(runner, step, meta)
        else:
            name = f"iter_{step}{files.CHECKPOINT_SUFFIX}"
            earlier = [other for other in _info(runner.message_hub, _MID_EPOCH) or [] if other != name]
            runner.message_hub.update_info(_MID_EPOCH, [*earlier, name])
            self._save_last(runner, name, meta)
            self._prune(runner, earlier, keep=[name])
        return Path(self.last_ckpt)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._meta is not None:
            # FlexibleRunner counts on, also where it is told how far the training is.
            checkpoint["meta"].update(self._meta)
        checkpoint.setdefault("hybrid_dense", {})["hooks"] = collect_states(runner.hooks)
        self._needed = sum(tensor.nbytes for tensor in _tensors(checkpoint))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume:
            restore_states(runner.hooks, checkpoint.get("hybrid_dense", {}).get("hooks", {}))

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
            # The one that is about to go is still in it: if the process dies before, the next one removes it.
            runner.message_hub.update_info("keep_ckpt_ids", self.keep_ckpt_ids)
        self._save_last(runner, self.filename_tmpl.format(step), meta)
        outdated = []
        if self.max_keep_ckpts > 0:
            outdated = [self.filename_tmpl.format(old) for old in self.keep_ckpt_ids[: -self.max_keep_ckpts]]
            self.keep_ckpt_ids = self.keep_ckpt_ids[-self.max_keep_ckpts :]
            runner.message_hub.update_info("keep_ckpt_ids", self.keep_ckpt_ids)
        self._prune(runner, [*outdated, *(_info(runner.message_hub, _MID_EPOCH) or [])])

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        hub, improved = runner.message_hub, False
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        outdated = []
        for indicator, rule in zip(self.key_indicators, self.rules, strict=True):
            ending = "" if len(self.key_indicators) == 1 else f"_{indicator}"
            best, old = _info(hub, f"best_score{ending}"), _info(hub, f"best_ckpt{ending}")
            score = metrics.get(indicator)
            if score is None:
                runner.logger.warning(f"save_best: no {indicator} among the metrics {', '.join(metrics)}")
                continue
            if not self.rule_map[rule](score, self.init_value_map[rule] if best is None else best):
                continue
            improved = True
            name = f"best_{indicator}_{self.filename_tmpl.format(step)}".replace("/", "_")
            hub.update_info(f"best_score{ending}", score)
            hub.update_info(f"best_ckpt{ending}", self._path(name))
            if ending:
                self.best_ckpt_path_dict[indicator] = self._path(name)
            else:
                self.best_ckpt_path = self._path(name)
            self._write(runner, name, meta, save_optimizer=False, save_param_scheduler=False, by_epoch=False)
            runner.logger.info(f"best {indicator} so far, {score:.4f}: saved as {name}")
            if old and Path(old).name != name:
                outdated.append(Path(old).name)
        if improved and self.last_ckpt == self._path(self.filename_tmpl.format(step)):
            self._save_checkpoint_with_step(runner, step, meta)
        self._remove(outdated)

    @master_only
    def _publish_model(self, runner, ckpt_path: str | None) -> None:
        """Save the `published_keys` of a checkpoint under a name that ends in the file's own hash."""
        if ckpt_path is None:  # the best by a figure that never came
            return
        path = Path(ckpt_path)
        if not path.is_file():
            runner.logger.warning(f"{path} is not published: it is no file on this machine")
            return
        content = {key: value for key, value in safe_load(path).items() if key in self.published_keys}
        temporary = files.temporary_path(path)
        try:
            save_checkpoint(content, str(temporary))
            published = path.with_name(f"{path.stem}-{files.sha256(temporary)[:8]}{path.suffix}")
            files.put_in_place(temporary, published)
        except OSError as error:
            files.discard_temporary(path)
            self._stop(runner, full_disk.describe_failure(path, error, command_of(runner)))
        runner.logger.info(f"{path} is published as {published}")

    def _save_last(self, runner, name: str, meta: dict) -> None:
        self.last_ckpt = self._path(name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        options = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler)
        self._write(runner, name, meta, by_epoch=self.by_epoch, **options, **self.args)
        self._try(runner, Path(runner.work_dir, latest.LATEST), lambda: self._note(runner))

    @master_only
    def _note(self, runner) -> None:
        if self._is_local:
            latest.note_latest(Path(runner.work_dir), Path(self.last_ckpt))
        else:
            files.write_text(Path(runner.work_dir, latest.LATEST), self.last_ckpt)

    def _write(self, runner, name: str, meta: dict, **options) -> None:
        """Write one checkpoint, whole or not at all; every rank returns when it is there, or stops."""
        options.update(meta=dict(meta), file_client_args=self.file_client_args, backend_args=self.backend_args)
        self._meta = dict(meta)
        try:
            if not self._is_local:
                runner.save_checkpoint(self.out_dir, name, **options)
                return
            path = Path(self.out_dir, name)
            temporary = files.temporary_path(path)
            # Every rank through the first before any begins the second: of a folder, each may write its part.
            self._try(runner, path, lambda: runner.save_checkpoint(self.out_dir, temporary.name, **options))
            self._try(runner, path, lambda: is_main_process() and files.put_in_place(temporary, path))
        finally:
            self._meta, self._needed = None, 0

    def _try(self, runner, path: Path, action: Callable[[], object]) -> None:
        """Do on every rank what may fail; if it does on one, remove what is unfinished and stop all of them.

        No rank leaves before all are through: one that went ahead and ended would take the one that writes with it.
        """
        failure = None
        try:
            action()
        except Exception as error:
            failure = error
        # Not every exception can be sent.
        told = failure if failure is None or isinstance(failure, OSError) else RuntimeError(str(failure))
        failures = [error for error in all_gather_object(told) if error is not None]
        if failures:
            if is_main_process():
                files.discard_temporary(path)
            if failure is not None and not full_disk.is_write_failure(failure):
                raise failure
            self._stop(runner, full_disk.describe_failure(path, failures[0], command_of(runner), self._needed))

    def _stop(self, runner, message: str) -> None:
        runner.logger.error(message)
        raise TrainingStopped(WRITE_FAILED, message)

    def _prune(self, runner, outdated: list[str], keep: list[str] = ()) -> None:
        """Remove checkpoints that the latest, now safely there, has made superfluous."""
        runner.message_hub.update_info(_MID_EPOCH, list(keep))
        self._remove(name for name in outdated if self._path(name) != self.last_ckpt)

    @master_only
    def _remove(self, names: Iterator[str]) -> None:
        for path in map(self._path, names):
            if self._is_local:
                files.remove(Path(path))
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    @property
    def _is_local(self) -> bool:
        # The deprecated file_client_args wrap the backend once more.
        return isinstance(getattr(self.file_backend, "client", self.file_backend), LocalBackend)


def _info(hub, key: str):
    """A value of the message hub, None where there is none."""
    return hub.get_info(key) if key in hub.runtime_info else None


def _tensors(content) -> Iterator[Tensor]:
    if type(content) in (Tensor, Parameter):  # shards of a tensor have no size of their own
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors(value)
