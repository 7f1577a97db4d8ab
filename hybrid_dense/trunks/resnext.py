"""ResNet and ResNeXt as in torchvision: bottlenecks of v1.5, the stride in their 3×3 convolution, or basic blocks."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_dense.archs import NUM_STAGES, CNNArch, FeatureSpec
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.grouped_conv import GroupedConv2d
from hybrid_dense.layers.pointwise import PointwiseConv2d

OUTPUT_STRIDES = (8, 16, 32)


class Bottleneck(nn.Module):
    """1×1, grouped 3×3, 1×1 and a shortcut: (b, in_channels, h, w) to (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, groups: int, dilation: int):
        super().__init__()
        self.conv1 = PointwiseConv2d(in_channels, width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = GroupedConv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = PointwiseConv2d(width, out_channels, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = build_shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features))
        features += shortcut  # in place: BatchNorm does not need its output again
        return self.relu(features)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (b, in_channels, h, w) to (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        first, second = dilations
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, second, second, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = build_shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.bn2(self.conv2(features))
        features += shortcut  # in place: BatchNorm does not need its output again
        return self.relu(features)


class ResNeXt(nn.Module):
    """The convolutional trunk (He et al. 2016; Xie et al. 2017): images (b, 3, H, W) to C2..C5, strides 4, 8, 16, 32.

    Its parts can be called one by one: ``stem``, then each of ``stages``. ``features`` says what each stage emits.

    Args:
        arch: the sizes.
        in_channels: channels of the images.
        deep_stem: three 3×3 convolutions in place of the 7×7 (He et al. 2019, section 4.2, ResNet-C); timm's names.
        output_stride: 32; at 16 or 8 the last one or two stages keep their resolution and dilate their 3×3 convolutions
            instead (Chen et al. 2017, DeepLabv3, section 3.1), like torchvision's ``replace_stride_with_dilation`` and
            mmseg's ``contract_dilation=True``.
        frozen_stages: -1 trains everything, 0 freezes the stem, i the stages up to i too: no gradients, and BatchNorm
            keeps its statistics.
        norm_eval: BatchNorm keeps its statistics everywhere, as detectors trained on few images a GPU need.

    Raises:
        ValueError: an output stride or a number of frozen stages that there is not.
    """

    def __init__(
        self,
        arch: CNNArch,
        in_channels: int = 3,
        deep_stem: bool = False,
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
    ):
        super().__init__()
        check_choice("output_stride", output_stride, OUTPUT_STRIDES)
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ValueError(f"frozen_stages {frozen_stages} is not -1 (none), 0 (stem) or a stage up to {NUM_STAGES}")
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.features = tuple(FeatureSpec(spec.channels, min(spec.stride, output_stride)) for spec in arch.features)
        self.conv1 = build_deep_stem(in_channels, arch.width) if deep_stem else build_stem(in_channels, arch.width)
        self.bn1 = nn.BatchNorm2d(arch.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, stride, dilation = arch.width, self.features[0].stride, 1
        for stage, (blocks, native, feature) in enumerate(zip(arch.blocks, arch.features, self.features, strict=True)):
            # Up to its stride, a stage's first block still looks as far as the stage before it: then a dilated trunk
            # computes at every second place just what the same weights computed where they were trained, with a stride.
            dilations = dilation, native.stride // feature.stride
            layer = [build_block(arch, stage, channels, feature.stride // stride, dilations)]
            channels, stride, dilation = feature.channels, feature.stride, dilations[1]
            for _ in range(blocks - 1):
                layer.append(build_block(arch, stage, channels, 1, (dilation, dilation)))
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.frozen_modules():
            module.requires_grad_(False)
        self.train()

    def stem(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) to (b, width, ⌈H/4⌉, ⌈W/4⌉)."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four stages, from stride 4 to the output stride."""
        return tuple(getattr(self, f"layer{stage + 1}") for stage in range(NUM_STAGES))

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of each part by its name, in the order of the forward pass."""
        stages = {f"stage {number}": list(stage) for number, stage in enumerate(self.stages, start=1)}
        return {"stem": [self.conv1, self.bn1, self.maxpool], **stages}

    @property
    def num_layers(self) -> int:
        """Layers in the sense of layer-wise decay: the stem, four stages, and what follows the trunk."""
        return NUM_STAGES + 2

    def get_layer_depth(self, param_name: str) -> int:
        """The layer of a parameter by its name in this trunk, the stem being 0."""
        part = self.get_part(param_name)
        return 0 if part == "stem" else int(part.removeprefix("stages.")) + 1

    def get_part(self, param_name: str) -> str:
        """``stem`` or ``stages.0`` to ``stages.3``: where a parameter belongs, by its name in this trunk."""
        stage = re.match(r"layer(\d+)\.", param_name)
        return f"stages.{int(stage[1]) - 1}" if stage else "stem"

    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """What ``frozen_stages`` keeps as it is."""
        return () if self.frozen_stages < 0 else (self.conv1, self.bn1, *self.stages[: self.frozen_stages])

    def train(self, mode: bool = True) -> ResNeXt:
        """Training mode, but for what is frozen and, with ``norm_eval``, for every BatchNorm."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, pyramid = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            pyramid.append(features)
        return tuple(pyramid)


def build_block(
    arch: CNNArch, stage: int, in_channels: int, stride: int, dilations: tuple[int, int]
) -> Bottleneck | BasicBlock:
    """A block of stage 0 to 3; ``dilations`` are those of its convolution with the stride, and of what follows."""
    out_channels = arch.features[stage].channels
    if arch.expansion == 1:
        return BasicBlock(in_channels, out_channels, stride, dilations)
    width = arch.width * 2**stage * arch.group_width // 64 * arch.groups
    return Bottleneck(in_channels, width, out_channels, stride, arch.groups, dilations[0])


def build_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output; None where it has it."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(PointwiseConv2d(in_channels, out_channels, stride, bias=False), nn.BatchNorm2d(out_channels))


def build_stem(in_channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)


def build_deep_stem(in_channels: int, width: int) -> nn.Sequential:
    narrow = width // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, narrow, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, width, 3, padding=1, bias=False),
    )
