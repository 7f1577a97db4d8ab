"""The table of the models that come with the package, from their cards."""

from __future__ import annotations

from hybrid_dense.model_zoo import read_cards, weights_of
from hybrid_dense.report.tables import markdown_table

TASKS = {"mmdet": "detection", "mmseg": "semantic segmentation"}
HEADER = ("name", "task", "classes", "parameters (M)", "MiB", "measured", "minutes", "trained by")


def shipped_table() -> str:
    """A row a shipped model in Markdown, or a line that there is none."""
    rows = [_row(name, card) for name, card in read_cards().items()]
    return markdown_table(HEADER, rows) if rows else "No trained model is shipped yet."


def _row(name: str, card: dict) -> tuple[str, ...]:
    score, training = card["score"], card["training"]
    return (
        f"`{name}`",
        TASKS[card["config"]["default_scope"]],
        str(len(card["classes"])),
        f"{card['parameters'] / 1e6:.2f}",
        f"{weights_of(name).stat().st_size / 2**20:.1f}",
        f"{score['split']} {score['name']} {score['value']:.4f}",
        f"{training['minutes']:.1f}",
        f"`{training['command']}`",
    )
