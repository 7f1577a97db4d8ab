"""Tensors of a size are made once, serve training after inference, and stay out of graphs."""

import torch

from hybrid_dense.layers.kept import kept
from hybrid_dense.layers.position import Rotation, sine_positions
from hybrid_dense.layers.windows import WindowPlan


def counted():
    made = []

    @kept
    def ones(size: tuple[int, ...]) -> torch.Tensor:
        """Ones of a size."""
        made.append(size)
        return torch.ones(size)

    return ones, made


def test_made_once_for_each_size():
    ones, made = counted()
    assert ones((2, 3)) is ones((2, 3))
    assert ones((3, 2)).shape == (3, 2)
    assert made == [(2, 3), (3, 2)]
    assert (ones.__name__, ones.__doc__) == ("ones", "Ones of a size.")


def test_what_inference_made_can_be_saved_for_a_gradient():
    ones, made = counted()
    with torch.inference_mode():
        ones((2,))
    weight = torch.zeros(2, requires_grad=True)
    (weight * ones((2,))).sum().backward()
    assert made == [(2,)] and weight.grad.tolist() == [1, 1]


def test_a_graph_keeps_its_own():
    ones, made = counted()
    ones((2,))

    def plus_one(values: torch.Tensor) -> torch.Tensor:
        return values + ones((2,))

    assert torch.jit.trace(plus_one, torch.zeros(2), check_trace=False)(torch.ones(2)).tolist() == [2, 2]
    assert len(made) > 1
    compiled = torch.compile(plus_one, backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert ones.cache_info().hits == 0


def test_positions_and_masks_are_kept():
    cpu = torch.device("cpu")
    assert sine_positions(8, (3, 5), 14, cpu) is sine_positions(8, (3, 5), 14, cpu)
    assert Rotation.of_grid((3, 5), 8, torch.float32, cpu) is Rotation.of_grid((3, 5), 8, torch.float32, cpu)
    plan = WindowPlan.fit(16, 15, 7)
    assert plan.mask(2, cpu) is WindowPlan.fit(16, 15, 7).mask(2, cpu) is not None
