"""``categories.json``: the classes of a VOC or mask folder, which have no place for them of their own.

    {"categories": [{"id", "name", "supercategory", "value"}, …], "unlabelled": 255}

``value`` is the class's number in label maps. Where the file is missing, VOC's classes are the names found, sorted.
"""

from __future__ import annotations

import json
from pathlib import Path

from hybrid_dense.data.formats.model import Category

NAME = "categories.json"


def write_sidecar(folder: Path, values: dict[Category, int], unlabelled: int | None) -> None:
    rows = [{"id": c.id, "name": c.name, "supercategory": c.supercategory, "value": v} for c, v in values.items()]
    text = json.dumps({"categories": rows, "unlabelled": unlabelled}, ensure_ascii=False, indent=1)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_sidecar(folder: Path) -> tuple[dict[Category, int], int | None] | None:
    """The classes with their numbers in label maps, and the number for "of no class"; None if there is no such file.

    Raises:
        ValueError: the file is not of this form.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = content["categories"]
        values = {Category(row["id"], row["name"], row.get("supercategory", "")): row["value"] for row in rows}
        return values, content.get("unlabelled")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a list of classes as convert-data writes it: {error!r}") from error
