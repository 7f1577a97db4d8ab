"""The picture of a learning-rate sweep."""

import numpy as np
from PIL import Image

from hybrid_dense.report.lr_sweep import save_lr_sweep

RATES = np.geomspace(1e-7, 1, 80).tolist()


def draw(path, losses, **marks):
    return np.asarray(Image.open(save_lr_sweep(RATES, losses, losses, marks, path)).convert("RGB"))


def test_the_fall_is_seen_although_the_end_explodes(tmp_path):
    fall = np.linspace(5, 1, 80).tolist()
    picture = draw(tmp_path / "new/exploded.png", [*fall[:70], *[1e9] * 10])
    height, width = picture.shape[:2]
    curve = (picture[:, width // 6 : width // 2] < 40).all(2)  # left of the explosion, right of the axis
    rows = np.flatnonzero(curve.sum(1) > 2)
    rows = rows[rows < 0.8 * height]  # below are the axis and its words
    assert rows.max() - rows.min() > 0.2 * height


def test_marks_are_drawn_where_their_rates_are(tmp_path):
    losses = np.linspace(5, 1, 80).tolist()
    plain = draw(tmp_path / "plain.png", losses)
    marked = draw(tmp_path / "marked.png", losses, steepest=1e-4)
    columns = np.flatnonzero((plain != marked).any((0, 2)))
    blue = (np.abs(marked.astype(int) - (0x00, 0x72, 0xB2)) < 30).all(2)
    place = np.median(np.flatnonzero(blue.sum(0) > 50)) / marked.shape[1]
    assert len(columns) and 0.4 < place < 0.6  # 1e-4 is three sevenths of the axis
