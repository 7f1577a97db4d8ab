"""Cut a token grid into windows for local attention and put it together again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_dense.layers.kept import kept


@dataclass(frozen=True)
class WindowPlan:
    """How a grid of ``height`` × ``width`` tokens is cut: ``rows`` × ``columns`` windows of ``window`` (h, w) tokens.

    Windows follow the grid: the fewest that are at most ``largest`` tokens wide, all of one size. A 32-token side
    becomes 3 windows of 11 (one padded token), where windows of 14 would pad it to 42.
    """

    height: int
    width: int
    window: tuple[int, int]
    rows: int
    columns: int

    @classmethod
    def fit(cls, height: int, width: int, largest: int) -> WindowPlan:
        rows, window_h = _even_split(height, largest)
        columns, window_w = _even_split(width, largest)
        return cls(height, width, (window_h, window_w), rows, columns)

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of tokens that the grid lacks to fill every window."""
        return self.rows * self.window[0] - self.height, self.columns * self.window[1] - self.width

    def split_heads(self, grid: Tensor, heads: int, channels: int) -> tuple[Tensor, ...]:
        """Cut into windows and heads at once, so that each token is copied once.

        (b, h, w, parts · heads · channels) to ``parts`` tensors (b · windows, heads, window tokens, channels); missing
        tokens are zero.
        """
        (pad_h, pad_w), (window_h, window_w) = self.padding, self.window
        if pad_h or pad_w:
            grid = F.pad(grid, (0, 0, 0, pad_w, 0, pad_h))
        batch, parts = grid.shape[0], grid.shape[-1] // (heads * channels)
        grid = grid.reshape(batch, self.rows, window_h, self.columns, window_w, parts, heads, channels)
        grid = grid.permute(5, 0, 1, 3, 6, 2, 4, 7)
        windows = batch * self.rows * self.columns
        return grid.reshape(parts, windows, heads, window_h * window_w, channels).unbind()

    def merge_heads(self, windows: Tensor) -> Tensor:
        """The inverse: (b · windows, heads, window tokens, channels) to (b, h, w, heads · channels)."""
        heads, channels, (window_h, window_w) = windows.shape[1], windows.shape[3], self.window
        batch = windows.shape[0] // (self.rows * self.columns)  # not len(), which an export would take for a constant
        grid = windows.reshape(batch, self.rows, self.columns, heads, window_h, window_w, channels)
        grid = grid.permute(0, 1, 4, 2, 5, 3, 6)
        grid = grid.reshape(batch, self.rows * window_h, self.columns * window_w, heads * channels)
        return grid if self.padding == (0, 0) else grid[:, : self.height, : self.width]

    def mask(self, batch: int, device: torch.device) -> Tensor | None:
        """Which keys are real tokens, (b · windows, 1, 1, window tokens) bool, or None where no window is padded."""
        return None if self.padding == (0, 0) else _real_tokens(self, batch, device)


@kept
def _real_tokens(plan: WindowPlan, batch: int, device: torch.device) -> Tensor:
    real = torch.ones(1, plan.height, plan.width, 1, dtype=torch.bool, device=device)
    return plan.split_heads(real, 1, 1)[0].repeat(batch, 1, 1, 1).transpose(2, 3)


def _even_split(length: int, largest: int) -> tuple[int, int]:
    """(windows, tokens a window) that cover ``length`` with the least padding; no window is wholly padding."""
    size = math.ceil(length / math.ceil(length / largest))
    return math.ceil(length / size), size
