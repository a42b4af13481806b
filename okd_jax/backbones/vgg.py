"""VGG with batch norm for images of 32x32.

Simonyan and Zisserman, `Very Deep Convolutional Networks for Large-Scale Image
Recognition <https://arxiv.org/abs/1409.1556>`_, 2015. `vgg16` is configuration
D with the smaller MLP of papers on online distillation; `vgg16_linear` has the
linear classifier of MCL-OKD instead. `vgg8` and `vgg13` are those of Tian et
al., `Contrastive Representation Distillation
<https://arxiv.org/abs/1910.10699>`_, 2020, who pool after three groups only.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import conv_bn
from okd_jax.core import Array
from okd_jax.errors import ConfigError


class VGG(Network, kw_only=True):
  """Groups of 3x3 convolutions with max-pooling after them, and an MLP.

  A stage is a group. The features are the mean of the last map over positions,
  which enters the MLP. Code that is published for `vgg16` flattens that map
  instead; this is the same for images of 32x32, where one position is left.

  Attributes:
    widths: for each group, output channels of its convolutions.
    hidden: widths of the hidden layers of the MLP; without any, the classifier
      is linear.
    pools: number of groups that end with max-pooling, counted from the first.
    dropout: dropout rate after each hidden layer of the MLP. OKDDip's code uses
      0.5 in branches and 0 in separate networks.
  """

  widths: tuple[tuple[int, ...], ...]
  hidden: tuple[int, ...]
  pools: int = 5
  split: int = 4
  dropout: float = 0.0

  @property
  def num_stages(self) -> int:
    return len(self.widths)

  def check(self) -> None:
    super().check()
    if not 0.0 <= self.dropout < 1.0:
      raise ConfigError(f"dropout={self.dropout} must be in [0, 1).")

  def stage(self, number: int, x: Array, train: bool) -> Array:
    for i, width in enumerate(self.widths[number - 1]):
      name = f"stage{number}_conv{i}"
      x = conv_bn(
        x, width, 3, 1, use_bias=True, train=train, dtype=self.dtype, name=name
      )
      x = nn.relu(x)
    return nn.max_pool(x, (2, 2), (2, 2)) if number <= self.pools else x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    features = jnp.mean(x, (1, 2))
    y = features
    for i, width in enumerate((*self.hidden, self.num_classes)):
      y = nn.Dense(
        width,
        kernel_init=nn.initializers.normal(0.01),
        dtype=self.dtype,
        name=f"head_linear{i}",
      )(y)
      if i < len(self.hidden):
        dropout = nn.Dropout(self.dropout, name=f"head_dropout{i}")
        y = dropout(nn.relu(y), deterministic=not train)
    return x, features, y


_D = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)

vgg16 = functools.partial(VGG, widths=_D, hidden=(512, 512))
vgg16_linear = functools.partial(VGG, widths=_D, hidden=())
_pooled_thrice = functools.partial(VGG, hidden=(), pools=3)
vgg8 = functools.partial(
  _pooled_thrice, widths=((64,), (128,), (256,), (512,), (512,))
)
vgg13 = functools.partial(
  _pooled_thrice,
  widths=((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
)
