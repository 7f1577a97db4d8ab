"""What every neck promises, for every registered neck × its options: a new one fails until it has options here."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close

from hybrid_dense.necks import list_necks

CHANNELS = [8, 16, 24, 32]
STRIDES = [4, 8, 16, 32]
WIDTH = 16

# Each neck by the options that lead it through other code; every value of every option is there at least once.
OPTIONS = {
    "HybridFPN": {
        "plain": {},
        "bottom-up": dict(bottom_up=True, norm="BN"),
        "gate": dict(merge="gate", bottom_up=True, conv="depthwise", norm="GN"),
        "conv": dict(extra_levels="conv", norm="LN"),
        "conv on input": dict(extra_levels="conv_on_input", start_level=1, conv="depthwise"),
        "one level": dict(start_level=3, bottom_up=True),
    },
    "SimplePyramid": {
        "of four": {},
        "of one": dict(in_channels=24, extra_levels="conv"),
        "from stride 8": dict(in_channels=[16, 24], start_level=1, extra_levels="conv_on_input", conv="depthwise"),
        "without norm": dict(norm=None),
    },
    "DeformableEncoderNeck": {
        "plain": {},
        "two of three": dict(start_level=1, attention_levels=2, extra_levels="conv", conv="depthwise"),
        "all": dict(attention_levels=4, extra_levels="conv_on_input"),
        "one level": dict(attention_levels=1, norm="LN", with_cp=True),
        "dropout": dict(dropout=0.1, norm="BN"),
    },
}
SMALL = {"DeformableEncoderNeck": dict(num_layers=1, heads=4, points=2, mlp_ratio=2)}
MEMBERS = [(neck, name) for neck, options in OPTIONS.items() for name in options]

# Smallest, odd, several cells of stride 128, one that no stride divides.
SIZES = [(32, 32), (33, 65), (256, 128), (40, 250)]

every_member = pytest.mark.parametrize(("neck", "name"), MEMBERS, ids=map("-".join, MEMBERS))
# Exporting takes seconds: by default what is exported of every layer once, the others on demand.
EXPORTED = ["HybridFPN-plain", "HybridFPN-gate", "SimplePyramid-of four", "DeformableEncoderNeck-two of three"]
some_members = pytest.mark.parametrize(
    ("neck", "name"),
    [
        pytest.param(*member, id="-".join(member), marks=[] if "-".join(member) in EXPORTED else pytest.mark.slow)
        for member in MEMBERS
    ],
)


def build(neck, name, seed=0, **options):
    torch.manual_seed(seed)
    config = dict(type=neck, in_channels=CHANNELS, out_channels=WIDTH, num_outs=5)
    return MODELS.build({**config, **SMALL.get(neck, {}), **OPTIONS[neck][name], **options})


def draw(neck, size, batch=2, seed=1):
    """The maps of a backbone that this neck was built for."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, channels, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for channels, stride in zip(neck.in_channels, neck.strides, strict=True)
    )


def perturb(neck):
    """Move everything that starts as zero or one, so that a forgotten tensor would be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        for name, buffer in neck.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=0.1)
            if name.endswith("running_var"):
                buffer.add_(torch.rand(buffer.shape, generator=generator), alpha=0.2)
    return neck


def test_every_neck_of_ours_is_here():
    ours = [name for name in list_necks() if MODELS.get(name).__module__.startswith("hybrid_dense.")]
    assert sorted(OPTIONS) == ours


@every_member
@torch.no_grad()
def test_contiguous_maps_of_the_promised_shapes(neck, name):
    neck = build(neck, name).eval()
    assert neck.out_channels == WIDTH
    strides = [STRIDES[0] * 2 ** (neck.start_level + level) for level in range(5)]
    for size in SIZES:
        features = draw(neck, size)
        # Whoever sees the stride-16 map alone takes its last cells for whole ones.
        reach = [-(-side // neck.strides[0]) * neck.strides[0] for side in size]
        expected = [(2, WIDTH, *(-(-side // stride) for side in reach)) for stride in strides]
        for maps in (neck(features), neck([level.to(memory_format=torch.channels_last) for level in features])):
            assert [tuple(level.shape) for level in maps] == expected, f"images of {size}"
            assert all(level.is_contiguous() for level in maps)


@every_member
@torch.no_grad()
def test_memory_layout_does_not_matter(neck, name):
    neck = perturb(build(neck, name)).eval()
    features = draw(neck, (67, 129))
    copies = [level.clone() for level in features]
    expected = neck(features)
    for level, copied in zip(features, copies, strict=True):
        assert torch.equal(level, copied)  # the caller's maps are the caller's
    neck.to(memory_format=torch.channels_last)
    others = neck([level.to(memory_format=torch.channels_last) for level in features])
    for level, other in zip(expected, others, strict=True):
        assert_close(other, level, rtol=1e-4, atol=1e-5 * level.abs().max().item())


@every_member
def test_gradients_reach_every_parameter_and_used_map(neck, name):
    neck = build(neck, name).train()
    features = [level.requires_grad_() for level in draw(neck, (256, 192))]
    generator = torch.Generator().manual_seed(3)
    sum((level * torch.randn(level.shape, generator=generator)).mean() for level in neck(features)).backward()
    # DDP without find_unused_parameters waits for every gradient, in the first step already.
    idle = [key for key, tensor in neck.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert idle == []
    used = [neck.in_index] if hasattr(neck, "in_index") else range(neck.start_level, 4)
    assert [index for index, level in enumerate(features) if level.grad is not None] == list(used)
    assert all(features[index].grad.any() for index in used)


@every_member
@torch.no_grad()
def test_images_of_a_batch_do_not_mix_and_a_second_pass_is_the_same(neck, name):
    neck = perturb(build(neck, name)).eval()
    features = draw(neck, (67, 129), batch=3)
    maps, again = neck(features), neck(features)
    singles = [neck([level[index : index + 1] for level in features]) for index in range(3)]
    for level, repeated, parts in zip(maps, again, zip(*singles, strict=True), strict=True):
        assert torch.equal(level, repeated)
        assert_close(level, torch.cat(parts), rtol=1e-4, atol=1e-5 * level.abs().max().item())


@every_member
@torch.no_grad()
def test_state_dict_carries_everything(neck, name):
    source, target = perturb(build(neck, name)).eval(), build(neck, name, seed=7).eval()
    features = draw(source, (64, 96))
    expected = source(features)
    assert not torch.allclose(target(features)[0], expected[0])
    target.load_state_dict(source.state_dict(), strict=True)
    for level, copied in zip(expected, target(features), strict=True):
        assert torch.equal(level, copied)


@every_member
@torch.no_grad()
def test_bfloat16_stays_near_float32(neck, name):
    neck = build(neck, name).eval()
    features = draw(neck, (64, 96), batch=1)
    expected = neck(features)
    with torch.autocast("cpu", torch.bfloat16):
        maps = neck(features)
    for level, exact in zip(maps, expected, strict=True):
        assert exact.norm() > 0
        assert (level.float() - exact).norm() < 0.05 * exact.norm()


@every_member
@torch.no_grad()
def test_one_graph_for_torch_compile(neck, name):
    torch._dynamo.reset()
    neck = perturb(build(neck, name)).eval()
    features = draw(neck, (67, 129), batch=1)
    # fullgraph raises at the first thing that is not part of a graph.
    compiled = torch.compile(neck, fullgraph=True, backend="eager", dynamic=False)
    for level, expected in zip(compiled(features), neck(features), strict=True):
        assert_close(level, expected)


@some_members
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
def test_onnxruntime_computes_the_same(neck, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    neck = perturb(build(neck, name)).eval()
    features = draw(neck, (67, 129), batch=1)
    expected = neck(features)
    torch.onnx.export(neck, (features,), tmp_path / "neck.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "neck.onnx", providers=["CPUExecutionProvider"])
    # The exporter names the inputs in their order, and leaves out those that nothing depends on.
    inputs = {given.name: features[int(given.name.rpartition("_")[2])].numpy() for given in session.get_inputs()}
    for level, exact in zip(session.run(None, inputs), expected, strict=True):
        np.testing.assert_allclose(level, exact.numpy(), rtol=1e-4, atol=1e-4 * exact.abs().max().item())


@every_member
def test_maps_of_other_channels_are_refused(neck, name):
    neck = build(neck, name)
    features = list(draw(neck, (64, 64)))
    wide = [torch.cat((features[0], features[0][:, :1]), dim=1), *features[1:]]
    for wrong in (wide, [*features, features[-1]], wide[0]):
        found = [level.shape[1] for level in wrong] if isinstance(wrong, list) else [wrong.shape[1]]
        with pytest.raises(ValueError) as caught:
            neck(wrong)
        built_for = f"{type(neck).__name__} was built for in_channels {list(neck.in_channels)}"
        check_one_line(caught, [built_for, f"set neck.in_channels={found}"])


BAD_OPTIONS = {
    "outputs": (dict(num_outs=1, start_level=0), ["num_outs 1", "4 levels", "set num_outs=4"]),
    "extra levels": (dict(extra_levels="learn"), ["'learn'", "pool, conv, conv_on_input"]),
    "norm": (dict(norm="IN"), ["'IN'", "None, BN, GN, LN"]),
    "conv": (dict(conv="dw"), ["'dw'", "full, depthwise"]),
    "strides": (dict(in_channels=CHANNELS, strides=[8, 16]), ["[8, 16]", "one for each", str(CHANNELS)]),
    "strides backwards": (dict(in_channels=CHANNELS, strides=[8, 4, 16, 32]), ["[8, 4, 16, 32]", "multiple of"]),
    "channels by a name": (dict(in_channels="backbone.out_channels"), ["'backbone.out_channels'", "neck.in_channels"]),
}


@pytest.mark.parametrize("neck", OPTIONS)
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_cannot_work(neck, case):
    options, words = BAD_OPTIONS[case]
    with pytest.raises(ValueError) as caught:
        build(neck, next(iter(OPTIONS[neck])), **options)
    check_one_line(caught, words)


@pytest.mark.parametrize("neck", OPTIONS)
@pytest.mark.parametrize("level", [4, -1])
def test_a_start_level_that_is_not_there(neck, level):
    with pytest.raises(ValueError) as caught:
        build(neck, next(iter(OPTIONS[neck])), start_level=level)
    check_one_line(caught, [f"start_level {level} ", "0, 1, 2, 3"])


def check_one_line(caught, words):
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
