"""Deformable attention against a loop, against mmcv's two forms of it, and where it may not use the compiled one."""

import math
import subprocess
import sys

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention, multi_scale_deformable_attn_pytorch
from torch.testing import assert_close

from hybrid_dense.layers import deformable
from hybrid_dense.layers.deformable import DeformableAttention, cell_centres, deformable_attention, ring

SHAPES = ((6, 9), (3, 5), (2, 3), (1, 1))


def draw(shapes=SHAPES, batch=2, queries=7, heads=3, channels=4, points=5, dtype=torch.float64, device="cpu"):
    """Values, locations of which a good part lies outside, and weights; all need gradients."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(batch, cells, heads, channels, generator=generator)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    return [tensor.to(device, dtype).requires_grad_() for tensor in (value, locations, weights)]


def sample_one_by_one(value, shapes, locations, weights):
    """Bilinear interpolation as one writes it down."""
    batch, _, heads, channels = value.shape
    answer = torch.zeros(batch, locations.shape[1], heads, channels, dtype=value.dtype)
    for image, query, head, level, point in torch.cartesian_prod(
        *(torch.arange(count) for count in locations.shape[:-1])
    ).tolist():
        height, width = shapes[level]
        start = sum(h * w for h, w in shapes[:level])
        x, y = locations[image, query, head, level, point].tolist()
        x, y = x * width - 0.5, y * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[image, query, head, level, point]
                    answer[image, query, head] += share * value[image, start + row * width + column, head]
    return answer.flatten(2)


def gradients(call, operands, weighting):
    for operand in operands:
        operand.grad = None
    (call(*operands) * weighting).sum().backward()
    return [operand.grad for operand in operands]


@torch.no_grad()
def test_it_is_bilinear_interpolation_one_sample_at_a_time():
    value, locations, weights = draw()
    expected = sample_one_by_one(value, SHAPES, locations, weights)
    assert_close(deformable_attention(value, SHAPES, locations, weights), expected)


def test_gradients_are_those_of_finite_differences():
    operands = draw(shapes=((3, 4), (2, 2)), batch=1, queries=2, heads=2, channels=3, points=2)
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: deformable_attention(value, ((3, 4), (2, 2)), locations, weights), operands
    )


def test_parity_with_mmcvs_pytorch_form():
    operands = draw()
    shapes = torch.tensor(SHAPES)
    forms = [
        lambda value, locations, weights: deformable_attention(value, SHAPES, locations, weights),
        lambda value, locations, weights: multi_scale_deformable_attn_pytorch(value, shapes, locations, weights),
    ]
    ours, theirs = (form(*operands) for form in forms)
    assert_close(ours, theirs)
    weighting = torch.randn_like(theirs)
    ours, theirs = (gradients(form, operands, weighting) for form in forms)
    for mine, other in zip(ours, theirs, strict=True):
        assert other.any()
        assert_close(mine, other)


@pytest.mark.parametrize(("batch", "queries"), [(2, 7), (65, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parity_with_the_compiled_operator(dtype, batch, queries):
    if not torch.cuda.is_available() or deformable.load_operator() is None:
        pytest.skip("mmcv's operator exists for CUDA only, and this machine or this build of mmcv has none")
    # 32 channels and 64: the operator's backward has a kernel of its own for each range.
    for channels in (4, 32, 64):
        operands = draw(batch=batch, queries=queries, channels=channels, dtype=dtype, device="cuda")
        assert deformable.operator_for(operands[0]) is not None

        def plain(value, locations, weights):
            return deformable.sample(value, locations, weights, SHAPES)

        def compiled(value, locations, weights):
            return deformable_attention(value, SHAPES, locations, weights)

        tolerance = dict(rtol=1e-4, atol=1e-4) if dtype == torch.float32 else dict(rtol=1e-9, atol=1e-9)
        expected = plain(*operands)
        assert_close(compiled(*operands), expected, **tolerance)
        weighting = torch.randn_like(expected)
        for ours, theirs in zip(
            gradients(plain, operands, weighting), gradients(compiled, operands, weighting), strict=True
        ):
            assert_close(ours, theirs, **tolerance)


@pytest.fixture
def stand_in(monkeypatch):
    """An operator for the CPU with the signature and the demands of mmcv's; it notes its calls."""
    calls = []

    def operate(value, sizes, starts, locations, weights, step):
        assert value.shape[0] % min(step, value.shape[0]) == 0
        assert all(tensor.is_contiguous() for tensor in (value, sizes, starts, locations, weights))
        assert value.dtype == locations.dtype == weights.dtype
        assert sizes.dtype == starts.dtype == torch.int64
        areas = [height * width for height, width in sizes.tolist()]
        assert starts.tolist() == [sum(areas[:level]) for level in range(len(areas))]
        calls.append(value.dtype)
        return multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)

    monkeypatch.setattr(deformable, "OPERATOR_DEVICES", ("cpu",))
    monkeypatch.setattr(deformable, "load_operator", lambda: operate)
    return calls


@torch.no_grad()
def test_the_operator_gets_what_it_demands(stand_in):
    # A batch of 65 is more than one step of the operator's usual 64, and does not divide by it.
    value, locations, weights = draw(dtype=torch.float32, batch=65, queries=2)
    expected = deformable.sample(value, locations, weights, SHAPES)
    strided = value.transpose(0, 1).contiguous().transpose(0, 1)
    assert_close(deformable_attention(strided, list(SHAPES), locations, weights), expected)
    assert stand_in == [torch.float32]


@torch.no_grad()
def test_the_operator_never_sees_bfloat16(stand_in):
    value, locations, weights = draw(dtype=torch.float32)
    rounded = value.bfloat16(), locations, weights.bfloat16()
    answer = deformable_attention(rounded[0], SHAPES, *rounded[1:])
    assert stand_in == [torch.float32]
    assert answer.dtype == torch.bfloat16
    assert_close(answer.float(), deformable_attention(value, SHAPES, locations, weights), rtol=0.02, atol=0.05)
    stand_in.clear()
    deformable_attention(value.bfloat16(), SHAPES, locations.bfloat16(), weights.bfloat16())
    assert stand_in == []


def test_what_inference_keeps_serves_training(stand_in):
    deformable.level_table.cache_clear()
    operands = draw(dtype=torch.float32)
    with torch.inference_mode():
        deformable_attention(operands[0], SHAPES, *operands[1:])
    for tensor in deformable.level_table(SHAPES, torch.device("cpu")):
        assert not tensor.is_inference(), "autograd refuses to save it"
    assert deformable.level_table.cache_info().hits == 1


@torch.no_grad()
def test_the_operator_stays_out_of_traced_graphs(stand_in):
    class Attention(torch.nn.Module):
        def forward(self, value, locations, weights):
            return deformable_attention(value, SHAPES, locations, weights)

    operands = [operand.detach() for operand in draw(dtype=torch.float32)]
    expected = deformable.sample(*operands, SHAPES)
    traced = torch.compile(Attention(), backend="eager", fullgraph=True)
    assert_close(traced(*operands), expected)
    for strict in (False, True):
        assert_close(torch.export.export(Attention(), tuple(operands), strict=strict).module()(*operands), expected)
    assert_close(torch.jit.trace(Attention(), tuple(operands), check_trace=False)(*operands), expected)
    assert stand_in == []
    Attention()(*operands)
    assert stand_in == [torch.float32]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_there_is_no_operator_for_other_devices(device):
    assert deformable.operator_for(torch.empty(1, 2, 3, 4, device=device)) is None


def test_mmcvs_operators_are_not_imported_before_a_cuda_tensor_asks():
    script = """
import sys, torch
from hybrid_dense.layers.deformable import DeformableAttention
attention = DeformableAttention(8, heads=2, levels=1, points=2)
attention(torch.randn(1, 3, 8), torch.randn(1, 6, 4), [(2, 3)], torch.rand(3, 1, 2)).sum().backward()
print([name for name in sys.modules if name.startswith("mmcv.ops")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_outside_counts_as_zero(dtype):
    value = torch.ones(1, 6, 1, 1, dtype=dtype)
    places = {(0.5, 0.5): 1.0, (0.0, 0.5): 0.5, (1.0, 1.0): 0.25, (-0.5, 0.5): 0.0, (0.5, 1.9): 0.0, (50.0, -50.0): 0.0}
    locations = torch.tensor(list(places), dtype=dtype).reshape(1, -1, 1, 1, 1, 2)
    weights = torch.ones(locations.shape[:-1], dtype=dtype)
    sampled = deformable_attention(value, [(2, 3)], locations, weights)
    assert_close(sampled.flatten(), torch.tensor(list(places.values()), dtype=dtype))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 65), (250, 100), (167, 49)])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_cells_centre_is_found_on_every_level(height, width, stride):
    """Where each cell of a level holds the image coordinates of its own centre, sampling gives the query's."""
    strides = (4, 8, 16, 32)
    shapes = [(-(-height // step), -(-width // step)) for step in strides]
    size = -(-height // stride), -(-width // stride)
    reference = cell_centres(size, stride, shapes, strides)
    assert reference.shape == (size[0] * size[1], 4, 2)
    x, y = ((torch.arange(side) + 0.5) * stride for side in (size[1], size[0]))
    asked = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
    for level, ((rows, columns), step) in enumerate(zip(shapes, strides, strict=True)):
        centres = torch.meshgrid(*((torch.arange(side) + 0.5) * step for side in (rows, columns)), indexing="ij")
        value = torch.stack(centres, dim=-1).reshape(1, rows * columns, 1, 2)
        locations = reference[None, :, None, level : level + 1, None]
        sampled = deformable_attention(value, [(rows, columns)], locations, torch.ones(locations.shape[:-1]))[0]
        # Nearer to the edge than the outermost centres there is nothing to interpolate with.
        inner = ((asked >= step / 2) & (asked <= torch.tensor([rows - 0.5, columns - 0.5]) * step)).all(dim=1)
        assert inner.any() or step > stride
        assert_close(sampled[inner], asked[inner], rtol=1e-4, atol=1e-2)


@pytest.fixture
def pair():
    """Our attention, and mmcv's with the same weights and nothing before and after."""
    torch.manual_seed(0)
    ours = DeformableAttention(24, heads=3, levels=4, points=5).eval()
    theirs = MultiScaleDeformableAttention(24, num_heads=3, num_levels=4, num_points=5, batch_first=True).eval()
    with torch.no_grad():
        for mine, other in [(ours.offsets, theirs.sampling_offsets), (ours.weights, theirs.attention_weights)]:
            mine.weight.normal_(std=0.3)
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
        for project in (theirs.value_proj, theirs.output_proj):
            project.weight.copy_(torch.eye(24))
            project.bias.zero_()
    return ours, theirs


@torch.no_grad()
def test_the_module_is_mmcvs_without_its_projections(pair):
    ours, theirs = pair
    query, value = torch.randn(2, 7, 24), torch.randn(2, 54 + 15 + 6 + 1, 24)
    reference = torch.rand(2, 7, 4, 2)
    expected = theirs(query, value=value, reference_points=reference, spatial_shapes=torch.tensor(SHAPES)) - query
    assert_close(ours(query, value, SHAPES, reference), expected, rtol=1e-4, atol=1e-5)
    for image in range(2):
        assert_close(ours(query, value, SHAPES, reference[image])[image], expected[image], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "points"), [(8, 4), (3, 5), (12, 4), (1, 1)])
def test_it_starts_on_the_ring_of_the_reference(heads, points):
    dim = 4 * heads
    theirs = MultiScaleDeformableAttention(dim, num_heads=heads, num_levels=3, num_points=points)
    ours = DeformableAttention(dim, heads, levels=3, points=points)
    assert_close(ours.offsets.bias.data, theirs.sampling_offsets.bias.data)
    assert_close(ring(heads, points)[:, 0].abs().amax(dim=1), torch.ones(heads))
    assert not ours.weights.bias.any()


@torch.no_grad()
def test_places_keep_their_precision_under_bfloat16():
    """A map of 1000 columns: bfloat16 would place its far cells four columns apart."""
    attention = DeformableAttention(8, heads=1, levels=1, points=1)
    attention.offsets.weight.zero_()
    attention.offsets.bias.zero_()
    value = torch.arange(1000.0).reshape(1, 1000, 1)
    reference = cell_centres((1, 1000), 1, [(1, 1000)], [1])
    with torch.autocast("cpu", torch.bfloat16):
        sampled = attention(torch.zeros(1, 1000, 8), value, [(1, 1000)], reference)
    assert_close(sampled, value, rtol=1e-3, atol=1e-2)


def test_what_does_not_fit():
    attention = DeformableAttention(8, heads=3, levels=1, points=2)
    query, reference = torch.randn(1, 4, 8), torch.rand(4, 1, 2)
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels; use a multiple of 3"):
        attention(query, torch.randn(1, 6, 8), [(2, 3)], reference)
    with pytest.raises(ValueError, match=r"levels of shapes \[\(2, 4\)\] have 8 cells, the values 6"):
        attention(query, torch.randn(1, 6, 9), [(2, 4)], reference)
    with pytest.raises(ValueError, match="2 level shapes for attention over 1 levels"):
        attention(query, torch.randn(1, 6, 9), [(1, 3), (1, 3)], reference)
