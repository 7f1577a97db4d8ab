"""A self-contained HTML page about a data set: what was found, with pictures of it, and what is in it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

THUMBNAIL = 280  # pixels of the long side
MAX_PIXELS = 40_000_000  # larger images are not decoded for a thumbnail
WRONG = (230, 30, 60)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1f24;
  background: #fff; color-scheme: light; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d0d7de; } h3 { margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .25rem .8rem .25rem 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid #eaeef2; } td.number { text-align: right; white-space: nowrap; }
.error { color: #b3123a; font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; } .note { color: #57606a; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; max-width: 280px; }
figure img { max-width: 100%; display: block; } figcaption { font-size: 12px; color: #424a53;
  overflow-wrap: anywhere; } .wide figure { max-width: 420px; }
.bar { background: #4878a8; height: .8rem; min-width: 1px; }
.unseen { width: 200px; height: 120px; display: grid; place-items: center; background: #eaeef2; color: #57606a; }
"""


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG, None where there is nothing to see, and the line below it."""

    image: bytes | None
    caption: str


@dataclass(frozen=True)
class Section:
    """The findings of one kind."""

    kind: str
    severity: str
    meaning: str
    count: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Chart:
    """Counts with names, drawn as bars."""

    title: str
    counts: Mapping[str, int]


def write_page(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    charts: Sequence[Chart] = (),
    samples: Sequence[Picture] = (),
) -> Path:
    """Write the page; every text is escaped and every picture is inside the file."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>',
        '<meta name="viewport" content="width=device-width">',
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p>",
        _summary(sections),
        *(_section(section) for section in sections),
    ]
    if samples:
        parts.append("<h2>As the model sees it</h2><p>Images after the training pipeline.</p>")
        parts.append(f'<div class="pictures wide">{"".join(map(_figure, samples))}</div>')
    if charts:
        parts += ["<h2>What is in it</h2>", *(_chart(chart) for chart in charts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name may hold bytes that are no text.
    path.write_text("\n".join([*parts, "</html>"]), encoding="utf-8", errors="replace")
    return path


def draw_thumbnail(path: Path, box: tuple[float, float, float, float] | None = None) -> bytes | None:
    """A small JPEG of an image with one box drawn into it; None where nothing of the image can be decoded.

    A box without area is circled. Edges beyond the image are drawn at its edge.
    """
    pixels = _read(path)
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    if box is not None and all(map(math.isfinite, box)):
        draw = ImageDraw.Draw(image)
        xs = sorted(min(max(value * scale, 0), size[0] - 1) for value in box[::2])
        ys = sorted(min(max(value * scale, 0), size[1] - 1) for value in box[1::2])
        if xs[1] - xs[0] < 3 or ys[1] - ys[0] < 3:
            draw.ellipse((xs[0] - 9, ys[0] - 9, xs[1] + 9, ys[1] + 9), outline=WRONG, width=2)
        draw.rectangle((xs[0], ys[0], xs[1], ys[1]), outline=WRONG, width=2)
    return to_jpeg(image)


def to_jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _read(path: Path) -> np.ndarray | None:
    """RGB pixels, upright, of whatever of the file OpenCV can decode: the whole part of a truncated JPEG too."""
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                return None
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    # Damaged files make decoders raise whatever they like, and the page shows what it can.
    except Exception:
        return None
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _summary(sections: Sequence[Section]) -> str:
    if not sections:
        return "<p>Nothing was found.</p>"
    rows = "".join(
        f'<tr><td><a href="#{escape(section.kind)}">{escape(section.kind)}</a></td>'
        f'<td class="{escape(section.severity)}">{escape(section.severity)}</td>'
        f'<td class="number">{section.count:,}</td><td>{escape(section.meaning)}</td></tr>'
        for section in sections
    )
    return f"<table><tr><th>finding</th><th>severity</th><th>count</th><th>meaning</th></tr>{rows}</table>"


def _section(section: Section) -> str:
    more = section.count - len(section.pictures)
    rest = f"<p>and {more:,} more, in the JSON</p>" if more > 0 else ""
    return (
        f'<h2 id="{escape(section.kind)}">{escape(section.kind)} <span class="{escape(section.severity)}">'
        f"{section.count:,}</span></h2><p>{escape(section.meaning)}</p>"
        f'<div class="pictures">{"".join(map(_figure, section.pictures))}</div>{rest}'
    )


def _figure(picture: Picture) -> str:
    if picture.image is None:
        seen = '<div class="unseen">nothing to show</div>'
    else:
        kind = "png" if picture.image.startswith(b"\x89PNG") else "jpeg"
        seen = f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(picture.image).decode()}">'
    return f"<figure>{seen}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _chart(chart: Chart) -> str:
    most = max(chart.counts.values(), default=0) or 1
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{count:,}</td>'
        f'<td><div class="bar" style="width:{round(400 * count / most)}px"></div></td></tr>'
        for name, count in chart.counts.items()
    )
    return f"<h3>{escape(chart.title)}</h3><table>{rows}</table>"
