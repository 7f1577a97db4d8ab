"""Run a trained model over images and write what it sees: pictures and a JSON.

  hybrid-dense predict CONFIG CHECKPOINT street.jpg photos/ --out found
  hybrid-dense predict model.safetensors street.jpg photos/ --out found      exported: it brings its config
  hybrid-dense predict camvid street.jpg photos/ --out found                 shipped with the package

A detector writes DIR/predictions.json in COCO's result format and DIR/index.json with the images and categories that
its ids mean, so that pycocotools' COCO("index.json").loadRes("predictions.json") works. A semantic model writes a label
map DIR/<stem>_labels.png for each image and DIR/label_maps.json with the class names.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

from hybrid_dense.cli.arguments import add_precision_arguments, add_trust_argument
from hybrid_dense.model_zoo import list_models, locate


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "hybrid-dense predict (CONFIG CHECKPOINT | MODEL.safetensors | NAME) INPUT [INPUT ...] --out DIR [options]"
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="config and checkpoint (.pth or .safetensors; no code in it is run), or an exported .safetensors alone, "
        f"or a shipped model: {', '.join(list_models()) or 'none yet'}",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files and folders of images")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for everything that is written")
    parser.add_argument("--min-score", type=float, default=0.3, help="leave out detections below it; default 0.3")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (the default)")
    add_precision_arguments(parser, default="fp32")
    parser.add_argument("--no-pictures", action="store_true", help="write the JSON and label maps alone")
    parser.add_argument("--batch-size", type=int, default=1, help="images of one size to run at once; default 1")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    import hybrid_dense
    from hybrid_dense.cli import CommandError
    from hybrid_dense.inference import Predictor, is_exported

    exported = is_exported(locate(args.model))
    weights, inputs = (None, args.inputs) if exported else (args.inputs[0], args.inputs[1:])
    if not inputs:
        raise CommandError(f"no images given: hybrid-dense predict {args.model} {weights} INPUT … --out {args.out}")
    files = _find_files(inputs, args.out)
    hybrid_dense.register_all_modules()
    options = (args.device, args.min_score, args.amp, args.batch_size, args.trust_checkpoint)
    predictor = Predictor(args.model, weights, *options)
    writer = _Writer(args.out, predictor.class_names, args.min_score, pictures=not args.no_pictures)
    progress = Progress(TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress, _skips_printed_by(progress):
        for prediction in predictor.stream(progress.track(files)):
            writer.add(prediction)
    if not writer.images:
        raise ValueError(f"none of the {len(files)} images could be read; nothing was written")
    print(writer.finish(skipped=len(files) - len(writer.images)))
    return 0


def _find_files(inputs: list[str], out: Path) -> list[Path]:
    """Every image file that the inputs name, checked before any long work."""
    from hybrid_dense.inference import list_images

    for name in inputs:
        if not Path(name).exists():
            raise FileNotFoundError(f"no such image or folder: {name}")
    files = [Path(file) for file in list_images(inputs)]
    if any(file.parent.resolve() == out.resolve() for file in files):
        raise ValueError(f"--out {out} holds input images, which the pictures could overwrite; name another folder")
    return files


@contextmanager
def _skips_printed_by(progress):
    """Print a skipped image as one line above the progress bar."""
    from hybrid_dense.inference import SkippedImageWarning

    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_above(message, category, *place):
            if issubclass(category, SkippedImageWarning):
                progress.console.print(str(message), markup=False, soft_wrap=True)
            else:
                show(message, category, *place)

        warnings.simplefilter("always", SkippedImageWarning)
        warnings.showwarning = show_above
        yield


class _Writer:
    """Writes pictures and label maps as they come and the JSON files at the end."""

    def __init__(self, folder: Path, class_names: tuple[str, ...], min_score: float, pictures: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.class_names, self.min_score, self.pictures = folder, class_names, min_score, pictures
        self.images, self.results, self._names = [], [], set()

    def add(self, prediction) -> None:
        name = self._unique_name(Path(prediction.path).stem)
        height, width = prediction.image.shape[:2]
        image = {"id": len(self.images) + 1, "file_name": prediction.path, "width": width, "height": height}
        if prediction.label_map is None:
            self.results += prediction.to_coco(image["id"])
        else:
            image["label_map"] = f"{name}_labels.png"
            self._write_label_map(prediction.label_map, self.folder / image["label_map"])
        if self.pictures:
            prediction.draw(self.folder / f"{name}.png", self.min_score)
        self.images.append(image)

    def finish(self, skipped: int) -> str:
        """Write the JSON files; returns one line on what there is now."""
        if "label_map" in self.images[0]:
            found, main = f"{len(self.images)} label maps", "label_maps.json"
            _write_json(self.folder / main, {"classes": self.class_names, "images": self.images})
        else:
            found, main = f"{len(self.results)} detections", "predictions.json"
            # The ids that Prediction.to_coco gives by default.
            categories = [{"id": index, "name": name} for index, name in enumerate(self.class_names, start=1)]
            index = {"images": self.images, "annotations": [], "categories": categories}
            _write_json(self.folder / "index.json", index)
            _write_json(self.folder / main, self.results)
        pictures = ", a picture each" if self.pictures else ""
        left_out = f"; {skipped} skipped" if skipped else ""
        return f"{len(self.images)} images, {found} in {self.folder / main}{pictures}{left_out}"

    def _unique_name(self, stem: str) -> str:
        """A file stem that neither a picture nor a label map has taken yet: two inputs may share theirs."""
        name, number = stem, 1
        while {name, f"{name}_labels"} & self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names |= {name, f"{name}_labels"}
        return name

    def _write_label_map(self, label_map, path: Path) -> None:
        from PIL import Image

        # 255 is "ignore", so 8 bits hold 255 classes.
        Image.fromarray(label_map.astype("uint8" if len(self.class_names) <= 255 else "uint16")).save(path)


def _write_json(path: Path, content) -> None:
    """Written beside and moved, so that a reader or a crash never meets half a file."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content))
    os.replace(part, path)
