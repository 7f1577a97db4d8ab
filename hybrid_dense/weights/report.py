"""What became of the weights of a file: matched, resized, missing, mismatched, unexpected, as numbers and a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

# What no file of others has, so that its absence is no gap: residual convolutions, attention in place of convolutions.
OURS_ALONE = re.compile(r"residuals\.|layer4\.\d+\.conv2\.attn\.")
SHOWN = 3
"""Names that a line of the short table shows."""


class CoverageError(ValueError):
    """Too little of a trunk was filled; the message holds the table. The backbone is as it was."""


@dataclass(frozen=True)
class TrunkCoverage:
    """What a source gave to one trunk.

    Attributes:
        trunk: ``"cnn"`` or ``"vit"``.
        source: where the weights came from.
        layout: the recognised layout's name.
        matched: names in the trunk that took the file's value.
        resized: those that took a resized one (position tables, patch kernels, input channels).
        missing: names in the trunk for which the file has nothing; BatchNorm's counters are left out.
        mismatched: names in both, of shapes that do not fit; not loaded.
        unexpected: what the trunk has no place for: heads, decoders, parts it was built without.
        notes: remarks by name, as for ``pos_embed`` "37×37 to 14×14".
        hint: what keeps the trunk from computing what the file's network does: options to build it with, parts that it
            cannot have; "" if nothing does.
        coverage: share of the values in the trunk's parameters and BatchNorm statistics that were filled, 0 to 1.
            Residual convolutions and attention in a bottleneck, which no file of others has, count where they are.
        values: their number.
    """

    trunk: str
    source: str
    layout: str
    matched: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    coverage: float = 0.0
    values: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known that keeps the trunk from computing what the file's network does, but new parts."""
        gaps = [name for name in self.missing if not OURS_ALONE.match(name)]
        return not (gaps or self.mismatched or self.hint)

    def table(self, all: bool = False) -> str:
        """The account as text; ``all`` lists every name instead of the first few."""
        filled = f"{floor_percent(self.coverage)} of {self.values / 1e6:.2f} M values filled"
        lines = [f"{self.trunk} from {self.source} ({self.layout}): {filled}"]
        for kind in ("matched", "resized", "missing", "mismatched", "unexpected"):
            names = getattr(self, kind)
            entries = [f"{name} ({self.notes[name]})" if name in self.notes else name for name in names]
            if not all:
                entries = shorten(group(entries if kind != "matched" else [e for e in entries if e.endswith(")")]))
            lines.append(f"  {kind:<10} {len(names):>5}  {', '.join(entries)}".rstrip())
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class CoverageReport:
    """What ``load_pretrained`` did; ``cnn`` and ``vit`` are None where nothing was asked for them."""

    cnn: TrunkCoverage | None = None
    vit: TrunkCoverage | None = None

    @property
    def trunks(self) -> tuple[TrunkCoverage, ...]:
        return tuple(trunk for trunk in (self.cnn, self.vit) if trunk is not None)

    def table(self, all: bool = False) -> str:
        """The account of both trunks as text; ``all`` lists every name instead of the first few."""
        return "\n".join(trunk.table(all) for trunk in self.trunks)

    def __str__(self) -> str:
        return self.table()


def group(entries: list[str]) -> list[str]:
    """Fold names that differ in a block's number, and all names of a part that is no trunk's, into one with a count."""
    counts: Counter[str] = Counter()
    for entry in entries:
        part = entry.partition(".")[0]
        known = re.fullmatch(r"blocks|layer\d|conv1|bn1|patch_embed|norm|norm_pre|residuals", part)
        counts[without_numbers(entry) if known or " (" in entry else part] += 1
    return [f"{entry} ×{count}" if count > 1 else entry for entry, count in counts.items()]


def without_numbers(name: str) -> str:
    """A weight's name for all blocks and stages."""
    return re.sub(r"(?<=\.)\d+(?=\.)|(?<=^layer)\d", "*", name)


def shorten(entries: list[str]) -> list[str]:
    more = len(entries) - SHOWN
    return [*entries[:SHOWN], f"… {more} more"] if more > 0 else entries


def floor_percent(share: float) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{int(share * 1000) / 10:g} %"
