"""ResNet and ResNeXt of bottleneck blocks, v1.5: the stride sits in the 3×3 convolution, as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from hybrid_dense.archs import NUM_STAGES, CNNArch


class Bottleneck(nn.Module):
    """1×1, grouped 3×3, 1×1 and a shortcut: (b, in_channels, h, w) to (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        return self.relu(self.bn3(self.conv3(features)) + shortcut)


class ResNeXt(nn.Module):
    """The convolutional trunk (He et al. 2016; Xie et al. 2017): images (b, 3, H, W) to C2..C5, strides 4, 8, 16, 32.

    Its parts can be called one by one: ``stem``, then each of ``stages``.
    """

    def __init__(self, arch: CNNArch, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, arch.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(arch.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = arch.width
        for stage, (blocks, feature) in enumerate(zip(arch.blocks, arch.features, strict=True)):
            width = arch.width * 2**stage * arch.group_width // 64 * arch.groups
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            layer = []
            for stride in strides:
                layer.append(Bottleneck(channels, width, feature.channels, stride, arch.groups))
                channels = feature.channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) to (b, width, ⌈H/4⌉, ⌈W/4⌉)."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The four stages, from stride 4 to stride 32."""
        return tuple(getattr(self, f"layer{stage + 1}") for stage in range(NUM_STAGES))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, pyramid = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            pyramid.append(features)
        return tuple(pyramid)
