"""Pictures of predictions: boxes, masks and label maps over their image, alone or beside the ground truth."""

import colorsys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from hybrid_dense.prediction import IGNORE_LABEL, Prediction

DPI = 100
BACKGROUND = "background"  # a label map's class of this name is left as the image shows it
PANEL = 420  # pixels of a gallery panel's long side
SINGLE = 640  # a single picture is enlarged by whole steps until its long side is about this long
LEGEND_ENTRIES = 12  # the largest classes of a label map that its legend names

# Okabe and Ito, "Color Universal Design" (2008), without black; people who see few colours tell these apart.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def class_colours(class_names: tuple[str, ...]) -> np.ndarray:
    """One fixed RGB colour a class, float (n, 3) in 0..1.

    The first seven are Okabe and Ito's; more classes walk the hues by the golden angle. A class named "background" is
    grey and takes no turn, so that a class has the same colour in a detector's picture and in a label map.
    """
    colours, turn = [], 0
    for name in class_names:
        if name == BACKGROUND:
            colours.append((0.5, 0.5, 0.5))
            continue
        if turn < len(_OKABE_ITO):
            code = _OKABE_ITO[turn]
            colours.append(tuple(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        else:
            colours.append(colorsys.hls_to_rgb(turn * 0.618034 % 1, (0.4, 0.65, 0.52)[turn % 3], 0.75))
        turn += 1
    return np.array(colours).reshape(-1, 3)


def draw_prediction(ax: Axes, prediction: Prediction, min_score: float = 0.3, legend: bool = True) -> None:
    """Draw an image with what was found in it onto `ax`: masks, boxes and names, or the label map as a coloured wash.

    Instances that score under `min_score` are left out; ground truth has no scores and is drawn whole. `legend` names a
    label map's classes in a corner. Place the axes before the call: names are fitted into the picture as it stands.
    """
    height, width = prediction.image.shape[:2]
    prediction = prediction.above(min_score)
    ax.imshow(_tinted(prediction), interpolation="bicubic", extent=(0, width, height, 0))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    _draw_outlines(ax, prediction)
    present = _present_classes([prediction])[:LEGEND_ENTRIES]
    if legend and present:
        style = {"framealpha": 0.75, "borderaxespad": 0.4, "handlelength": 1.0, "handleheight": 1.0}
        ax.legend(handles=_legend_handles(present), loc="lower right", fontsize=_font_size(ax), **style)


def save_prediction(prediction: Prediction, path: str | Path, min_score: float = 0.3) -> Path:
    """Save one picture at its native size times a whole factor that makes small images legible; returns the path."""
    height, width = prediction.image.shape[:2]
    scale = max(1, round(SINGLE / max(height, width)))
    figure = _figure(width * scale, height * scale)
    draw_prediction(_panel(figure, 0, 0, width * scale, height * scale), prediction, min_score)
    return _save(figure, path)


def save_gallery(
    pairs: list[tuple[Prediction, Prediction]],
    path: str | Path,
    titles: tuple[str, str] = ("ground truth", "prediction"),
    min_score: float = 0.3,
) -> Path:
    """Save rows of ground truth beside prediction, one pair a row, or two from four pairs on; returns the path."""
    if not pairs:
        raise ValueError("a gallery of no pictures; give at least one (ground truth, prediction) pair")
    gap, title, columns = 8, 26, 2 if len(pairs) >= 4 else 1
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    heights = [max(_panel_size(p)[1] for pair in row for p in pair) for row in rows]
    present = _present_classes([p for pair in pairs for p in pair])
    across = 2 * columns * (PANEL + gap) + gap + (columns - 1) * 2 * gap  # pairs stand further apart than their halves
    entries = max(1, across // 130)
    legend = 24 * -(-len(present) // entries)
    figure = _figure(across, title + sum(heights) + gap * len(rows) + legend)
    top = title
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            for side, prediction in enumerate(pair):
                left = gap + (2 * column + side) * (PANEL + gap) + column * 2 * gap
                w, h = _panel_size(prediction)
                ax = _panel(figure, left + (PANEL - w) // 2, top + (height - h) // 2, w, h)
                draw_prediction(ax, prediction, min_score, legend=False)
                if row is rows[0]:
                    x, y = (left + PANEL / 2) / across, 1 - (title - 6) / _pixels(figure)[1]
                    figure.text(x, y, titles[side], ha="center", va="bottom", fontsize=10, color="0.2")
        top += height + gap
    if present:
        figure.legend(handles=_legend_handles(present), loc="lower center", ncols=entries, fontsize=9, frameon=False)
    return _save(figure, path)


# --- layers of one picture ---


def _names(prediction: Prediction) -> tuple[str, ...]:
    """The class names, or numbers for them where nobody knows them."""
    held = prediction.labels
    if prediction.label_map is not None:
        held = prediction.label_map[prediction.label_map != IGNORE_LABEL]
    highest = int(held.max()) if held.size else -1
    names = prediction.class_names or tuple(f"class {i}" for i in range(highest + 1))
    if highest >= len(names):
        raise ValueError(
            f"a label map holds class {highest} but there are {len(names)} class names; "
            f"name every class, or mark unlabelled pixels {IGNORE_LABEL}"
        )
    return names


def _tinted(prediction: Prediction) -> np.ndarray:
    """The image, uint8 (h, w, 3), with every mask, or every class of the label map, washed in its colour."""
    names = _names(prediction)
    colours = class_colours(names) * 255
    image = prediction.image.astype(np.float32)
    if prediction.label_map is not None:
        # Over grey, else the image's own colours and the classes' mix to colours that are in no legend.
        grey = image @ np.float32((0.299, 0.587, 0.114))
        for label in np.unique(prediction.label_map):
            if label != IGNORE_LABEL and names[label] != BACKGROUND:
                where = prediction.label_map == label
                image[where] = 0.35 * grey[where, None] + 0.65 * colours[label]
    elif prediction.masks is not None:
        for i in _large_first(prediction):
            where = prediction.masks[i]
            image[where] = 0.55 * image[where] + 0.45 * colours[prediction.labels[i]]
    return image.round().astype(np.uint8)


def _draw_outlines(ax: Axes, prediction: Prediction) -> None:
    """Contours, boxes and names of the instances."""
    if prediction.boxes is None:
        return
    names, order = _names(prediction), _large_first(prediction)
    colours = class_colours(names)[prediction.labels]
    for i in order:
        if prediction.masks is not None and prediction.masks[i].any():
            _draw_contour(ax, prediction.masks[i], colours[i])
        x0, y0, x1, y1 = prediction.boxes[i]
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colours[i], linewidth=1.2))
    for i in order:  # names last, over every box
        score = "" if prediction.scores is None else f" {prediction.scores[i]:.2f}"
        _write_name(ax, prediction.boxes[i], names[prediction.labels[i]] + score, colours[i])


def _large_first(prediction: Prediction) -> np.ndarray:
    """Positions of the instances from the largest box to the smallest, so that small ones come to lie on top."""
    sides = prediction.boxes[:, 2:] - prediction.boxes[:, :2]
    return np.argsort(-sides.prod(1), kind="stable")


def _draw_contour(ax: Axes, mask: np.ndarray, colour: np.ndarray) -> None:
    """The border of a mask (h, w); only the part of the picture that the mask takes is searched."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    closed = np.pad(mask[top:bottom, left:right], 1).astype(float)  # zeros around close a contour at the picture's edge
    centres = np.arange(left - 1, right + 1) + 0.5, np.arange(top - 1, bottom + 1) + 0.5
    ax.contour(*centres, closed, levels=[0.5], colors=[tuple(colour)], linewidths=1.2)


def _write_name(ax: Axes, box: np.ndarray, text: str, colour: np.ndarray) -> None:
    """A name on its colour, at the top of its box and never outside the picture."""
    dark = colour @ (0.299, 0.587, 0.114) < 0.5
    pad = 1.5
    style = {"facecolor": colour, "edgecolor": "none", "alpha": 0.85, "pad": pad}
    label = ax.text(
        box[0], box[1], text, fontsize=_font_size(ax), color="white" if dark else "black", va="bottom", bbox=style
    )
    label.set_clip_on(True)
    frame, extent = ax.get_window_extent(), label.get_window_extent()
    margin = pad * ax.figure.dpi / 72 + 1
    # Display y points up. Too far out on two sides at once, the left and the top win: there the name begins.
    right = min(0, frame.x1 - margin - extent.x1)
    shift_x = max(right, frame.x0 + margin - extent.x0)
    shift_y = min(max(margin, frame.y0 + margin - extent.y0), frame.y1 - margin - extent.y1)
    x, y = ax.transData.transform((box[0], box[1]))
    label.set_position(ax.transData.inverted().transform((x + shift_x, y + shift_y)))


def _font_size(ax: Axes) -> float:
    """In points: about a fiftieth of the axes' long side, never under 6.5."""
    extent = ax.get_window_extent()
    return max(6.5, max(extent.width, extent.height) / 50 * 72 / ax.figure.dpi)


def _present_classes(predictions: list[Prediction]) -> list[tuple[str, tuple[float, float, float]]]:
    """(name, colour) of the classes that the label maps show, most pixels first, without background."""
    pixels: dict[tuple[str, tuple], int] = {}
    for prediction in predictions:
        if prediction.label_map is None:
            continue
        names = _names(prediction)
        colours = class_colours(names)
        for label, count in zip(*np.unique(prediction.label_map, return_counts=True), strict=True):
            if label != IGNORE_LABEL and names[label] != BACKGROUND:
                entry = (names[label], tuple(colours[label]))
                pixels[entry] = pixels.get(entry, 0) + int(count)
    return sorted(pixels, key=pixels.get, reverse=True)


def _legend_handles(entries: list[tuple[str, tuple[float, float, float]]]) -> list[Patch]:
    return [Patch(facecolor=colour, label=name) for name, colour in entries]


# --- figures measured in pixels: no pyplot, so nothing global changes and threads may draw ---


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Figure) -> np.ndarray:
    return figure.get_size_inches() * figure.dpi


def _panel_size(prediction: Prediction) -> tuple[int, int]:
    height, width = prediction.image.shape[:2]
    scale = PANEL / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place counted in pixels from the figure's top left corner."""
    across, down = _pixels(figure)
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
