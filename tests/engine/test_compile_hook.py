"""CompileHook on a small detector. Most tests trace without making code, which takes a second instead of minutes."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.testing import assert_close

import hybrid_dense  # noqa: F401  (registers the hooks)
from hybrid_dense.engine import precision
from hybrid_dense.engine.hooks import compile as compile_hook
from hybrid_dense.engine.hooks.compile import compile_modules
from hybrid_dense.engine.precision import autocast_modules


class Trunk(nn.Module):
    """Convolution, BatchNorm and a loop over what depends on nothing but sizes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.norm(self.conv(images)).relu()
        return maps, maps[..., ::2, ::2]


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, maps):
        return tuple(self.conv(level) for level in maps)


class Model(BaseModel):
    """A loss of a backbone, a neck and a head, as a detector is called."""

    def __init__(self, backbone=None):
        super().__init__()
        self.backbone, self.neck, self.bbox_head = backbone or Trunk(), Neck(), nn.Conv2d(4, 1, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        outputs = [self.bbox_head(level) for level in self.neck(self.backbone(inputs))]
        return dict(loss=sum(output.pow(2).mean() for output in outputs)) if mode == "loss" else outputs


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().train()


def count_graphs():
    """A backend that runs graphs as they are, and the list of the graphs it was given."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend, graphs


@pytest.fixture
def said(monkeypatch):
    """What the hook says in the log."""
    lines = []
    monkeypatch.setattr(compile_hook, "print_log", lambda line, *where, **level: lines.append(line))
    return lines


def images(height=16, width=24, count=2):
    torch.manual_seed(1)
    return torch.randn(count, 3, height, width)


def test_backbone_and_neck_are_one_graph_each_and_train_the_same(model):
    plain, (backend, graphs) = copy.deepcopy(model), count_graphs()
    assert compile_modules(model, backend=backend) == ["backbone", "neck"]
    for one in (plain, model):
        one(images(), mode="loss")["loss"].backward()
    assert len(graphs) == 2
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, dict(plain.named_parameters())[name].grad)
    assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_names_stay_plain(model):
    names = list(model.state_dict())
    compile_modules(model, backend="eager")
    model(images(), mode="loss")
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules() if "_orig_mod" in name] == []


def test_new_sizes_become_variables_of_the_graph(model):
    backend, graphs = count_graphs()
    compile_modules(model, backend=backend)
    for size in [(16, 24), (16, 32), (20, 24), (30, 36), (40, 28), (18, 50)]:
        model(images(*size), mode="loss")
    assert len(graphs) <= 6  # at most: fixed sizes, one free side, both free, for two parts


def test_validation_runs_uncompiled(model):
    backend, graphs = count_graphs()
    compile_modules(model, backend=backend)
    with torch.no_grad():
        model.eval()(images())
    assert graphs == []
    model.train()(images(), mode="loss")
    assert len(graphs) == 2


def test_autocast_stays_around_it(model):
    plain, (backend, graphs) = copy.deepcopy(model), count_graphs()
    for one in (plain, model):
        autocast_modules(one)
    compile_modules(model, backend=backend)
    losses = [one(images(), mode="loss")["loss"] for one in (plain, model)]
    assert len(graphs) == 2
    assert_close(*losses)
    exact = copy.deepcopy(plain)
    for part in (exact.backbone, exact.neck, exact.bbox_head):
        del part.forward
    assert losses[1] != exact(images(), mode="loss")["loss"]


class Untraceable(Trunk):
    """Looks at numbers, which no graph can."""

    def forward(self, images):
        self.seen = images.sum().item()
        return super().forward(images) if self.seen > -1e9 else None


def test_what_cannot_be_traced_goes_on_uncompiled_with_one_line(said):
    model = Model(Untraceable()).train()
    expected = copy.deepcopy(model)(images(), mode="loss")["loss"]
    backend, graphs = count_graphs()
    compile_modules(model, backend=backend)
    losses = [model(images(), mode="loss")["loss"] for _ in range(3)]
    assert_close(losses, [expected] * 3)
    assert len(graphs) == 1  # the neck's
    (line,) = said
    assert line.startswith("backbone runs uncompiled: ") and "data-dependent" in line and "\n" not in line


def test_what_takes_statistics_over_all_gpus_is_left_out_and_the_mend_is_named():
    model = Model().train()
    model.backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.backbone.modules())
    warned, told = [], []
    logger = SimpleNamespace(warning=warned.append, info=told.append)
    compile_hook.CompileHook("eager").before_train(SimpleNamespace(model=model, logger=logger))
    assert told == ["torch.compile (eager) of: neck; the first steps take minutes"]
    (line,) = warned
    assert line.startswith("backbone runs uncompiled: ") and "--cfg-options sync_bn=None" in line


def test_a_compiler_that_fails_is_no_end_of_the_training(model, said):
    expected = copy.deepcopy(model)(images(), mode="loss")["loss"]

    def broken(graph, inputs):
        raise RuntimeError("no compiler on this machine")

    compile_modules(model, backend=broken)
    assert_close(model(images(), mode="loss")["loss"], expected)
    assert [line.split()[0] for line in said] == ["backbone", "neck"]
    assert "no compiler on this machine" in said[0]


def test_too_many_graphs_are_no_end_of_the_training(model, said):
    compile_modules(model, backend="eager", dynamic=False, recompile_limit=2)
    for height in range(16, 32, 4):
        assert model(images(height), mode="loss")["loss"].isfinite()
    assert [line.split(":")[0] for line in said] == ["backbone runs uncompiled", "neck runs uncompiled"]
    assert "FailOnRecompileLimitHit" in said[0]


def test_models_of_one_class_do_not_share_a_limit(model, said):
    for one in (model, copy.deepcopy(model)):
        compile_modules(one, backend="eager", dynamic=False, recompile_limit=2)
        for height in (16, 20):
            one(images(height), mode="loss")
    assert said == []


def test_an_error_of_the_model_keeps_its_own_words(model):
    compile_modules(model, backend="eager")
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 5 channels"):
        model(torch.randn(1, 5, 16, 16), mode="loss")


def test_out_of_memory_is_no_reason_to_try_again(model):
    def full(graph, inputs):
        def run(*tensors):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    compile_modules(model, backend=full)
    with pytest.raises(torch.OutOfMemoryError):
        model(images(), mode="loss")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_model_of_its_own(model, duplicate):
    compile_modules(model, backend="eager")
    before = model(images(), mode="loss")["loss"]
    other = duplicate(model)
    for part in (other.backbone, other.neck):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.zero_()
    assert all(level.count_nonzero() == 0 for level in other.backbone(images()))
    assert all(level.count_nonzero() == 0 for level in other.neck(model.backbone(images())))
    assert_close(model(images(), mode="loss")["loss"], before)


def test_distributed_data_parallel(model, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, (backend, graphs) = copy.deepcopy(model), count_graphs()
        wrapped = MMDistributedDataParallel(model)
        compile_modules(model, backend=backend)
        wrapped(images(), mode="loss")["loss"].backward()
        plain(images(), mode="loss")["loss"].backward()
        assert len(graphs) == 2
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, dict(plain.named_parameters())[name].grad)
    finally:
        torch.distributed.destroy_process_group()


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return dict(inputs=torch.randn(3, 16, 24))


def train(folder, hooks):
    torch.manual_seed(0)
    loader = dict(batch_size=2, dataset=Pictures(), sampler=dict(type="DefaultSampler", shuffle=False))
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(loader, collate_fn=dict(type="default_collate")),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=hooks,
        experiment_name=folder.name,
    )
    runner.train()
    return torch.load(folder / "epoch_2.pth", weights_only=False)


def test_training_with_autocast_and_ema_saves_what_it_saves_without(tmp_path, monkeypatch):
    """The hook in a run: after AutocastHook, beside EMAHook, whose copy neither compiles nor follows the original."""
    monkeypatch.setattr(precision, "computes", lambda device, dtype: True)
    backend, graphs = count_graphs()
    hook = HOOKS.build(dict(type="CompileHook"))
    hook.options["backend"] = backend
    around = [dict(type="AutocastHook"), EMAHook(momentum=0.5, update_buffers=True)]
    plain = train(tmp_path / "plain", around)
    compiled = train(
        tmp_path / "compiled", [dict(type="AutocastHook"), EMAHook(momentum=0.5, update_buffers=True), hook]
    )
    assert len(graphs) == 2
    for part in ("state_dict", "ema_state_dict"):
        assert list(compiled[part]) == list(plain[part])
        assert_close(compiled[part], plain[part])
    weights, averaged = compiled["ema_state_dict"]["module.backbone.conv.weight"], compiled["state_dict"]
    assert not torch.equal(weights, averaged["backbone.conv.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("with_cp", [False, True])
def test_inductor_trains_the_nano_hybrid(with_cp, said):
    """A real compilation, under bfloat16 autocast."""
    from hybrid_dense.backbones import ParallelResNeXtViT

    torch.manual_seed(0)
    model = Model(ParallelResNeXtViT("rxnano_vit_pico", with_cp=with_cp)).train()
    model.neck = nn.Identity()
    channels = model.backbone.out_channels
    model.bbox_head = nn.ModuleList(nn.Conv2d(channel, 1, 1) for channel in channels)

    def gradients(model):
        maps = model.backbone(images(64, 96))
        loss = sum(head(level).pow(2).mean() for head, level in zip(model.bbox_head, maps, strict=True))
        loss.backward()
        return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    plain, exact = copy.deepcopy(model), copy.deepcopy(model)
    for one in (plain, model):
        autocast_modules(one)
    compile_modules(model)
    (exact_loss, truth), (loss, rounded), (compiled_loss, compiled) = map(gradients, (exact, plain, model))
    assert said == []
    assert [loss, compiled_loss] == pytest.approx([exact_loss] * 2, rel=0.02)
    # Roundings to bfloat16 fall differently in a compiled graph; they must not be worse.
    likeness = torch.cosine_similarity(torch.stack([rounded, compiled]), truth[None])
    assert likeness[1] > likeness[0] - 0.02 > 0.9
