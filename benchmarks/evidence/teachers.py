"""The CIFAR-10 ResNets that the tables learn from, for ``--model benchmarks.evidence.teachers:resnet56``.

The plain residual network of He et al. for 32-pixel pictures: three stages of (depth − 2) / 6 blocks of two 3×3
convolutions, 16, 32 and 64 channels wide. Where a stage halves the picture, the shortcut drops every second pixel and
fills the new channels with zeros.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTHS = (16, 32, 64)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Of the logits, in this order"""


class Block(nn.Module):
    """Two convolutions around a shortcut without weights."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride, self.padding = outside // inside, (outside - inside) // 2
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Half the side and twice the channels, or neither."""
        y_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        step = self.stride
        short_BCHW = F.pad(x_BCHW[:, :, ::step, ::step], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y_BCHW + short_BCHW)


class CifarResNet(nn.Module):
    """Pictures of 32 pixels in ImageNet's normalisation → ten logits."""

    num_classes, input_size = 10, 32
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks)
        self.linear = nn.Linear(WIDTHS[2], self.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The logits."""
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        logits_BC: Tensor = self.linear(x_BCHW.mean(dim=(2, 3)))
        return logits_BC


def resnet20() -> nn.Module:
    """91.7 % on CIFAR-10 with its published weights."""
    return CifarResNet(20)


def resnet56() -> nn.Module:
    """93.4 % on CIFAR-10 with its published weights."""
    return CifarResNet(56)


def _stage(inside: int, outside: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Block(inside if number == 0 else outside, outside) for number in range(blocks)))
