"""DeformableEncoderNeck against mmdet's Deformable DETR encoder and its Mask2Former pixel decoder, weights mapped."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.layers import DeformableDetrTransformerEncoder, MSDeformAttnPixelDecoder, SinePositionalEncoding
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch.testing import assert_close

from hybrid_dense.layers.position import sine_positions
from hybrid_dense.necks.deformable_encoder import enlarge

CHANNELS = [8, 16, 24, 32]
STRIDES = [4, 8, 16, 32]
WIDTH, HEADS, POINTS, LAYERS = 32, 4, 3, 2
SMALL = dict(out_channels=WIDTH, heads=HEADS, points=POINTS, num_layers=LAYERS, mlp_ratio=2)


def build(**options):
    torch.manual_seed(0)
    config = dict(type="DeformableEncoderNeck", in_channels=CHANNELS, num_outs=4, **SMALL)
    neck = MODELS.build(dict(config, **options))
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return neck.eval()


def draw(size, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, width, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for width, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def layer_config(levels):
    return dict(
        self_attn_cfg=dict(
            embed_dims=WIDTH, num_heads=HEADS, num_levels=levels, num_points=POINTS, dropout=0.0, batch_first=True
        ),
        ffn_cfg=dict(embed_dims=WIDTH, feedforward_channels=2 * WIDTH, num_fcs=2, ffn_drop=0.0),
    )


def flip_levels(tensor, levels):
    """The rows of an attention's offsets or weights, (heads, levels, …), with the levels in the other order."""
    return tensor.unflatten(0, (HEADS, levels, -1)).flip(1).flatten(0, 2)


def map_layer(layer, levels, coarse_first):
    """The state dict of mmdet's encoder layer from ours."""
    state = {}
    for theirs, ours in {
        "self_attn.sampling_offsets": layer.attention.offsets,
        "self_attn.attention_weights": layer.attention.weights,
        "self_attn.value_proj": layer.value,
        "self_attn.output_proj": layer.project,
        "ffn.layers.0.0": layer.feed_forward[0],
        "ffn.layers.1": layer.feed_forward[3],
        "norms.0": layer.norm1,
        "norms.1": layer.norm2,
    }.items():
        for name, tensor in ours.state_dict().items():
            flip = coarse_first and theirs.startswith(("self_attn.sampling", "self_attn.attention"))
            state[f"{theirs}.{name}"] = flip_levels(tensor, levels) if flip else tensor
    return state


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_equals_the_encoder_of_deformable_detr(levels):
    neck = build(attention_levels=levels)
    reference = DeformableDetrTransformerEncoder(num_layers=LAYERS, layer_cfg=layer_config(levels)).eval()
    for ours, theirs in zip(neck.layers, reference.layers, strict=True):
        theirs.load_state_dict(map_layer(ours, levels, coarse_first=False), strict=True)
    # Sizes that every stride divides: elsewhere mmdet's levels drift apart, since it goes by sizes.
    maps = [torch.randn(2, WIDTH, 64 // stride, 96 // stride) for stride in STRIDES[4 - levels :]]
    shapes = [tuple(level.shape[-2:]) for level in maps]
    positions = torch.cat(
        [
            (sine_positions(WIDTH, shape, 2 * torch.pi).flatten(2).mT + neck.level_embedding[level]).expand(2, -1, -1)
            for level, shape in enumerate(shapes)
        ],
        dim=1,
    )
    areas = torch.tensor([height * width for height, width in shapes])
    expected = reference(
        query=torch.cat([level.flatten(2).mT for level in maps], dim=1),
        query_pos=positions,
        key_padding_mask=None,
        spatial_shapes=torch.tensor(shapes),
        level_start_index=areas.cumsum(0) - areas,
        valid_ratios=torch.ones(2, levels, 2),
    )
    answer = torch.cat([level.flatten(2).mT for level in neck.encode(maps, STRIDES[4 - levels :])], dim=1)
    assert_close(answer, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("start_level", "levels"), [(0, 4), (0, 3), (1, 2), (2, 1)])
def test_equals_the_pixel_decoder_of_mask2former(start_level, levels):
    """With one level outside the attention at most: mmdet confuses the convolutions of several."""
    neck = build(start_level=start_level, attention_levels=levels, num_outs=4 - start_level)
    features = draw((64, 96))
    _, expected = pixel_decoder(neck, levels)(features[start_level:])
    for ours, theirs in zip(neck(features), reversed(expected), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def pixel_decoder(neck, levels):
    """mmdet's, with our weights; it runs from the coarsest level to the finest."""
    reference = MSDeformAttnPixelDecoder(
        in_channels=CHANNELS[neck.start_level :],
        strides=STRIDES[neck.start_level :],
        feat_channels=WIDTH,
        out_channels=WIDTH,
        num_outs=4,
        norm_cfg=dict(type="GN", num_groups=16),
        encoder=ConfigDict(num_layers=LAYERS, layer_cfg=layer_config(levels)),
        positional_encoding=dict(num_feats=WIDTH // 2, normalize=True),
    ).eval()
    # The same sines in another order of channels: see the test below.
    reference.postional_encoding.forward = lambda mask: sine_positions(WIDTH, tuple(mask.shape[-2:]), 2 * torch.pi)
    state = {"level_encoding.weight": neck.level_embedding.flip(0)}
    fine = neck.fine_levels
    convolutions = {"input_convs": neck.projections[fine:], "lateral_convs": neck.projections[:fine]}
    for theirs, ours in {**convolutions, "output_convs": neck.outputs}.items():
        for index, (conv, norm, *_) in enumerate(reversed(ours)):
            state[f"{theirs}.{index}.conv.weight"] = conv.weight
            state |= {f"{theirs}.{index}.gn.{name}": tensor for name, tensor in norm.state_dict().items()}
            if theirs == "input_convs":
                state[f"{theirs}.{index}.conv.bias"] = torch.zeros(WIDTH)
    for index, layer in enumerate(neck.layers):
        mapped = map_layer(layer, levels, coarse_first=True)
        state |= {f"encoder.layers.{index}.{name}": tensor for name, tensor in mapped.items()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(name.startswith("mask_feature") for name in missing)
    return reference


def test_positions_are_those_of_detr():
    """In another order of channels, and counted from 0 rather than from 1."""
    theirs = SinePositionalEncoding(num_feats=WIDTH // 2, normalize=True, offset=-1.0, eps=0.0)(torch.zeros(1, 5, 7))
    rows, columns = theirs.chunk(2, dim=1)
    ordered = torch.cat((columns[:, ::2], columns[:, 1::2], rows[:, ::2], rows[:, 1::2]), dim=1)
    assert_close(sine_positions(WIDTH, (5, 7), 2 * torch.pi), ordered)


@torch.no_grad()
@pytest.mark.parametrize("side", [31, 32, 33, 47, 64, 65])
def test_enlarging_goes_by_the_factor_and_not_by_the_sizes(side):
    whole = torch.randn(1, 2, 16, 64)
    fine = F.interpolate(whole, scale_factor=2, mode="bilinear")
    coarse = whole[..., : -(-side // 2)]
    enlarged = enlarge(coarse, 2, (32, side))
    assert enlarged.shape[-2:] == (32, side)
    inner = side - 1  # the last cell has no neighbour in the smaller map
    assert_close(enlarged[..., :inner], fine[..., :inner])


@torch.no_grad()
def test_a_backbone_that_rounds_down():
    sizes = [(31, 29), (15, 14), (7, 7), (3, 3)]
    maps = build()([torch.randn(1, width, *size) for width, size in zip(CHANNELS, sizes, strict=True)])
    assert [tuple(level.shape[-2:]) for level in maps] == sizes
    assert_close(enlarge(torch.ones(1, 1, 7, 7), 2, (15, 14)), torch.ones(1, 1, 15, 14))


@torch.no_grad()
def test_a_dilated_backbone():
    features = draw((64, 96))
    features[3] = torch.randn(2, 32, 4, 6)
    with pytest.raises(ValueError, match="4×6, 4×6 cells do not lie at strides 4, 8, 16, 32; set neck.strides to the"):
        build()(features)
    for levels in (1, 2, 3):
        maps = build(attention_levels=levels, strides=[4, 8, 16, 16])(features)
        assert [level.shape[-1] for level in maps] == [24, 12, 6, 6]
    maps = build(start_level=1, num_outs=3, strides=[4, 8, 16, 16])(features)
    assert [level.shape[-1] for level in maps] == [12, 6, 6]


@torch.no_grad()
@pytest.mark.parametrize(("levels", "reached"), [(4, [0, 1, 2, 3]), (2, [2, 3])])
def test_every_level_of_the_attention_sees_every_other(levels, reached):
    neck, features = build(attention_levels=levels), draw((64, 96))
    before = neck(features)
    for source in range(4):
        changed = [level + (index == source) * torch.randn_like(level) for index, level in enumerate(features)]
        after = neck(changed)
        moved = [index for index in range(4) if not torch.allclose(before[index], after[index])]
        # A level outside the attention takes from the coarser ones and gives to the finer ones.
        assert moved == (list(range(4)) if source in reached else list(range(source + 1)))


def test_checkpointing_changes_no_gradient():
    passes = []
    for with_cp in (False, True):
        neck = build(with_cp=with_cp, dropout=0.2).train()
        torch.manual_seed(5)
        sum(level.square().mean() for level in neck(draw((64, 96)))).backward()
        passes.append({name: parameter.grad for name, parameter in neck.named_parameters()})
    assert passes[0].keys() == passes[1].keys()
    for name, gradient in passes[0].items():
        assert_close(passes[1][name], gradient)


def test_dropout_works_while_training_only():
    neck, features = build(dropout=0.5), draw((64, 96))
    assert_close(neck(features), neck(features))
    neck.train()
    assert not torch.allclose(neck(features)[3], neck(features)[3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(attention_levels=5), ["attention_levels 5", "1, 2, 3, 4"]),
        (dict(attention_levels=0), ["attention_levels 0", "1, 2, 3, 4"]),
        (dict(attention_levels=4, start_level=1), ["attention_levels 4", "1, 2, 3"]),
        (dict(heads=5), ["out_channels 32", "5 heads", "neck.heads"]),
        (dict(out_channels=30, heads=5), ["out_channels 30", "multiple of 4"]),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ValueError) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []
