"""A backbone is filled as far as it was asked for, or not at all, and the report says what happened."""

import dataclasses

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
    assert report.cnn.parameters == sum(parameter.numel() for parameter in backbone.cnn.parameters())


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
    total = sum(parameter.numel() for parameter in build().cnn.parameters())
    gap = build().cnn.layer4[0].conv2.weight.numel()
    assert coverage.coverage == (total - gap) / total
    assert coverage.missing == ("bn1.running_mean", "layer4.0.conv2.weight")


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
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.vit = None


def test_a_gap_is_never_a_hundred_percent():
    vit = vit_file()
    del vit["norm.bias"]
    report = load_pretrained(build(), vit=vit)
    assert "99.9 %" in str(report) and "missing        1  norm.bias" in str(report)


def test_layer_scale_is_folded_into_a_trunk_without():
    scaled = ViT(VIT_ARCHS["pico"], layer_scale=0.3)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if "ls" in name:
                parameter.add_(torch.rand_like(parameter))
    backbone = build()
    report = load_pretrained(backbone, vit=scaled.state_dict())
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(backbone.vit.eval()(batch), scaled.eval()(batch), atol=1e-5, rtol=1e-5)
    assert report.vit.unexpected == () and report.vit.coverage == 1
    assert report.vit.notes["blocks.2.mlp.fc2.bias"] == "layer scale folded in"
    assert "blocks.*.attn.proj.weight (layer scale folded in) ×4" in str(report)
    assert "layer_scale=1e-05" in report.vit.hint


def test_layer_scale_that_the_file_lacks_is_missing():
    report = load_pretrained(build(layer_scale=1e-5), vit=vit_file())
    assert len(report.vit.missing) == 8 and "layer_scale=None" in report.vit.hint


@pytest.mark.parametrize("channels", [1, 4])
def test_other_images_channels(channels):
    backbone, cnn, vit = build(in_channels=channels), cnn_file(), vit_file()
    report = load_pretrained(backbone, cnn=cnn, vit=vit)
    assert report.cnn.resized == ("conv1.weight",) and report.vit.resized == ("patch_embed.proj.weight",)
    if channels == 1:
        assert_close(backbone.cnn.conv1.weight, cnn["conv1.weight"].sum(1, keepdim=True))


def test_patch_14_to_16():
    vit = ViT(dataclasses.replace(VIT_ARCHS["pico"], patch=14), native_size=37).state_dict()
    report = load_pretrained(build(), vit=vit)
    assert report.vit.resized == ("pos_embed", "patch_embed.proj.weight") and report.vit.coverage == 1


def test_the_serial_topology_keeps_its_own_embedding():
    backbone = build("SerialResNeXtViT", variant="rxnano_vit_ti")
    before = backbone.vit.patch_embed.proj.weight.clone()
    report = load_pretrained(backbone, cnn=cnn_file(), vit=vit_file("ti"))
    assert report.vit.mismatched == ("patch_embed.proj.weight",) and report.vit.coverage > 0.95
    assert_close(backbone.vit.patch_embed.proj.weight, before)


def test_residual_convolutions_are_no_gap():
    report = load_pretrained(build(residual_conv=True), vit=vit_file(), min_coverage=1)
    assert report.vit.coverage == 1 and all(name.startswith("residuals.") for name in report.vit.missing)
    own = load_pretrained(build(residual_conv=True), vit=vit_file(residual_conv=True))
    assert own.vit.missing == () and own.vit.parameters > report.vit.parameters


@pytest.mark.parametrize("topology", ["InterleavedResNeXtViT", "GuidedResNeXtViT", "PlainViT", "PlainResNeXt"])
def test_every_topology_takes_them(topology):
    backbone = build(topology)
    files = {name: write() for name, write in (("cnn", cnn_file), ("vit", vit_file)) if hasattr(backbone, name)}
    assert all(trunk.coverage > 0.9 for trunk in load_pretrained(backbone, **files, min_coverage=0.9).trunks)


def test_half_precision_files_fill_float32_trunks():
    backbone, vit = build(), {name: value.half() for name, value in vit_file().items()}
    load_pretrained(backbone, vit=vit)
    assert backbone.vit.norm.weight.dtype == torch.float32


BASIC_BLOCKS = {name: value for name, value in cnn_file().items() if "conv3" not in name}
IMPOSSIBLE = {
    r"state dict is a ViT of dim 192, depth 12 \(row ti\), the trunk has dim 96, depth 4: use variant …_vit_ti": dict(
        vit=vit_file("ti")
    ),
    r"a CNN of blocks \(2, 2, 2, 2\), .* \(row rx26\), .*: use variant rx26_vit_…": dict(
        cnn=ResNeXt(CNN_ARCHS["rx26"]).state_dict()
    ),
    "like ResNet-34; use ResNet-50": dict(cnn=BASIC_BLOCKS),
    "no weights named; give cnn=… or vit=…": {},
    "min_coverage 95 is not a share": dict(cnn=cnn_file(), min_coverage=95),
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
    with pytest.raises(ValueError, match="PlainResNeXt has no ViT trunk"):
        build("PlainResNeXt", init_cfg=dict(type="TrunkPretrained", vit=files["vit"])).init_weights()


def test_init_cfg_stops_below_its_minimum(tmp_path):
    torch.save({name: value for name, value in vit_file().items() if "mlp" not in name}, tmp_path / "vit.pth")
    backbone = build(init_cfg=dict(type="TrunkPretrained", vit=str(tmp_path / "vit.pth")))
    with pytest.raises(CoverageError, match="missing"):
        backbone.init_weights()
