"""Export a trained model as one file, or look into a checkpoint. Nothing in a checkpoint is run.

  hybrid-dense weights export work_dirs/demo/epoch_6.pth --config configs/demo.py -o model.safetensors
  hybrid-dense predict model.safetensors street.jpg --out found
  hybrid-dense weights show model.safetensors
  hybrid-dense weights show camvid                                              shipped with the package

An export holds the weights and a model card: the model's config as data, its classes, its metrics, how it was trained.
The card is written beside it too, as model.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hybrid_dense.cli.arguments import add_trust_argument


def build_parser(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    export = actions.add_parser("export", help="write weights and model card as .safetensors")
    export.add_argument("checkpoint", type=Path, help="weights (.pth or .safetensors)")
    export.add_argument("--config", type=Path, required=True, help="config that they were trained with")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .safetensors")
    export.add_argument("--half", action="store_true", help="matrices and kernels as float16: half the size")
    export.add_argument(
        "--ema",
        action="store_true",
        help="the averaged weights, where they lie beside the model's; mmengine's EMAHook saves them as the model",
    )
    export.add_argument(
        "--metrics",
        type=Path,
        help="figures for the card; that of a study's run says how it was trained too (default: metrics.json beside "
        "the checkpoint)",
    )
    export.add_argument("--licence", "--license", metavar="TEXT", help="of the weights, for the card")
    export.add_argument("--data", metavar="TEXT", help="the data set they were trained on, for the card")
    export.add_argument("--limits", metavar="TEXT", help="what they are not fit for, for the card")
    add_trust_argument(export)

    show = actions.add_parser("show", help="what a checkpoint holds")
    show.add_argument("checkpoint", type=Path, help=".pth or .safetensors, or the name of a shipped model")
    show.add_argument("--all", action="store_true", help="every tensor, not parts of the model")
    add_trust_argument(show)


def run(args: argparse.Namespace) -> int:
    import hybrid_dense

    hybrid_dense.register_all_modules()
    return (run_export if args.action == "export" else run_show)(args)


def run_export(args: argparse.Namespace) -> int:
    from hybrid_dense.cli.session import read_config
    from hybrid_dense.model_card import card_path
    from hybrid_dense.weights.export import export

    said = dict(licence=args.licence, data=args.data, limits=args.limits)
    options = dict(half=args.half, ema=args.ema, metrics=args.metrics, **said)
    card = export(args.checkpoint, read_config(args.config), args.out, **options, trust=args.trust_checkpoint)
    size = args.out.stat().st_size / 2**20
    print(
        f"{args.out}: {card.parameters / 1e6:.2f} M parameters, {len(card.classes)} classes, {card.dtype}, "
        f"{size:.1f} MiB; the card alone: {card_path(args.out)}"
    )
    if card.metrics_from and args.metrics is None:
        print(f"metrics are those of {args.checkpoint.parent / card.metrics_from}; --metrics names another file")
    return 0


def run_show(args: argparse.Namespace) -> int:
    from safetensors.torch import load_file

    from hybrid_dense.engine.checkpoint import safe_load, take_weights
    from hybrid_dense.model_zoo import SUFFIX, locate
    from hybrid_dense.report.tables import print_table

    path = locate(args.checkpoint)
    content = safe_load(path, args.trust_checkpoint)
    weights = take_weights(path, content).weights
    if path.suffix == SUFFIX:  # whatever it holds has been read as float32
        stored = load_file(path)
        weights = {name: stored.get(name, value) for name, value in weights.items()}
    rows = tensor_rows(weights) if args.all else part_rows(weights)
    header = ("tensor", "shape", "type", "MiB") if args.all else ("part", "tensors", "values (M)", "type", "MiB")
    print_table(f"{path}: {len(weights)} tensors", header, rows, sections=[len(rows) - 2])
    for name, text in notes(content):
        print(f"{name}: {text}")
    return 0


def tensor_rows(weights: dict) -> list[tuple[str, ...]]:
    rows = [
        (name, "×".join(map(str, value.shape)) or "scalar", type_name(value), mebibytes([value]))
        for name, value in weights.items()
    ]
    return [*rows, ("total", "", "", mebibytes(weights.values()))]


def part_rows(weights: dict, depth: int = 2) -> list[tuple[str, ...]]:
    """Tensors under the same first two names, such as `backbone.cnn`, are a row."""
    parts: dict[str, list] = {}
    for name, value in weights.items():
        parts.setdefault(".".join(name.split(".")[:-1][:depth]) or name, []).append(value)
    rows = [part_row(part, values) for part, values in parts.items()]
    return [*rows, part_row("total", list(weights.values()))]


def part_row(part: str, values: list) -> tuple[str, ...]:
    types = " ".join(dict.fromkeys(map(type_name, values)))
    millions = sum(value.numel() for value in values) / 1e6
    return part, str(len(values)), f"{millions:.2f}", types, mebibytes(values)


def type_name(value) -> str:
    return str(value.dtype).removeprefix("torch.")


def mebibytes(values) -> str:
    return f"{sum(value.numel() * value.element_size() for value in values) / 2**20:.2f}"


def notes(content: dict) -> list[tuple[str, str]]:
    """What the file says beside its weights: the card or the meta, each in a line; long texts by their length."""
    meta = content.get("meta")
    meta = dict(meta) if isinstance(meta, dict) else {}
    card = meta.pop("card", None)
    if card is not None:
        meta |= {name: value for name, value in card.items() if name != "config"}
        meta.pop("dataset_meta", None)
    others = [str(name) for name in content if name not in ("meta", "state_dict")] if "state_dict" in content else []
    found = [(str(name), shorten(value)) for name, value in meta.items()]
    return [*found, *([("also holds", ", ".join(others))] if others else [])]


def shorten(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    if "\n" in text:
        return f"a text of {text.count(chr(10)) + 1} lines"
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
