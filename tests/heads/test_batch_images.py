"""A batch of small images is shifted, mirrored, normalised and enlarged, each image by its own numbers."""

import pytest
import torch
from mmengine.logging import MessageHub

from hybrid_dense.heads import BatchImages
from hybrid_dense.heads.batch_images import shift_and_mirror

PLAIN = dict(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])


@pytest.fixture
def hub():
    hub = MessageHub.get_current_instance()
    yield hub
    hub.update_info_dict(dict(iter=0, max_iters=1))


def candidates(image: torch.Tensor, most: int) -> list[torch.Tensor]:
    """Everything that an image may become, cut out of a mirrored frame one by one."""
    frame = torch.nn.functional.pad(image[None].float(), (most,) * 4, mode="reflect")[0].to(image.dtype)
    height, width = image.shape[-2:]
    windows = [
        frame[:, top : top + height, left : left + width] for top in range(2 * most + 1) for left in range(2 * most + 1)
    ]
    return [*windows, *(window.flip(-1) for window in windows)]


def test_every_image_is_moved_and_mirrored_by_itself():
    torch.manual_seed(0)
    images = torch.randint(256, (64, 3, 8, 10), dtype=torch.uint8)
    changed = shift_and_mirror(images, 2)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    chosen = set()
    for image, found in zip(images, changed, strict=True):
        places = [place for place, wanted in enumerate(candidates(image, 2)) if torch.equal(wanted, found)]
        assert len(places) == 1
        chosen.add(places[0])
    assert len(chosen) > 25, "of 50 moves, 64 images should show most"
    assert {place // 25 for place in chosen} == {0, 1}


def test_without_a_shift_images_are_only_mirrored():
    images = torch.randint(256, (16, 3, 4, 4), dtype=torch.uint8)
    for image, found in zip(images, shift_and_mirror(images, 0), strict=True):
        assert torch.equal(found, image) or torch.equal(found, image.flip(-1))


def test_in_a_test_images_are_normalised_and_enlarged_and_nothing_else():
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    prepare = BatchImages(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0], sizes=[48, 64])
    batch = prepare(dict(inputs=images, labels=torch.tensor([1, 2])))
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 4.0, 8.0])
    wanted = torch.nn.functional.interpolate(
        (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), scale_factor=2, mode="bilinear"
    )
    torch.testing.assert_close(batch["inputs"], wanted)
    assert batch["labels"].tolist() == [1, 2]


@pytest.mark.parametrize("step, side", [(0, 32), (24, 32), (25, 40), (74, 48), (75, 64), (99, 64), (100, 64)])
def test_a_training_goes_through_the_sizes_in_equal_stretches(hub, step, side):
    hub.update_info_dict(dict(iter=step, max_iters=100))
    prepare = BatchImages(**PLAIN, sizes=[32, 40, 48, 64])
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert prepare(dict(inputs=images), training=True)["inputs"].shape[-2:] == (side, side)
    assert prepare(dict(inputs=images))["inputs"].shape[-2:] == (64, 64)


def test_what_is_only_rehearsed_has_the_largest_size(hub):
    hub.update_info_dict(dict(iter=0, max_iters=0))
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert BatchImages(**PLAIN, sizes=[32, 64])(dict(inputs=images), training=True)["inputs"].shape[-1] == 64


def test_the_same_seed_gives_the_same_batch():
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    prepare = BatchImages(**PLAIN, sizes=[32])
    batches = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        batches.append(prepare(dict(inputs=images), training=True)["inputs"])
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("sizes", [[], [16, 64]])
def test_sizes_that_no_backbone_takes_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 32"):
        BatchImages(**PLAIN, sizes=sizes)
