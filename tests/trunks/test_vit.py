"""The ViT trunk against a transformer written out over a dense mask, and its state-dict names against timm's."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.archs import VIT_ARCHS, ViTArch
from hybrid_dense.layers.attention import ExplicitSoftmax
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.layers.recompute import recompute
from hybrid_dense.layers.windows import WindowPlan
from hybrid_dense.trunks import ViT
from hybrid_dense.trunks.vit import PatchEmbed

PICO = VIT_ARCHS["pico"]
SMALL = ViTArch(dim=24, depth=8, heads=3)
FLOAT32 = dict(rtol=1e-4, atol=1e-5)

# Every option of the trunk in one of its values, and those that meet in one place together.
OPTIONS = {
    "plain": dict(),
    "global": dict(window=0),
    "local": dict(global_attention="none"),
    "pooled": dict(global_attention="pooled"),
    "explicit": dict(attention="explicit"),
    "linear": dict(attention="linear"),
    "sine": dict(positions="sine"),
    "rope": dict(positions="rope"),
    "no-positions": dict(positions="none"),
    "class-token": dict(class_token=True),
    "registers": dict(registers=3),
    "deit": dict(class_token=True, registers=1, window=0),
    "layer-scale": dict(layer_scale=0.1),
    "swiglu": dict(mlp="swiglu"),
    "post-norm": dict(norm="post", layer_scale=0.5),
    "clip": dict(norm_pre=True, class_token=True, norm_eps=1e-3),
    "residual-conv": dict(residual_conv=True, class_token=True),
    "dinov3": dict(positions="rope", class_token=True, registers=4, layer_scale=0.1, mlp="swiglu"),
    "dinov3-pooled": dict(positions="rope", class_token=True, registers=4, global_attention="pooled"),
    "dinov3-linear": dict(positions="rope", class_token=True, registers=4, attention="linear"),
    "post-local": dict(norm="post", registers=2, positions="rope", global_attention="none", norm_pre=True),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def build(arch=SMALL, **options):
    """A trunk none of whose tensors is a zero or a one, so that each has its part in what comes out."""
    torch.manual_seed(0)
    trunk = ViT(arch, **{"window": 3, "native_size": 4, **options})
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            spread = 0.5 if name.endswith(("token", "pos_embed")) else 0.1
            parameter.add_(spread * torch.randn_like(parameter))
    return trunk


def picture(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


class WrittenOut:
    """The trunk on one long row of tokens: prefix, then the grid in reading order; windows are a dense mask."""

    def __init__(
        self,
        trunk,
        window=3,
        global_attention="full",
        attention="sdpa",
        positions="learned",
        class_token=False,
        registers=0,
        layer_scale=None,
        mlp="gelu",
        norm="pre",
        norm_pre=False,
        norm_eps=1e-6,
        residual_conv=False,
    ):
        self.state = dict(trunk.named_parameters())
        self.dim, self.heads, self.depth = SMALL.dim, SMALL.heads, SMALL.depth
        self.window, self.pooled, self.linear = window, global_attention == "pooled", attention == "linear"
        self.sees_all = (1, 3, 5, 7) if global_attention != "none" else ()
        self.positions, self.scaled, self.swiglu = positions, layer_scale is not None, mlp == "swiglu"
        self.post, self.norm_pre, self.eps, self.residual_conv = norm == "post", norm_pre, norm_eps, residual_conv
        self.prefix = [self.state[name] for name in ("cls_token", "reg_token") if name in self.state]
        self.count = class_token + registers
        assert self.count == sum(tokens.shape[1] for tokens in self.prefix)

    def norm(self, name, tokens, eps=None):
        variance, mean = torch.var_mean(tokens, dim=-1, keepdim=True, correction=0)
        normalised = (tokens - mean) / (variance + (eps or self.eps)).sqrt()
        return normalised * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear_map(self, name, tokens):
        return tokens @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def __call__(self, images):
        images = F.pad(images, (0, -images.shape[-1] % 16, 0, -images.shape[-2] % 16))
        grid = F.conv2d(images, self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"], stride=16)
        self.size = height, width = grid.shape[-2:]
        tokens = grid.flatten(2).transpose(1, 2) + self.place()
        tokens = torch.cat([*(part.expand(len(images), -1, -1) for part in self.prefix), tokens], dim=1)
        if self.norm_pre:
            tokens = self.norm("norm_pre", tokens)
        for index in range(self.depth):
            tokens = self.block(index, tokens)
            if self.residual_conv and index % 2:
                tokens = self.convolve(f"residuals.{index // 2}", tokens)
        return self.norm("norm", tokens)[:, self.count :].transpose(1, 2).unflatten(2, (height, width))

    def place(self):
        """What is added to the h · w tokens."""
        height, width = self.size
        if self.positions == "learned":
            table = self.state["pos_embed"].reshape(4, 4, self.dim).permute(2, 0, 1)[None]
            if self.size != (4, 4):
                table = F.interpolate(table, self.size, mode="bicubic", antialias=True)
            return table.flatten(2).transpose(1, 2)
        if self.positions != "sine":
            return 0
        frequency = 10000 ** -(torch.arange(self.dim // 4) / (self.dim // 4))
        rows = (torch.arange(height) * 4 / height)[:, None, None] * frequency + torch.zeros(1, width, 1)
        columns = (torch.arange(width) * 4 / width)[None, :, None] * frequency + torch.zeros(height, 1, 1)
        table = torch.cat((columns.sin(), columns.cos(), rows.sin(), rows.cos()), dim=-1)
        return table.flatten(0, 1)

    def turn(self, heads):
        """Rotate (…, t, c) as complex numbers, the prefix by nothing."""
        height, width = self.size
        channels = heads.shape[-1]
        frequency = 2 * math.pi * 100 ** -(torch.arange(channels // 4) / (channels // 4))
        rows = (2 * (torch.arange(height) + 0.5) / height - 1)[:, None].expand(height, width).flatten()
        columns = (2 * (torch.arange(width) + 0.5) / width - 1)[None].expand(height, width).flatten()
        angles = torch.cat((rows[:, None] * frequency, columns[:, None] * frequency), dim=1)
        angles = torch.cat((torch.zeros(self.count, channels // 2), angles))
        numbers = torch.complex(*heads.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((numbers.real, numbers.imag), dim=-1)

    def attend(self, index, tokens):
        height, width = self.size
        parts = self.linear_map(f"blocks.{index}.attn.qkv", tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if self.positions == "rope":
            query, key = self.turn(query), self.turn(key)
        is_global = index in self.sees_all or not self.window
        if is_global and self.pooled:
            key, value = (torch.einsum("st,bhtc->bhsc", self.pooling(), part) for part in (key, value))
        if is_global and self.linear:
            weights = (F.elu(query) + 1) @ (F.elu(key) + 1).transpose(-2, -1)
            weights = weights / weights.sum(dim=-1, keepdim=True)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
            if not is_global:
                plan = WindowPlan.fit(height, width, self.window)
                row = torch.arange(height)[:, None] // plan.window[0]
                column = torch.arange(width)[None] // plan.window[1]
                window = (row * width + column).flatten()
                hidden = torch.zeros(scores.shape[-2:], dtype=torch.bool)
                hidden[self.count :, self.count :] = window[:, None] != window[None]
                scores = scores.masked_fill(hidden, -math.inf)
            weights = scores.softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        return self.linear_map(f"blocks.{index}.attn.proj", mixed)

    def pooling(self):
        """(s, t): which tokens each of the pooled keys is the mean of; the prefix stays as it is."""
        height, width = self.size
        cell_h, cell_w = math.ceil(height / 14), math.ceil(width / 14)
        cells_w = math.ceil(width / cell_w)
        cell = torch.arange(height)[:, None] // cell_h * cells_w + torch.arange(width)[None] // cell_w
        members = F.one_hot(cell.flatten()).float().T
        return torch.block_diag(torch.eye(self.count), members / members.sum(dim=1, keepdim=True))

    def feed_forward(self, index, tokens):
        hidden = self.linear_map(f"blocks.{index}.mlp.fc1", tokens)
        if self.swiglu:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = gate * torch.sigmoid(gate) * hidden
        else:
            hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        return self.linear_map(f"blocks.{index}.mlp.fc2", hidden)

    def block(self, index, tokens):
        for number, branch in enumerate((self.attend, self.feed_forward), start=1):
            norm = f"blocks.{index}.norm{number}"
            change = self.norm(norm, branch(index, tokens)) if self.post else branch(index, self.norm(norm, tokens))
            if self.scaled:
                change = change * self.state[f"blocks.{index}.ls{number}.gamma"]
            tokens = tokens + change
        return tokens

    def convolve(self, name, tokens):
        """The residual convolution sees the grid; the prefix passes it by."""
        prefix, grid = tokens.split([self.count, tokens.shape[1] - self.count], dim=1)
        hidden = grid.transpose(1, 2).unflatten(2, self.size)
        for number in (1, 2, 3):
            hidden = F.conv2d(hidden, self.state[f"{name}.conv{number}.weight"], padding=int(number == 2))
            hidden = self.norm(f"{name}.norm{number}", hidden.permute(0, 2, 3, 1), eps=1e-6).permute(0, 3, 1, 2)
            hidden = F.gelu(hidden) if number < 3 else hidden
        return torch.cat((prefix, grid + hidden.flatten(2).transpose(1, 2)), dim=1)


@every_option
@pytest.mark.parametrize("size", [(64, 64), (70, 100), (16, 250)], ids=["native", "odd", "wide"])
@torch.no_grad()
def test_every_option_equals_the_trunk_written_out(options, size):
    trunk = build(**options).eval()
    images = picture(*size)
    expected = WrittenOut(trunk, **options)(images)
    grid = trunk(images)
    assert grid.shape == (2, 24, math.ceil(size[0] / 16), math.ceil(size[1] / 16))
    assert expected.std() > 0.1
    assert_close(grid, expected, **FLOAT32)


@every_option
def test_every_option_has_the_gradients_of_the_trunk_written_out(options):
    trunk = build(**options).eval()
    gradients = []
    for compute in (trunk, WrittenOut(trunk, **options)):
        images = picture(70, 100).requires_grad_()
        compute(images).square().mul(torch.linspace(0, 1, 24)[:, None, None]).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in trunk.named_parameters()} | {"": images.grad})
        trunk.zero_grad()
    ours, theirs = gradients
    for name, expected in theirs.items():
        assert ours[name] is not None, name
        assert ours[name].abs().max() > 0, name
        assert_close(ours[name], expected, rtol=1e-3, atol=1e-4 * max(1.0, expected.abs().max().item()), msg=name)


@pytest.mark.parametrize(
    "options", [dict(), OPTIONS["dinov3"], OPTIONS["dinov3-pooled"]], ids=["plain", "v3", "pooled"]
)
def test_explicit_attention_equals_the_fused_one(options):
    fused, explicit = build(**options).eval(), build(**options, attention="explicit").eval()
    assert list(fused.state_dict()) == list(explicit.state_dict())
    results = []
    for trunk in (fused, explicit):
        images = picture(70, 100).requires_grad_()
        grid = trunk(images)
        grid.square().mul(torch.linspace(0, 1, 24)[:, None, None]).sum().backward()
        results.append([grid, images.grad, *(parameter.grad for parameter in trunk.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_attention_maps_of_the_explicit_form_can_be_read():
    trunk = build(attention="explicit", class_token=True).eval()
    maps = {}
    for index, block in enumerate(trunk.blocks):
        assert isinstance(block.attn.attend, ExplicitSoftmax)
        block.attn.attend.softmax.register_forward_hook(
            lambda _, inputs, output, index=index: maps.setdefault(index, []).append(output)
        )
    trunk(picture(70, 100))
    assert sorted(maps) == list(range(8))
    for index, parts in maps.items():
        of_windows, of_class_token = parts
        assert of_class_token.shape == (2, 3, 1, 1 + 5 * 7)
        # A local block has 2 × 3 windows of 3 × 3 tokens over the grid of 5 × 7.
        assert of_windows.shape == ((2, 3, 35, 36) if index % 2 else (2 * 6, 3, 9, 10))
        for weights in parts:
            assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))


@torch.no_grad()
def test_patches_that_lack_pixels_are_padded_with_zero():
    torch.manual_seed(0)
    embed = PatchEmbed(3, 8, patch=16)
    images = torch.randn(2, 3, 33, 60)
    grid = embed(images)
    assert grid.shape == (2, 8, 3, 4)
    assert_close(grid, embed(F.pad(images, (0, 4, 0, 15))))
    assert_close(grid[:, :, :2, :3], embed(images[:, :, :32, :48]))


@pytest.mark.parametrize(
    "options", [dict(), dict(class_token=True, registers=2), OPTIONS["dinov3"]], ids=["plain", "prefix", "rope"]
)
@torch.no_grad()
def test_padding_of_windows_is_never_looked_at(pad_with_noise, options):
    trunk = build(**options).eval()
    images = picture(80, 112)  # whole patches: the image itself is not padded
    expected = trunk(images)
    padded = pad_with_noise()
    assert_close(trunk(images), expected, rtol=1e-5, atol=1e-5)
    assert padded


def timm_names(depth, extra=(), per_block=()):
    """Keys of timm's VisionTransformer without class token and classifier."""
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    named = ["patch_embed.proj", "norm", *(f"blocks.{block}.{layer}" for block in range(depth) for layer in layers)]
    parameters = {f"{name}.{kind}" for name in named for kind in ("weight", "bias")}
    return parameters | set(extra) | {f"blocks.{block}.{name}" for block in range(depth) for name in per_block}


@pytest.mark.parametrize("name", VIT_ARCHS)
def test_timm_names(name):
    arch = VIT_ARCHS[name]
    with torch.device("meta"):
        state = ViT(arch).state_dict()
    assert set(state) == timm_names(arch.depth, ["pos_embed"])
    assert state["pos_embed"].shape == (1, 14 * 14, arch.dim)
    assert state["patch_embed.proj.weight"].shape == (arch.dim, 3, 16, 16)
    assert state["blocks.0.attn.qkv.weight"].shape == (3 * arch.dim, arch.dim)
    assert state["blocks.0.mlp.fc1.weight"].shape == (4 * arch.dim, arch.dim)


def test_timm_names_of_the_options():
    with torch.device("meta"):
        trunk = ViT(PICO, class_token=True, registers=4, layer_scale=1e-5, mlp="swiglu", norm_pre=True)
        fixed = {positions: set(ViT(PICO, positions=positions).state_dict()) for positions in ("sine", "rope", "none")}
    extra = ["pos_embed", "cls_token", "reg_token", "norm_pre.weight", "norm_pre.bias"]
    assert set(trunk.state_dict()) == timm_names(4, extra, ["ls1.gamma", "ls2.gamma"])
    assert trunk.cls_token.shape == (1, 1, 96)
    assert trunk.reg_token.shape == (1, 4, 96)
    assert all(names == timm_names(4) for names in fixed.values())


# timm's vit_*_patch16_224 without the 1000-way classifier, the class token and the position of that token.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ti", 5_717_416 - 193_000 - 2 * 192),
        ("s", 22_050_664 - 385_000 - 2 * 384),
        ("b", 86_567_656 - 769_000 - 2 * 768),
        ("l", 304_326_632 - 1_025_000 - 2 * 1024),
    ],
)
def test_parameter_count(name, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ViT(VIT_ARCHS[name]).parameters()) == parameters


@pytest.mark.parametrize(("depth", "global_blocks"), [(4, [0, 1, 2, 3]), (12, [2, 5, 8, 11]), (24, [5, 11, 17, 23])])
@pytest.mark.parametrize("global_attention", ["full", "pooled"])
def test_which_blocks_attend_globally(depth, global_blocks, global_attention):
    with torch.device("meta"):
        trunk = ViT(ViTArch(dim=24, depth=depth, heads=3), window=7, global_attention=global_attention)
    windows = [block.attn.window for block in trunk.blocks]
    assert [index for index, window in enumerate(windows) if window == 0] == global_blocks
    assert set(windows) <= {0, 7}
    pooled = [index for index, block in enumerate(trunk.blocks) if block.attn.pooled]
    assert pooled == (global_blocks if global_attention == "pooled" else [])


def test_no_block_need_attend_globally():
    with torch.device("meta"):
        trunk = ViT(SMALL, window=7, global_attention="none")
    assert {block.attn.window for block in trunk.blocks} == {7}


def test_window_zero_makes_every_block_global():
    with torch.device("meta"):
        trunk = ViT(SMALL, window=0)
    assert {block.attn.window for block in trunk.blocks} == {0}


@torch.no_grad()
def test_local_blocks_see_their_window_and_a_segment_sees_all():
    trunk = build(window=4).eval()
    grid = torch.randn(1, 24, 8, 8)
    other = grid.clone()
    other[..., 7, 7] = torch.randn(1, 24)

    def reached(part):
        return (part(grid) - part(other)).abs().amax(dim=(0, 1)) > 0

    def first_block(grid):
        tokens = trunk.blocks[0](grid.flatten(2).transpose(1, 2), (8, 8))
        return tokens.transpose(1, 2).unflatten(2, (8, 8))

    local = reached(first_block)
    assert local[4:, 4:].all()
    assert not local[:4].any()
    assert not local[:, :4].any()
    assert reached(trunk.segments[0]).all()


@torch.no_grad()
def test_residual_convolutions_start_as_the_identity_and_join_windows():
    torch.manual_seed(0)
    options = dict(window=4, global_attention="none")
    plain, residual = ViT(SMALL, **options).eval(), ViT(SMALL, residual_conv=True, **options).eval()
    missing, unexpected = residual.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("residuals.") for name in missing)
    images = picture(128, 128)
    assert torch.equal(plain(images), residual(images))
    trunk = build(residual_conv=True, **options).eval()
    other = images.clone()
    other[..., -16:, -16:] = 0
    reached = (trunk(images) - trunk(other)).abs().amax(dim=(0, 1)) > 0
    # The last windows, and what four convolutions and the windows behind them hand on.
    assert reached[4:, 4:].all()
    assert reached.all()
    assert not ((plain(images) - plain(other)).abs().amax(dim=(0, 1))[:4] > 0).any()


@every_option
@torch.no_grad()
def test_forward_is_embed_then_segments(options):
    trunk = build(**options).eval()
    images = picture(50, 70)
    step = trunk.embed(images)
    for segment in trunk.segments:
        step = segment(step)
    assert torch.equal(step, trunk(images))
    assert len(trunk.segments) == 4


@torch.no_grad()
def test_the_grid_ends_normalised():
    torch.manual_seed(0)
    trunk = ViT(PICO).eval()
    grid = trunk(picture(50, 70))
    assert isinstance(trunk.norm, LayerNorm2d)
    assert grid.shape == (2, 96, 4, 5)
    assert_close(grid.mean(dim=1), torch.zeros(2, 4, 5), atol=1e-5, rtol=0)
    assert_close(grid.std(dim=1, unbiased=False), torch.ones(2, 4, 5), atol=1e-2, rtol=0)


def test_segments_hold_all_blocks_in_order():
    with torch.device("meta"):
        trunk = ViT(VIT_ARCHS["ti"])
    parts = [block for index in range(4) for block in trunk.segment_blocks(index)]
    assert [len(trunk.segment_blocks(index)) for index in range(4)] == [3, 3, 3, 3]
    assert all(part is block for part, block in zip(parts, trunk.blocks, strict=True))


PREFIX = dict(class_token=True, registers=2)


@torch.no_grad()
def test_two_batches_do_not_share_their_prefix():
    trunk = build(**PREFIX).eval()
    first, second = picture(64, 64), picture(48, 96, batch=3) + 1
    alone = trunk(first), trunk(second)
    # One after the other, and segment by segment in turns.
    assert torch.equal(trunk(first), alone[0])
    runs = [[trunk.embed(first), trunk.segments], [trunk.embed(second), trunk.segments]]
    for index in range(4):
        for run in runs:
            run[0] = run[1][index](run[0])
    assert torch.equal(runs[0][0], alone[0])
    assert torch.equal(runs[1][0], alone[1])


@torch.no_grad()
def test_the_prefix_travels_through_the_segments():
    """Segments of different tuples know nothing of each other: each starts from the learned tokens again."""
    trunk = build(**PREFIX).eval()
    images = picture(64, 64)
    forgetful = trunk.embed(images)
    for index in range(4):
        forgetful = trunk.segments[index](forgetful)
    assert (forgetful - trunk(images)).abs().max() > 1e-3


@torch.no_grad()
def test_the_prefix_of_an_image_knows_that_image_only():
    trunk = build(**PREFIX).eval()
    images = picture(64, 80, batch=3)
    together = trunk(images)
    for index in range(3):
        assert_close(trunk(images[index : index + 1])[0], together[index], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_positions_the_trunk_is_blind_to_order():
    trunk = build(positions="none", window=0, class_token=True).eval()
    patches = picture(64, 64).unflatten(2, (4, 16)).unflatten(4, (4, 16)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))

    def as_images(patches):
        return patches.unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    expected = trunk(as_images(patches)).flatten(2)[..., order]
    assert_close(trunk(as_images(patches[:, order])).flatten(2), expected, rtol=1e-4, atol=1e-5)
    for positions in ("learned", "sine", "rope"):
        other = build(positions=positions, window=0, class_token=True).eval()
        change = other(as_images(patches[:, order])).flatten(2) - other(as_images(patches)).flatten(2)[..., order]
        assert change.abs().max() > 0.01, positions


@torch.no_grad()
def test_positions_as_learned_at_the_native_size_and_row_by_row():
    torch.manual_seed(0)
    trunk = ViT(PICO)
    images = torch.zeros(1, 3, 224, 224)
    trunk.patch_embed.proj.bias.zero_()
    grid = trunk.embed(images)
    for row, column in [(0, 0), (0, 13), (13, 0), (5, 9)]:
        assert torch.equal(grid[0, :, row, column], trunk.pos_embed[0, 14 * row + column])


@torch.no_grad()
def test_positions_are_resampled_to_the_grid():
    torch.manual_seed(0)
    trunk = ViT(PICO)
    trunk.patch_embed.proj.bias.zero_()
    # Positions that are a ramp from left to right stay one on a grid of another size.
    trunk.pos_embed.copy_(torch.linspace(0, 1, 14).repeat(14)[None, :, None].expand(1, -1, 96))
    grid = trunk.embed(torch.zeros(1, 3, 160, 330))[0, 0]
    assert grid.shape == (10, 21)
    assert (grid.diff(dim=1) > 0).all()
    assert_close(grid, grid[:1].expand(10, -1))
    assert_close(grid[:, 10], torch.full((10,), 0.5))


def test_drop_path_rises_linearly():
    with torch.device("meta"):
        trunk = ViT(VIT_ARCHS["ti"], drop_path_rate=0.22)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx([0.02 * block for block in range(12)])


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_drop_path_leaves_out_branches_of_whole_samples(norm):
    """Each sample is one of four: without, with the first, with the second, with both branches doubled."""
    block = build(norm=norm, drop_path_rate=0.5, **PREFIX).blocks[-1].train()
    assert block.drop_path.rate == 0.5
    tokens = torch.randn(32, 3 + 12, 24)

    def first(tokens):
        return block.attn(block.norm1(tokens), (3, 4)) if norm == "pre" else block.norm1(block.attn(tokens, (3, 4)))

    def second(tokens):
        return block.mlp(block.norm2(tokens)) if norm == "pre" else block.norm2(block.mlp(tokens))

    halfway = tokens + 2 * first(tokens)
    candidates = torch.stack((tokens, halfway, tokens + 2 * second(tokens), halfway + 2 * second(halfway)))
    torch.manual_seed(0)
    distances = (block(tokens, (3, 4)) - candidates).abs().flatten(2).amax(dim=-1)
    nearest = distances.min(dim=0)
    assert (nearest.values < 1e-4).all()
    assert set(nearest.indices.tolist()) == {0, 1, 2, 3}
    block.eval()
    assert_close(block(tokens, (3, 4)), (tokens + first(tokens)) + second(tokens + first(tokens)))


@every_option
def test_recomputed_blocks_change_nothing(options):
    plain = build(**options, drop_path_rate=0.3).train()
    recomputed = copy.deepcopy(plain)
    for block in recomputed.blocks:
        recompute(block)
    results = []
    for trunk in (plain, recomputed):
        torch.manual_seed(2)
        images = picture(50, 70).requires_grad_()
        grid = trunk(images)
        grid.square().mul(torch.linspace(0, 1, 24)[:, None, None]).sum().backward()
        results.append([grid, images.grad, *(parameter.grad for parameter in trunk.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@every_option
@torch.no_grad()
def test_copies_stand_on_their_own(options):
    trunk = build(**options).eval()
    images = picture(50, 70)
    expected = trunk(images)
    copied = copy.deepcopy(trunk)
    for parameter in trunk.parameters():
        parameter.zero_()
    assert torch.equal(copied(images), expected)


@every_option
@torch.no_grad()
def test_the_state_dict_is_all_there_is(options):
    trunk = build(**options).eval()
    other = ViT(SMALL, **{"window": 3, "native_size": 4, **options}).eval()
    other.load_state_dict(trunk.state_dict())
    images = picture(50, 70)
    assert torch.equal(other(images), trunk(images))


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (dict(depth=10), dict(), "vit depth 10 does not split into 4 segments; use a multiple of 4"),
        (dict(heads=5), dict(), "5 attention heads do not divide 24 channels; use a multiple of 5"),
        ({}, dict(window=-1), "window -1 is not a whole number from 0 up"),
        (dict(depth=4), dict(window=-1), "window -1 is not a whole number from 0 up"),
        ({}, dict(window=2.5), "window 2.5 is not a whole number from 0 up"),
        ({}, dict(registers="2"), "registers '2' is not a whole number from 0 up"),
        ({}, dict(native_size=0), "native_size 0 is not a whole number from 1 up"),
        ({}, dict(registers=-1), "registers -1 is not a whole number from 0 up"),
        ({}, dict(global_attention="some"), "global_attention 'some' is not one of full, pooled, none"),
        ({}, dict(attention="flash"), "attention 'flash' is not one of sdpa, explicit, linear"),
        ({}, dict(positions="rotary"), "positions 'rotary' is not one of learned, sine, rope, none"),
        ({}, dict(mlp="relu"), "mlp 'relu' is not one of gelu, swiglu"),
        ({}, dict(norm="batch"), "norm 'batch' is not one of pre, post"),
        ({}, dict(norm=None), "norm None is not one of pre, post"),
        ({}, dict(drop_path_rate=1.0), "drop path rate 1.0 is not in [0, 1)"),
        (
            dict(dim=30),
            dict(positions="rope"),
            "positions 'rope' need channels that divide by 4, not 10; use 'learned'",
        ),
        (
            dict(dim=30),
            dict(positions="sine"),
            "positions 'sine' need channels that divide by 4, not 30; use 'learned'",
        ),
    ],
    ids=str,
)
def test_bad_options(arch, options, message):
    with pytest.raises(ValueError) as error:
        ViT(ViTArch(**{"dim": 24, "depth": 8, "heads": 3, **arch}), **options)
    assert str(error.value) == message
