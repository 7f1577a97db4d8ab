"""The embedded data set: drawn scenes in the COCO layout, so that any COCO tool reads them.

A scene is a textured background with a few objects of six shape classes. Colour and texture say nothing about the
class; only the outline does. Objects are painted one over another, and a mask is exactly the set of pixels that show
its object.

    <root>/annotations/instances_{train,val}.json   COCO instances: compressed RLE, category ids 1..6
    <root>/{train,val}/000001.jpg …                 images
    <root>/{train,val}_labels/000001.png …          label maps: 0 background, 1..6 the category ids
    <root>/scenes.json                              the parameters of the data set
"""

import colorsys
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# Part of a data set's identity: raise it whenever the same seed draws other pixels, so that old caches are not reused.
RENDERER = 7

SPLITS = ("train", "val")
SCALE_RANGE = (0.14, 0.6)  # an object's diameter as a share of the short side: 22 to 96 pixels of 160
MIN_VISIBLE = 0.5  # of the object's whole area; less than that is not recognizable
MIN_AREA = 0.0014  # of the image: 50 pixels of 192 x 192
ATTEMPTS = 20  # places tried for one object before the scene goes without it
SUPERSAMPLING = 4
HUE_SPREAD = 0.045  # standard deviation of an object's hue; two classes are 0.17 apart on the circle of 1
LIGHT = (-0.6, -0.8)  # where the light comes from, (x, y); shadows fall the other way


def _polygon(radii, start: float = 0.0) -> np.ndarray:
    """Corners at equal angles with the given radii, (len(radii), 2)."""
    angles = start + np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None]


_ARM = 0.33
_CROSS = [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1)]

# Class name -> outlines that fit the circle of radius 1, each (points, 2); a second outline is a hole.
SHAPES: dict[str, list[np.ndarray]] = {
    "disk": [_polygon([0.95] * 72)],
    "square": [_polygon([1.15] * 4, np.pi / 4)],
    "triangle": [_polygon([1.15] * 3)],
    "star": [_polygon([1.1, 0.46] * 5)],
    "ring": [_polygon([1.0] * 72), _polygon([0.54] * 72)],
    "cross": [np.array(_CROSS + [(-x, -y) for x, y in _CROSS])],
}
CLASSES = tuple(SHAPES)


# --- patterns: (rng, turned pixel coordinates u and v (h, w), period in pixels) -> mix of two colours, 0..1 (h, w) ---


def _solid(rng, u, v, period):
    return np.zeros_like(u)


def _stripes(rng, u, v, period):
    return np.clip(0.5 + period / 5 * np.sin(u * (2 * np.pi / period)), 0, 1)  # steep sine: an edge about a pixel wide


def _checker(rng, u, v, period):
    waves = np.sin(u * (np.pi / period)) * np.sin(v * (np.pi / period))
    return np.clip(0.5 + period / 3 * waves, 0, 1)


def _noise(rng, u, v, period):
    height, width = u.shape
    coarse = rng.random((int(height / period) + 2, int(width / period) + 2), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _gradient(rng, u, v, period):
    return (u - u.min()) / max(np.ptp(u), 1)


PATTERNS = {"solid": _solid, "stripes": _stripes, "checker": _checker, "noise": _noise, "gradient": _gradient}


def _draw_pattern(rng: np.random.Generator, shape: tuple[int, int], colours, period: float) -> np.ndarray:
    """A random pattern between two RGB colours at a random angle: float32 (h, w, 3), 0..255."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y.astype(np.float32), x.astype(np.float32)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    # NumPy's own scalars would widen the fields to float64.
    cos, sin, phase, period = float(np.cos(angle)), float(np.sin(angle)), float(phase), float(period)
    u, v = x * cos + y * sin + phase, y * cos - x * sin + phase
    pattern = PATTERNS[rng.choice(list(PATTERNS))]
    return colours[0] + pattern(rng, u, v, period)[..., None] * (colours[1] - colours[0])


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255


def _background(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Muted and low in contrast, with soft clouds of light: float32 (h, w, 3), 0..255."""
    hue, saturation, value = rng.random(), rng.uniform(0.03, 0.3), rng.uniform(0.35, 0.88)
    near = value + rng.choice([-1, 1]) * rng.uniform(0.04, 0.1)
    colours = _rgb(hue, saturation, value), _rgb(hue + rng.uniform(-0.1, 0.1), saturation, near)
    canvas = _draw_pattern(rng, shape, colours, rng.uniform(0.06, 0.2) * min(shape))
    clouds = cv2.resize(rng.random((4, 4), dtype=np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return canvas * (0.86 + 0.24 * clouds[..., None])


def _object_colours(rng: np.random.Generator, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Two kindred colours: a pattern that stood out more than the outline would hide the shape.

    A class leans towards a hue, as fruit does, so that a small model sees something within minutes; the hues of
    neighbouring classes overlap, and the shape has to decide.
    """
    hue = rng.normal(label / len(CLASSES), HUE_SPREAD)
    saturation, value = rng.uniform(0.5, 0.95), rng.uniform(0.75, 1.0)
    second = (hue + rng.uniform(-0.08, 0.08), saturation * rng.uniform(0.7, 1), value * rng.uniform(0.65, 0.85))
    return _rgb(hue, saturation, value), _rgb(*second)


def _paint(rng: np.random.Generator, canvas: np.ndarray, coverage: np.ndarray, radius: float, label: int) -> None:
    """Paint an object onto `canvas` (h, w, 3), in place; `coverage` (h, w), 0..1, says how much of a pixel it fills."""
    soft = cv2.GaussianBlur(coverage, (0, 0), max(1.0, radius * 0.07), borderType=cv2.BORDER_REPLICATE)
    step = max(1.0, radius * 0.1)
    shift = np.float32([[1, 0, -LIGHT[0] * step], [0, 1, -LIGHT[1] * step]])
    shadow = cv2.warpAffine(soft, shift, soft.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    canvas *= 1 - 0.45 * shadow[..., None]

    texture = _draw_pattern(rng, coverage.shape, _object_colours(rng, label), max(5.0, radius * rng.uniform(0.25, 0.5)))
    texture *= 0.94 + 0.5 * (soft - shadow)[..., None]  # the side towards the light is brighter: a bevel
    canvas += coverage[..., None] * (texture - canvas)


def _propose(rng: np.random.Generator, label: int, shape: tuple[int, int]) -> tuple[list[np.ndarray], float]:
    """Random size, turn, squash and place: outlines in pixels, each (points, 2) as (x, y), and the radius."""
    radius = np.exp(rng.uniform(*np.log(SCALE_RANGE))) * min(shape) / 2
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.12, 0.88, 2) * shape[::-1]
    return [outline * (1, squash) @ turn.T * radius + centre for outline in SHAPES[CLASSES[label]]], radius


def _window(outlines: list[np.ndarray], margin: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The part of the image (rows, columns) that the outlines and a margin around them take."""
    low = np.floor(np.clip(outlines[0].min(0) - margin, 0, np.array(shape[::-1]) - 1)).astype(int)
    high = np.ceil(np.clip(outlines[0].max(0) + margin, low + 1, shape[::-1])).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _coverage(outlines: list[np.ndarray], window: tuple[slice, slice]) -> np.ndarray:
    """How much of each pixel of the window lies inside the outlines: float32 (h, w), 0..1."""
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # fillPoly counts from pixel centres in 1/16 pixels (shift 4); two outlines at once leave the inner one empty.
    points = [((o - (columns.start, rows.start)) * SUPERSAMPLING - 0.5) * 16 for o in outlines]
    cv2.fillPoly(fine, [p.round().astype(np.int32) for p in points], 255, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _area(outlines: list[np.ndarray]) -> float:
    """Of the whole object, whether or not it lies in the image."""
    outer, *holes = (abs(cv2.contourArea(o.astype(np.float32))) for o in outlines)
    return outer - sum(holes)


def render_scene(
    rng: np.random.Generator, size: tuple[int, int] = (192, 192), objects: tuple[int, int] = (2, 6)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one scene: image uint8 RGB (h, w, 3), masks bool (n, h, w), labels int64 (n,), positions in `CLASSES`.

    Masks never overlap; the first object lies at the back. `size` is (h, w), at least 32 each. `objects` is the least
    and the most number of objects; where no place is found for one that leaves it and all others at least half
    visible, the scene goes without it.
    """
    if min(size) < 32:
        raise ValueError(f"scene size {size[0]}x{size[1]} is too small to draw in; use 32x32 or more")
    canvas = _background(rng, size)
    owner = np.full(size, -1)  # which object each pixel shows
    labels, areas = [], []
    for _ in range(rng.integers(objects[0], objects[1] + 1)):
        label = int(rng.integers(len(CLASSES)))
        for _ in range(ATTEMPTS):
            outlines, radius = _propose(rng, label, size)
            window = _window(outlines, 0.4 * radius + 3, size)  # room for the shadow
            coverage = _coverage(outlines, window)
            after = owner.copy()
            after[window][coverage >= 0.5] = len(labels)
            visible = np.bincount(after.ravel() + 1, minlength=len(labels) + 2)[1:]
            whole = [*areas, _area(outlines)]
            if (visible >= np.maximum(MIN_VISIBLE * np.array(whole), MIN_AREA * after.size)).all():
                _paint(rng, canvas[window], coverage, radius, label)
                owner, areas = after, whole
                labels.append(label)
                break
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * 3
    image = np.clip(canvas, 0, 255).round().astype(np.uint8)
    masks = owner == np.arange(len(labels))[:, None, None]
    return image, masks, np.array(labels, np.int64)


def label_map(masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The scene as a semantic label map, uint8 (h, w): 0 background, `label + 1` where an object shows."""
    return (masks * (labels[:, None, None] + 1)).sum(0).astype(np.uint8)


def write_scenes(
    root: Path,
    train: int = 512,
    val: int = 128,
    size: int = 192,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set to the folder `root` and return `root`; a data set that is there already is reused.

    The scenes are drawn into a sibling folder that is renamed when it is complete, so that a killed process leaves no
    half data set behind, and processes that start together do not disturb each other. Scene i of a split depends on
    `size`, `seed` and i alone, not on how many scenes there are.

    Args:
        root: folder to write, in the layout that the module's docstring shows.
        train: number of scenes in the training split.
        val: number of scenes in the validation split.
        size: side of the square images in pixels.
        seed: another seed draws other scenes.
        progress: called as `progress(done, total)` after each scene.

    Raises:
        FileExistsError: `root` holds anything but this very data set.
        ValueError: a split without scenes, or a size under 32.
    """
    root, counts = Path(root), {"train": train, "val": val}
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count} scenes; ask for at least 1")
    parameters = _parameters(train, val, size, seed)
    _remove_stale_partials(root)
    if _holds(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.{secrets.token_hex(4)}.partial")
    try:
        done = 0
        for stream, split in enumerate(SPLITS):
            for folder in (split, f"{split}_labels"):
                (partial / folder).mkdir(parents=True)
            records = []
            for number in range(1, counts[split] + 1):
                image, masks, labels = render_scene(np.random.default_rng([seed, stream, number]), (size, size))
                name = f"{number:06d}"
                _write_image(partial / split / f"{name}.jpg", image[..., ::-1])
                _write_image(partial / f"{split}_labels" / f"{name}.png", label_map(masks, labels))
                records.append((number, f"{name}.jpg", masks, labels))
                done += 1
                if progress:
                    progress(done, train + val)
            (partial / "annotations").mkdir(exist_ok=True)
            _write_json(partial / "annotations" / f"instances_{split}.json", _coco(records, size))
        _write_json(partial / "scenes.json", parameters)
        try:
            partial.rename(root)  # replaces nothing but an empty folder
        except OSError:
            if not _holds(root, parameters):  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def scenes_root(
    cache: Path | None = None,
    train: int = 512,
    val: int = 128,
    size: int = 192,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The data set's folder in the cache, written if it is not there yet; parameters as in `write_scenes`.

    The cache is `cache`, else the environment variable HYBRID_DENSE_CACHE, else ~/.cache/hybrid_dense. Other parameters
    give another folder.
    """
    cache = Path(cache or os.environ.get("HYBRID_DENSE_CACHE") or "~/.cache/hybrid_dense").expanduser()
    identity = json.dumps(_parameters(train, val, size, seed), sort_keys=True)
    name = f"scenes_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return write_scenes(cache / name, train, val, size, seed, progress)


def _parameters(train: int, val: int, size: int, seed: int) -> dict:
    return {"renderer": RENDERER, "train": train, "val": val, "size": size, "seed": seed}


def _holds(root: Path, parameters: dict) -> bool:
    """Whether `root` is this data set, complete; False where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "scenes.json").read_text())
    except (OSError, ValueError):
        raise FileExistsError(f"{root} is in the way and is no scenes data set; name another folder") from None
    if found != parameters:
        raise FileExistsError(f"{root} holds scenes with {found}, not {parameters}; name another folder or delete it")
    return True


def _remove_stale_partials(root: Path) -> None:
    """Clear away what killed processes left; younger than an hour may belong to a living one."""
    for partial in root.parent.glob(f".{root.name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its owner may finish at this moment
            if partial.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(partial, ignore_errors=True)


def _coco(records: list[tuple[int, str, np.ndarray, np.ndarray]], size: int) -> dict:
    """(image id, file name, masks, labels) of every scene as a COCO instances dict."""
    images, annotations = [], []
    for image_id, file_name, masks, labels in records:
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        codes = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
        for code, label in zip(codes, labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "area": int(coco_mask.area(code)),
                    "iscrowd": 0,
                    "segmentation": {"size": [size, size], "counts": code["counts"].decode("ascii")},
                }
            )
    categories = [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES)]
    info = {"description": "hybrid_dense drawn scenes", "version": str(RENDERER)}
    return {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _write_image(path: Path, pixels: np.ndarray) -> None:
    # imencode and write, as imwrite reports a full disk only by a return value.
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    path.write_bytes(cv2.imencode(path.suffix, pixels, parameters)[1])


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))
