"""Multi-head self-attention over a token grid, global or in windows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.layers.windows import WindowPlan


class GridAttention(nn.Module):
    """Self-attention, (b, h, w, d) to (b, h, w, d), through ``scaled_dot_product_attention``.

    Args:
        dim: channels d.
        heads: attention heads; ``dim`` must divide by it.
        window: largest side of a window in tokens; 0 attends globally.

    Parameters carry timm's names (``qkv``, ``proj``), so its weights load as they are.
    """

    def __init__(self, dim: int, heads: int, window: int = 0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} attention heads do not divide {dim} channels; use a multiple of {heads}")
        if window < 0:
            raise ValueError(f"attention window {window} is negative; 0 attends globally")
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        batch, height, width, _ = grid.shape
        # A global block is one window as large as the grid.
        plan = WindowPlan.fit(height, width, self.window or max(height, width))
        tokens = self.attend(plan.split(grid), plan.mask(batch, grid.device))
        return plan.merge(self.proj(tokens))

    def attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(n, t, d) to (n, t, d): the softmax part alone; ``mask`` is True where a key may be looked at."""
        count, length, dim = tokens.shape
        query, key, value = (
            self.qkv(tokens).reshape(count, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape_as(tokens)
