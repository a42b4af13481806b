"""Residual networks for ImageNet.

He et al., `Deep Residual Learning for Image Recognition
<https://arxiv.org/abs/1512.03385>`_, 2016, table 1. As in torchvision, a block
of `resnet50` halves height and width in its 3x3 convolution.
"""

import functools

from flax import linen as nn

from okd_jax.backbones import resnet
from okd_jax.backbones.parts import conv_bn
from okd_jax.core import Array


class ImageNetResNet(resnet.ResNet):
  """Residual network whose stem divides height and width by four."""

  image_shape = (224, 224, 3)

  split: int = 3

  def stem(self, x: Array, train: bool) -> Array:
    x = conv_bn(x, 64, 7, 2, train=train, dtype=self.dtype, name="stem")
    return nn.max_pool(nn.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1)))


_basic = functools.partial(
  ImageNetResNet, widths=(64, 128, 256, 512), inner_widths=None
)

resnet18 = functools.partial(_basic, blocks=(2, 2, 2, 2))
resnet34 = functools.partial(_basic, blocks=(3, 4, 6, 3))
resnet50 = functools.partial(
  ImageNetResNet,
  blocks=(3, 4, 6, 3),
  widths=(256, 512, 1024, 2048),
  inner_widths=(64, 128, 256, 512),
)
