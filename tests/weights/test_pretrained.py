"""A backbone is filled as far as it was asked for, or not at all, and the report says what happened."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights import CoverageError, convert, load_pretrained

hybrid_dense.register_all_modules()


def build(topology="ParallelResNeXtViT", variant="rxnano_vit_pico", **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=topology, variant=variant, **options))


def cnn_file(**options) -> dict:
    torch.manual_seed(1)
    state = ResNeXt(CNN_ARCHS["rxnano"], **options).state_dict()
    return {**state, "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}


def vit_file(row="pico", **options) -> dict:
    torch.manual_seed(1)
    return {**ViT(VIT_ARCHS[row], **options).state_dict(), "head.weight": torch.ones(10, 96)}


def snapshot(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


def count_values(trunk) -> int:
    """Of parameters and BatchNorm's statistics, not its counters."""
    return sum(value.numel() for value in trunk.state_dict().values() if value.is_floating_point())


def test_both_trunks_are_filled_and_nothing_else():
    backbone, cnn, vit = build(), cnn_file(), vit_file()
    cnn["bn1.running_mean"] = torch.full((16,), 5.0)
    before = snapshot(backbone.fusions)
    report = load_pretrained(backbone, cnn=cnn, vit=vit)
    assert_close(backbone.cnn.state_dict(), {name: value for name, value in cnn.items() if "fc" not in name})
    assert_close(backbone.vit.state_dict(), {name: value for name, value in vit.items() if "head" not in name})
    assert_close(backbone.fusions.state_dict(), before)
    assert report.cnn.coverage == report.vit.coverage == 1
    assert report.cnn.unexpected == ("fc.weight", "fc.bias") and report.cnn.missing == report.cnn.resized == ()
    assert report.cnn.values == count_values(backbone.cnn)


def test_one_trunk_alone():
    backbone = build()
    before = snapshot(backbone.vit)
    report = load_pretrained(backbone, cnn=cnn_file())
    assert report.vit is None and report.trunks == (report.cnn,)
    assert_close(backbone.vit.state_dict(), before)


def test_coverage_counts_elements():
    cnn = cnn_file()
    del cnn["layer4.0.conv2.weight"], cnn["layer4.0.bn1.num_batches_tracked"], cnn["bn1.running_mean"]
    coverage = load_pretrained(build(), cnn=cnn, min_coverage=0.5).cnn
    total = count_values(build().cnn)
    gap = build().cnn.layer4[0].conv2.weight.numel() + 16
    assert coverage.coverage == (total - gap) / total
    assert coverage.missing == ("bn1.running_mean", "layer4.0.conv2.weight")


def test_statistics_that_are_missing_are_no_hundred_percent():
    cnn = {name: value for name, value in cnn_file().items() if "running" not in name}
    report = load_pretrained(build(), cnn=cnn)
    parameters = sum(parameter.numel() for parameter in build().cnn.parameters())
    assert report.cnn.coverage == parameters / count_values(build().cnn) < 1
    assert not report.cnn.is_whole and all("running" in name for name in report.cnn.missing)


def test_another_stem_is_said():
    for file, trunk, hint in [
        (False, True, "the file has no deep stem: build without deep_stem"),
        (True, False, "build the backbone with deep_stem=True"),
    ]:
        coverage = load_pretrained(build(deep_stem=trunk), cnn=cnn_file(deep_stem=file)).cnn
        assert coverage.hint.endswith(f" weights: {hint}") and not coverage.is_whole


@pytest.mark.parametrize("bad", ["cnn", "vit"])
def test_below_the_minimum_nothing_is_changed(bad):
    backbone = build()
    files = {"cnn": cnn_file(), "vit": vit_file()}
    gap = {"cnn": "layer4.0.conv", "vit": "blocks.3.mlp"}[bad]
    files[bad] = {name: value for name, value in files[bad].items() if gap not in name or "conv3" in name}
    before = snapshot(backbone)
    with pytest.raises(CoverageError, match="less than min_coverage=0.95 was filled; nothing was loaded") as error:
        load_pretrained(backbone, **files)
    assert all(
        part in str(error.value) for part in ("cnn from state dict", "vit from state dict", "missing", "matched")
    )
    assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert load_pretrained(backbone, **files, min_coverage=0.1).trunks


def test_the_report_is_readable_and_frozen():
    vit = vit_file(native_size=7) | {f"decoder_blocks.{i}.norm1.weight": torch.ones(8) for i in range(8)}
    report = load_pretrained(build(), vit=vit)
    text = str(report)
    assert text.splitlines()[0].startswith(
        "vit from state dict (timm ViT (AugReg, DeiT, DINO, MAE's encoder)): 100 % of 0.5"
    )
    assert "pos_embed (1×49×96 to 1×196×96)" in text
    assert "head, decoder_blocks ×8" in text
    assert max(map(len, text.splitlines())) < 160
    assert "decoder_blocks.7.norm1.weight" in report.table(all=True)
    assert "blocks.3.attn.qkv.weight" in report.table(all=True)
    with pytest.raises(FrozenInstanceError):
        report.vit = None


def test_a_gap_is_never_a_hundred_percent():
    vit = vit_file()
    del vit["norm.bias"]
    report = load_pretrained(build(), vit=vit)
    assert "99.9 %" in str(report) and "missing        1  norm.bias" in str(report)


@pytest.mark.parametrize(("norm", "last"), [("pre", "mlp.fc2"), ("post", "norm2")])
def test_layer_scale_is_folded_into_a_trunk_without(norm, last):
    scaled = ViT(VIT_ARCHS["pico"], layer_scale=0.3, norm=norm)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if "ls" in name:
                parameter.add_(torch.rand_like(parameter))
    backbone = build(norm=norm)
    report = load_pretrained(backbone, vit=scaled.state_dict())
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(backbone.vit.eval()(batch), scaled.eval()(batch), atol=1e-5, rtol=1e-5)
    assert report.vit.unexpected == () and report.vit.coverage == 1
    assert report.vit.notes[f"blocks.2.{last}.bias"] == "layer scale folded in"
    assert f"blocks.*.{last}.weight (layer scale folded in) ×4" in report.vit.table()
    assert report.vit.hint == "" and report.vit.is_whole


def test_layer_scale_that_the_file_lacks_is_one():
    backbone, plain = build(layer_scale=1e-5), ViT(VIT_ARCHS["pico"])
    report = load_pretrained(backbone, vit=plain.state_dict())
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(backbone.vit.eval()(batch), plain.eval()(batch), atol=1e-6, rtol=0)
    assert report.vit.is_whole and report.vit.coverage == 1
    assert "blocks.*.ls1.gamma (no layer scale in the file: 1) ×4" in str(report)


def test_a_part_of_the_layer_scale_is_a_gap():
    vit = vit_file(layer_scale=1e-5)
    del vit["blocks.2.ls1.gamma"]
    report = load_pretrained(build(layer_scale=1e-5), vit=vit)
    assert report.vit.missing == ("blocks.2.ls1.gamma",) and not report.vit.is_whole


@pytest.mark.parametrize("channels", [1, 4])
def test_other_images_channels(channels):
    backbone, cnn, vit = build(in_channels=channels), cnn_file(), vit_file()
    report = load_pretrained(backbone, cnn=cnn, vit=vit)
    assert report.cnn.resized == ("conv1.weight",) and report.vit.resized == ("patch_embed.proj.weight",)
    if channels == 1:
        assert_close(backbone.cnn.conv1.weight, cnn["conv1.weight"].sum(1, keepdim=True))


def test_patch_14_to_16():
    vit = ViT(replace(VIT_ARCHS["pico"], patch=14), native_size=37).state_dict()
    report = load_pretrained(build(), vit=vit)
    assert report.vit.resized == ("pos_embed", "patch_embed.proj.weight") and report.vit.coverage == 1


def test_the_serial_topology_keeps_its_own_embedding():
    backbone = build("SerialResNeXtViT", variant="rxnano_vit_ti")
    before = backbone.vit.patch_embed.proj.weight.clone()
    report = load_pretrained(backbone, cnn=cnn_file(), vit=vit_file("ti"))
    assert report.vit.mismatched == ("patch_embed.proj.weight",) and report.vit.coverage > 0.95
    assert_close(backbone.vit.patch_embed.proj.weight, before)
    report = load_pretrained(build(variant="rxnano_vit_ti"), vit=backbone.vit.state_dict())
    assert report.vit.mismatched == ("patch_embed.proj.weight",) and report.vit.resized == ()


def test_residual_convolutions_are_no_gap():
    report = load_pretrained(build(residual_conv=True), vit=vit_file(), min_coverage=1)
    assert report.vit.coverage == 1 and all(name.startswith("residuals.") for name in report.vit.missing)
    own = load_pretrained(build(residual_conv=True), vit=vit_file(residual_conv=True))
    assert own.vit.missing == () and own.vit.values > report.vit.values
    assert report.vit.is_whole


def test_attention_in_the_bottleneck_is_no_gap():
    backbone = build("InterleavedResNeXtViT", attend_in="bottleneck")
    report = load_pretrained(backbone, cnn=cnn_file())
    assert report.cnn.coverage == 1
    assert report.cnn.missing and all(name.startswith("layer4.0.conv2.attn.") for name in report.cnn.missing)
    assert "parts that our blocks lack change the features until trained (layer*.*.conv2.weight)" in report.cnn.hint
    own = load_pretrained(backbone, cnn=backbone.cnn.state_dict())
    assert own.cnn.is_whole and own.cnn.values == count_values(backbone.cnn) > report.cnn.values


def test_own_checkpoints_get_no_false_hints():
    for options in (
        dict(norm_pre=True),
        dict(positions="sine"),
        dict(positions="rope", class_token=True, registers=2, layer_scale=1e-5),
        dict(positions="none"),
    ):
        assert load_pretrained(build(**options), vit=vit_file(**options)).vit.hint == ""
    hint = load_pretrained(build(), vit=vit_file(positions="sine")).vit.hint
    assert hint.endswith("no position table: build with positions='sine', 'rope' or 'none' as its network was")


@pytest.mark.parametrize("topology", ["InterleavedResNeXtViT", "GuidedResNeXtViT", "PlainViT", "PlainResNeXt"])
def test_every_topology_takes_them(topology):
    backbone = build(topology)
    files = {name: write() for name, write in (("cnn", cnn_file), ("vit", vit_file)) if hasattr(backbone, name)}
    assert all(trunk.coverage > 0.9 for trunk in load_pretrained(backbone, **files, min_coverage=0.9).trunks)


def test_half_precision_files_fill_float32_trunks():
    backbone, vit = build(), {name: value.half() for name, value in vit_file().items()}
    load_pretrained(backbone, vit=vit)
    assert backbone.vit.norm.weight.dtype == torch.float32


IMPOSSIBLE = {
    r"state dict is a ViT of dim 192, depth 12 \(row ti\), the trunk has dim 96, depth 4: use variant …_vit_ti": dict(
        vit=vit_file("ti")
    ),
    r"a CNN of blocks \(2, 2, 2, 2\), .* \(row rx26\), .*: use variant rx26_vit_…": dict(
        cnn=ResNeXt(CNN_ARCHS["rx26"]).state_dict()
    ),
    r"a CNN of blocks \(3, 4, 6, 3\), width 64, two 3×3 convolutions each \(row r34\), .*: use variant r34_vit_…": dict(
        cnn=ResNeXt(CNN_ARCHS["r34"]).state_dict()
    ),
    "no weights named; give cnn=… or vit=…": {},
    "min_coverage 95 is not a share": dict(cnn=cnn_file(), min_coverage=95),
    "min_coverage '0.9' is not a share": dict(cnn=cnn_file(), min_coverage="0.9"),
    "min_coverage nan is not a share": dict(cnn=cnn_file(), min_coverage=float("nan")),
    "state dict holds no weights; give a state dict": dict(cnn={}),
    "unknown source 5; weights come from a path, a URL": dict(vit=5),
    r"is a CNN of blocks \(2, 1, 1, 1\), [^()]*, the trunk has .*: no variant has these sizes": dict(
        cnn=ResNeXt(replace(CNN_ARCHS["rxnano"], blocks=(2, 1, 1, 1))).state_dict()
    ),
}


@pytest.mark.parametrize(("message", "arguments"), IMPOSSIBLE.items(), ids=range(len(IMPOSSIBLE)))
def test_what_cannot_be_is_one_line(message, arguments):
    backbone = build()
    before = snapshot(backbone)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(backbone, **arguments)
    assert "\n" not in str(error.value)
    assert_close(backbone.state_dict(), before, rtol=0, atol=0)


def test_a_trunk_that_is_not_there():
    with pytest.raises(ValueError, match="PlainViT has no CNN trunk; leave cnn=… out"):
        load_pretrained(build("PlainViT"), cnn=cnn_file())
    detector = torch.nn.Module()
    detector.backbone = build()
    with pytest.raises(ValueError, match="Module has no CNN trunk; give model.backbone$"):
        load_pretrained(detector, cnn=cnn_file())
    with pytest.raises(ValueError, match="a Linear is no trunk to fill"):
        convert(vit_file(), torch.nn.Linear(1, 1))


@pytest.fixture
def files(tmp_path):
    for name, state in (("cnn", cnn_file()), ("vit", vit_file())):
        torch.save({"model": state}, tmp_path / f"{name}.pth")
    return {name: str(tmp_path / f"{name}.pth") for name in ("cnn", "vit")}


def test_init_cfg(files, tmp_path):
    MMLogger.get_instance("test_init_cfg", log_file=str(tmp_path / "log.txt"))
    backbone = build(init_cfg=dict(type="TrunkPretrained", **files))
    backbone.init_weights()
    assert_close(backbone.cnn.state_dict(), {name: value for name, value in cnn_file().items() if "fc" not in name})
    assert_close(backbone.vit.pos_embed.data, vit_file()["pos_embed"])
    log = (tmp_path / "log.txt").read_text()
    assert f"cnn from {files['cnn']}" in log and f"vit from {files['vit']}" in log
    assert f"TrunkPretrained: cnn={files['cnn']}, vit={files['vit']}" in log  # mmengine's list of origins


def test_init_cfg_leaves_aside_what_a_plain_backbone_has_not(files):
    backbone = build("PlainViT", init_cfg=dict(type="TrunkPretrained", **files))
    backbone.init_weights()
    assert_close(backbone.vit.pos_embed.data, vit_file()["pos_embed"])


def test_init_cfg_with_nothing_to_use_is_a_warning(files, tmp_path):
    MMLogger.get_instance("test_nothing_to_use", log_file=str(tmp_path / "log.txt"))
    backbone = build("PlainViT", init_cfg=dict(type="TrunkPretrained", cnn=files["cnn"]))
    before = snapshot(backbone)
    backbone.init_weights()
    assert_close(backbone.state_dict(), before)
    log = (tmp_path / "log.txt").read_text()
    assert "WARNING" in log and "PlainViT has no CNN trunk: cnn=… of init_cfg is left aside" in log
    with pytest.raises(ValueError, match="no weights named"):
        build("PlainViT", init_cfg=dict(type="TrunkPretrained")).init_weights()


GAPS = {
    "nothing": (dict(), dict(), "INFO"),
    "residual convolutions": (dict(residual_conv=True), dict(), "INFO"),
    "a missing layer": (dict(), dict(without="norm.bias"), "WARNING"),
    "a hint": (dict(), dict(class_token=True), "WARNING"),
    "mismatched": (dict(in_channels=5), dict(in_channels=4), "WARNING"),
}


@pytest.mark.parametrize("gap", GAPS)
def test_init_cfg_warns_of_gaps(gap, tmp_path):
    options, file, level = GAPS[gap]
    without = file.get("without")
    state = vit_file(**{name: value for name, value in file.items() if name != "without"})
    torch.save({name: value for name, value in state.items() if name != without}, tmp_path / "vit.pth")
    MMLogger.get_instance(f"test_gaps_{gap}", log_file=str(tmp_path / "log.txt"))
    init_cfg = dict(type="TrunkPretrained", vit=str(tmp_path / "vit.pth"), min_coverage=0.5)
    build(init_cfg=init_cfg, **options).init_weights()
    (line,) = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.endswith("pretrained weights:")]
    assert f" - {level} - " in line


def test_init_cfg_stops_below_its_minimum(tmp_path):
    torch.save({name: value for name, value in vit_file().items() if "mlp" not in name}, tmp_path / "vit.pth")
    backbone = build(init_cfg=dict(type="TrunkPretrained", vit=str(tmp_path / "vit.pth")))
    with pytest.raises(CoverageError, match="missing"):
        backbone.init_weights()
