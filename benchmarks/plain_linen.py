"""Training residual networks in Flax as one would without this software.

What `benchmarks.tpu` compares with: `nn.Conv`, `nn.BatchNorm`, optax, and
`jax.vmap` for several networks that know nothing of each other.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from okd_jax.backbones.resnet import ResNet
from okd_jax.data.info import DataInfo

Array = jax.Array


def conv_bn(x, width, size, stride, train, dtype) -> Array:
  x = nn.Conv(
    width,
    (size, size),
    stride,
    padding=size // 2,
    use_bias=False,
    dtype=dtype,
  )(x)
  return nn.BatchNorm(not train, momentum=0.9, dtype=dtype)(x)


class Block(nn.Module):
  """Residual block, basic or with a bottleneck."""

  width: int
  inner: int | None
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    how = train, self.dtype
    if self.inner is None:
      y = nn.relu(conv_bn(x, self.width, 3, self.stride, *how))
      y = conv_bn(y, self.width, 3, 1, *how)
    else:
      y = nn.relu(conv_bn(x, self.inner, 1, 1, *how))
      y = nn.relu(conv_bn(y, self.inner, 3, self.stride, *how))
      y = conv_bn(y, self.width, 1, 1, *how)
    if x.shape != y.shape:
      x = conv_bn(x, self.width, 1, self.stride, *how)
    return nn.relu(x + y)


class Network(nn.Module):
  """The network that `like` is, without its names and options."""

  like: ResNet
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    like = self.like
    photographs = x.shape[1] > 64
    width, size, stride = (64, 7, 2) if photographs else (like.stem_width, 3, 1)
    x = nn.relu(conv_bn(x, width, size, stride, train, self.dtype))
    if photographs:
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    inner = like.inner_widths or (None,) * len(like.widths)
    stages = zip(like.blocks, like.widths, inner, strict=True)
    for number, (blocks, width, narrow) in enumerate(stages):
      for i in range(blocks):
        stride = 2 if number > 0 and i == 0 else 1
        x = Block(width, narrow, stride, self.dtype)(x, train)
    x = jnp.mean(x, (1, 2))
    return nn.Dense(like.num_classes, dtype=self.dtype)(x)


OPTIMIZER = optax.chain(
  optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True)
)


def init(network: Network, info: DataInfo, peers: int) -> Any:
  """Parameters, batch statistics and the optimiser's state of the networks."""

  def one(key):
    variables = network.init(key, jnp.zeros((1, *info.image_shape)), False)
    params = variables["params"]
    return params, variables["batch_stats"], OPTIMIZER.init(params)

  return jax.vmap(one)(jax.random.split(jax.random.key(0), peers))


def train_step(
  network: Network,
  info: DataInfo,
  state: Any,
  images: Array,
  labels: Array,
  key: Array,
) -> tuple[Any, Array]:
  """One update of all networks; returns the state and their losses."""
  seen = images if info.resized_crop else _augment(images, key, info)
  seen = (seen / 255 - jnp.array(info.mean)) / jnp.array(info.std)

  def one(state):
    params, batch_stats, opt_state = state

    def loss(params):
      logits, after = network.apply(
        {"params": params, "batch_stats": batch_stats},
        seen,
        True,
        mutable=["batch_stats"],
      )
      loss = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
      )
      return jnp.mean(loss), after["batch_stats"]

    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return (params, batch_stats, opt_state), value

  return jax.vmap(one)(state)


def _augment(images, key, info):
  pad = info.pad
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  crop_key, flip_key = jax.random.split(key)
  corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
  flips = jax.random.bernoulli(flip_key, shape=(len(images),))

  def one(image, corner, flip):
    crop = jax.lax.dynamic_slice(image, (*corner, 0), info.image_shape)
    return jnp.where(flip, crop[:, ::-1], crop)

  return jax.vmap(one)(padded, corners, flips)
