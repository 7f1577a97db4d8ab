"""Training survives a few broken images and names them, workers or not; many of them, and evaluation, end it."""

import re

import pytest
import torch
from broken_folder import EMPTY, PNG_NAMED_JPG, TRUNCATED, write_broken, write_config
from mmengine.config import Config
from mmengine.dataset import BaseDataset, RepeatDataset, pseudo_collate
from torch.utils.data import ConcatDataset, DataLoader

from hybrid_dense.data.tolerant import BrokenDataError, BrokenImages, TolerantPipeline, guard


class Numbers(BaseDataset):
    """Samples 0 to n - 1; those in ``broken`` raise."""

    def __init__(self, length: int, broken: dict[int, Exception], test_mode: bool = False):
        self.length, self.raised = length, broken
        super().__init__(pipeline=[self.load], test_mode=test_mode)

    def load_data_list(self) -> list[dict]:
        return [{"number": number, "img_path": f"{number}.jpg"} for number in range(self.length)]

    def load(self, info: dict) -> dict:
        if info["number"] in self.raised:
            raise self.raised[info["number"]]
        return {"number": info["number"]}


def fetch(dataset, workers: int = 0) -> list[int]:
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=pseudo_collate)
    return [number for batch in loader for number in batch["number"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_replaced_and_counted_once_over_epochs_and_workers(workers):
    dataset = Numbers(20, {3: OSError("gone"), 12: AssertionError("failed to load image: 12.jpg")})
    guard(dataset, 0.1)
    for _ in range(3):
        numbers = fetch(dataset, workers)
        assert len(numbers) == 20
        assert not {3, 12} & set(numbers)
    assert torch.where(dataset.pipeline.broken)[0].tolist() == [3, 12]


@pytest.mark.parametrize("workers", [0, 1])
def test_one_more_than_allowed_ends_it_in_one_line(workers):
    dataset = Numbers(20, dict.fromkeys((1, 2, 3), OSError("gone")))
    guard(dataset, 0.1)
    with pytest.raises(BrokenDataError) as caught:
        fetch(dataset, workers)
    assert re.fullmatch(
        r"3 of 20 images are broken, more than the 2 that max_broken allows; the last: \d\.jpg: gone; .*check-data.*",
        str(caught.value),
    )


def test_a_data_set_of_broken_images_alone_ends_too():
    dataset = Numbers(5, dict.fromkeys(range(5), OSError("gone")))
    guard(dataset, 0.01)
    with pytest.raises(BrokenDataError, match="2 of 5 images are broken, more than the 1"):
        dataset[0]


@pytest.mark.parametrize(("share", "limit"), [(0.01, 1), (0.07, 7), (0.071, 8), (0.001, 1), (1, 100), (0, 0)])
def test_the_limit_is_a_share_rounded_up(share, limit):
    assert TolerantPipeline(lambda sample: sample, 100, share).limit == limit


@pytest.mark.parametrize("share", [-0.1, 1.5, "1%", None])
def test_a_limit_that_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match=re.escape(f"max_broken={share!r} is no share")):
        BrokenImages(share)


def test_a_mistake_in_a_transform_is_not_taken_for_a_broken_image():
    dataset = Numbers(20, {3: KeyError("gt_masks")})
    guard(dataset, 1)
    with pytest.raises(KeyError, match="gt_masks"):
        dataset[3]


def test_evaluation_names_the_first_and_skips_nothing():
    dataset = Numbers(20, {3: OSError("gone")}, test_mode=True)
    guard(dataset, None)
    with pytest.raises(BrokenDataError, match=r"^broken image in evaluation: 3\.jpg: gone; mend it or take it out$"):
        fetch(dataset)


def test_data_sets_in_wrappers_are_guarded_once_and_counted_apart():
    first, second = Numbers(4, {}), Numbers(6, {})
    dataset = ConcatDataset([RepeatDataset(first, times=2), second])
    guard(dataset, 0.5)
    pipelines = first.pipeline, second.pipeline
    guard(dataset, 0.5)
    assert (first.pipeline, second.pipeline) == pipelines
    assert [pipeline.limit for pipeline in pipelines] == [2, 3]
    assert len(fetch(dataset)) == 14


def test_what_the_loader_raises_over_real_files_is_caught(tmp_path):
    from mmcv.transforms import LoadImageFromFile

    folder = write_broken(tmp_path / "data") / "train"
    names = [TRUNCATED, EMPTY, PNG_NAMED_JPG, "nowhere.jpg"]
    pipeline = TolerantPipeline(LoadImageFromFile(), len(names), 1)
    made = [pipeline({"img_path": str(folder / name), "sample_idx": index}) for index, name in enumerate(names)]
    assert [sample is None for sample in made] == [True, True, False, True]
    assert pipeline.broken.tolist() == [True, True, False, True]


MISTAKES = {
    "000001.jpg": "cut off",
    "000002.jpg": "empty",
    "000003.jpg": "PNG named .jpg",
    "000004.jpg": "nan",
    "hexagon": "does not know class",
    "000007.jpg": "same content",
}


def test_training_on_the_broken_folder_survives_with_a_warning_for_each(command, tmp_path):
    root = write_broken(tmp_path / "data")
    config = write_config(tmp_path / "c.py", root, max_broken=0.2, **{"train_dataloader.num_workers": 1})
    done = command("train", config, "--work-dir", tmp_path / "work")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "work/epoch_1.pth").is_file()
    said = done.stdout + done.stderr
    for name, mistake in MISTAKES.items():
        assert re.search(f"warning: .*{name}.*{mistake}|warning: .*{mistake}.*{name}", said), name
    for name in (TRUNCATED, EMPTY):
        assert len(re.findall(f"skipped broken image .*{name}", said)) == 1


@pytest.mark.slow
def test_over_the_limit_training_fails_and_evaluation_at_once(command, tmp_path):
    root = write_broken(tmp_path / "data")
    config = write_config(tmp_path / "c.py", root)
    done = command("train", config, "--work-dir", tmp_path / "work")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("hybrid-dense: error:")]
    assert "2 of 16 images are broken, more than the 1 that max_broken allows" in line
    assert "Traceback" not in done.stderr
    (root / "val/000001.jpg").write_bytes(b"\xff\xd8\xff")
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset.update(ann_file="annotations/instances_val.json", data_prefix=dict(img="val/"))
    cfg.max_broken = 1.0
    cfg.train_cfg.val_interval = 1
    cfg.train_dataloader.batch_size = 1
    cfg.dump(tmp_path / "val.py")
    done = command("train", tmp_path / "val.py", "--work-dir", tmp_path / "work")
    assert done.returncode == 2
    assert re.search("error: broken image in evaluation: .*val/000001.jpg: cannot be decoded", done.stderr)


def test_every_rank_names_what_it_skips(monkeypatch, capsys):
    """mmengine's logger keeps the warnings of ranks other than 0 to itself."""
    monkeypatch.setenv("RANK", "3")
    pipeline = TolerantPipeline(lambda sample: (_ for _ in ()).throw(OSError("gone")), 200, 0.01)
    assert pipeline(dict(img_path="a/b.jpg", sample_idx=7)) is None
    assert "rank 3: skipped broken image a/b.jpg: gone (1 of at most 2)" in capsys.readouterr().err
