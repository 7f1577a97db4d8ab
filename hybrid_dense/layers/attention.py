"""Multi-head self-attention over a token grid: in windows, over the whole grid, or over pooled keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.position import Rotation
from hybrid_dense.layers.windows import WindowPlan

POOLED_SIDE = 14
"""Largest side of the grid that pooled keys and values are averaged to."""
MOST_SCORES_KEPT = 2048**2
"""Scores a head and window, queries × keys, up to which `attend_by_products` keeps them for the backward pass."""
QUERIES_AT_ONCE = 512
"""Above that, the queries whose scores exist at a time."""


class FusedSoftmax(nn.Module):
    """Softmax attention through ``scaled_dot_product_attention``.

    All forms map query (n, heads, t, c), key and value (n, heads, s, c) to (n, heads, t, c). ``mask``, (n, 1, 1, s)
    bool or None, is True where a key may be looked at.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # torch's fused kernel for CPUs gives away what bfloat16 gains: windows take four times as long in it.
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            if query.shape[-2] * key.shape[-2] <= MOST_SCORES_KEPT:
                return attend_by_products(query, key, value, mask)
            if not torch.compiler.is_compiling():
                return AttendInChunks.apply(query, key, value, mask)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class ExplicitSoftmax(nn.Module):
    """The same written out: a forward hook here sees query, key and value, one on ``softmax`` the attention map."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return self.softmax(scores) @ value


class LinearAttention(nn.Module):
    """Cost linear in the tokens: elu(x) + 1 in place of the softmax (Katharopoulos et al. 2020, section 3.2)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # The mean over the keys in place of the sum, which float16 could not hold; it cancels out.
        query, key = F.elu(query) + 1, (F.elu(key) + 1) / key.shape[-2]
        if mask is not None:
            key = key * mask.transpose(-2, -1)
        weight = query @ key.sum(dim=-2, keepdim=True).transpose(-2, -1)
        return query @ (key.transpose(-2, -1) @ value) / weight


# What `attention=` names: the form inside windows, where the softmax is linear in the pixels already, and the form of
# blocks that see the whole grid.
ATTENTION_FORMS = {
    "sdpa": (FusedSoftmax, FusedSoftmax),
    "explicit": (ExplicitSoftmax, ExplicitSoftmax),
    "linear": (FusedSoftmax, LinearAttention),
}


class GridAttention(nn.Module):
    """Self-attention over p tokens (class, registers) and a grid of h × w: (b, p + h·w, d) to the same.

    The tokens before the grid see every token and are seen by every token, in windows too.

    Args:
        dim: channels d.
        heads: attention heads; ``dim`` must divide by it.
        window: largest side of a window in tokens; 0 attends to the whole grid.
        attention: ``"sdpa"``, ``"explicit"`` (query, key, value and map can be read) or ``"linear"``.
        pooled: average keys and values to at most 14 × 14, so that the cost is linear in the tokens (Wang et al. 2022,
            PVT v2, section 3.2); only where ``window`` is 0.

    Parameters carry timm's names (``qkv``, ``proj``), so its weights load as they are.
    """

    def __init__(self, dim: int, heads: int, window: int = 0, attention: str = "sdpa", pooled: bool = False):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} attention heads do not divide {dim} channels; use a multiple of {heads}")
        if window < 0:
            raise ValueError(f"attention window {window} is negative; 0 attends globally")
        check_choice("attention", attention, ATTENTION_FORMS)
        self.heads = heads
        self.channels = dim // heads
        self.window = window
        self.pooled = pooled and window == 0
        self.qkv = nn.Linear(dim, 3 * dim)
        local_form, global_form = ATTENTION_FORMS[attention]
        self.attend = local_form() if window else global_form()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, size: tuple[int, int], rotation: Rotation | None = None) -> Tensor:
        """``size`` is (h, w) of the grid, ``rotation`` its rotary positions."""
        count = tokens.shape[1] - size[0] * size[1]
        projected = self.qkv(tokens)
        # A slice of everything would cost a copy in the backward pass.
        grid = (projected[:, count:] if count else projected).unflatten(1, size)
        grids = self.place(grid, rotation)
        # A global block is one window as large as the grid; pooled keys have a plan of their own.
        plans = [WindowPlan.fit(*part.shape[1:3], self.window or max(part.shape[1:3])) for part in grids]
        query, key, value = (
            heads
            for plan, part in zip(plans, grids, strict=True)
            for heads in plan.split_heads(part, self.heads, self.channels)
        )
        mask = plans[-1].mask(tokens.shape[0], tokens.device)
        before = self.cut(projected[:, :count]) if count else None
        if before is not None:
            key, value, mask = show_to_windows(before, plans[0].rows * plans[0].columns, key, value, mask)
        mixed = plans[0].merge_heads(self.attend(query, key, value, mask)).flatten(1, 2)
        if before is not None:
            mixed = torch.cat((self.attend_to_all(before, grids), mixed), dim=1)
        return self.proj(mixed)

    def attend_to_all(self, before: tuple[Tensor, ...], grids: list[Tensor]) -> Tensor:
        """What the tokens before the grid see, which is themselves and all of it: (b, p, d)."""
        query, *first = before
        _, *rest = (heads for part in grids for heads in self.cut(part.flatten(1, 2)))
        key, value = (torch.cat(pair, dim=2) for pair in zip(first, rest, strict=True))
        return self.attend(query, key, value, None).transpose(1, 2).flatten(-2)

    def place(self, grid: Tensor, rotation: Rotation | None) -> list[Tensor]:
        """Query, key and value (b, h, w, 3 · d) as they are looked at: turned, pooled, or whole where neither is."""
        if rotation is None and not self.pooled:
            return [grid]
        query, key, value = grid.chunk(3, dim=-1)
        if rotation is not None:
            query, key = (rotation.turn(part.unflatten(-1, (self.heads, -1))).flatten(-2) for part in (query, key))
        if self.pooled:
            key, value = pool_grid(key), pool_grid(value)
        return [query, key, value]

    def cut(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(b, t, parts · d) to ``parts`` tensors (b, heads, t, channels of a head)."""
        return tokens.unflatten(-1, (-1, self.heads, self.channels)).permute(2, 0, 3, 1, 4).unbind()


def show_to_windows(
    before: tuple[Tensor, ...], windows: int, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Put key and value of the tokens before the grid, (b, heads, p, c), in front of those of its windows."""
    first = [part.repeat_interleave(windows, dim=0) for part in before[1:]]
    key, value = (torch.cat(pair, dim=2) for pair in zip(first, (key, value), strict=True))
    return key, value, None if mask is None else F.pad(mask, (before[0].shape[2], 0), value=True)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention in two matrix products, as `FusedSoftmax`; the map is kept for the backward pass."""
    lead = query.shape[:2]
    bias = bias_of(mask, query)
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    # Autocast would keep the map in float32 and round it once more.
    with torch.autocast(query.device.type, enabled=False):
        return torch.bmm(attention_map(query, key, bias), value).unflatten(0, lead)


def bias_of(mask: Tensor | None, like: Tensor) -> Tensor:
    """What to add to the scores of (n, heads, …): 0 or -∞, (n · heads, 1, s), or one 0 where there is no mask."""
    bias = like.new_zeros(())
    return bias if mask is None else bias.masked_fill(~mask, -math.inf).expand(-1, like.shape[1], -1, -1).flatten(0, 1)


def attention_map(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """(n, t, c), (n, s, c) to (n, t, s)."""
    # A bias that is one zero is left out, not spread over the scores first.
    beta, alpha = min(bias.dim(), 1), 1 / math.sqrt(query.shape[-1])
    return torch.baddbmm(bias, query, key.transpose(1, 2), beta=beta, alpha=alpha).softmax(dim=-1)


class AttendInChunks(torch.autograd.Function):
    """`attend_by_products`, some queries at a time; their map is computed again for the backward pass."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        chunks = query.split(QUERIES_AT_ONCE, dim=2)
        return torch.cat([attend_by_products(chunk, key, value, mask) for chunk in chunks], dim=2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        lead, scale, bias = query.shape[:2], 1 / math.sqrt(query.shape[-1]), bias_of(mask, query)
        query, key, value, gradient = (part.flatten(0, 1) for part in (query, key, value, gradient))
        of_query = []
        # A sum of many chunks in bfloat16 would lose the small ones.
        of_key, of_value = (torch.zeros_like(part, dtype=torch.float32) for part in (key, value))
        with torch.autocast(query.device.type, enabled=False):
            for chunk, chunk_gradient in zip(
                *(x.split(QUERIES_AT_ONCE, dim=1) for x in (query, gradient)), strict=True
            ):
                weights = attention_map(chunk, key, bias)
                of_value += torch.bmm(weights.transpose(1, 2), chunk_gradient)
                of_weights = torch.bmm(chunk_gradient, value.transpose(1, 2))
                # softmax' = p ⊙ (g - Σ p ⊙ g), in one pass
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                of_query.append(torch.bmm(of_scores, key) * scale)
                of_key += torch.bmm(of_scores.transpose(1, 2), chunk)
        of_key, of_value = (of_key * scale).to(key.dtype), of_value.to(value.dtype)
        return *(part.unflatten(0, lead) for part in (torch.cat(of_query, dim=1), of_key, of_value)), None


def pool_grid(grid: Tensor) -> Tensor:
    """Average a grid (b, h, w, d) over equal cells to at most 14 × 14; cells at the edge count what is there."""
    cell = [math.ceil(side / POOLED_SIDE) for side in grid.shape[1:3]]
    pooled = F.avg_pool2d(grid.permute(0, 3, 1, 2), cell, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1)
