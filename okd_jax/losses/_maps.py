"""Attention maps: which positions of a feature map matter."""

import math

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import Array, as_floats


def attention_distance(maps: Array, target_maps: Array) -> Array:
  r"""Mean squared distance between the attention of two maps.

  With :math:`A(F)` the mean over channels of :math:`F^2`, and :math:`n(v)` a
  map flattened and divided by its Euclidean norm, computes the mean over
  positions of :math:`(n(A(F)) - n(A(F')))^2`.

  Args:
    maps: float [..., H, W, D].
    target_maps: float [..., H, W, D'], never given a gradient.

  Returns:
    One value a map, [...], float32 or float64.

  Raises:
    AssertionError: if positions differ or a dtype is not floating.

  References:
    Li et al., `Distilling a Powerful Student Model via Online Knowledge
    Distillation <https://arxiv.org/abs/2103.14473>`_, 2022.

  >>> x = jnp.ones((1, 2, 2, 3))
  >>> attention_distance(x, 5 * x).tolist()
  [0.0]
  """
  maps, target_maps = as_floats(
    "attention_distance",
    maps=(maps, "* H W D"),
    target_maps=(target_maps, "* H W D'"),
  )
  target = jax.lax.stop_gradient(_attention(target_maps))
  gap = normalize(_attention(maps)) - normalize(target)
  return jnp.mean(jnp.square(gap), axis=-1)


def map_distance(maps: Array, target_maps: Array) -> Array:
  """Mean squared distance between maps, each divided by its Euclidean norm.

  Args:
    maps: float [..., H, W, D].
    target_maps: float, the same shape; never given a gradient.

  Returns:
    One value a map, [...], float32 or float64.

  Raises:
    AssertionError: if the shapes differ or a dtype is not floating.

  References:
    Li et al., `Distilling a Powerful Student Model via Online Knowledge
    Distillation <https://arxiv.org/abs/2103.14473>`_, 2022.

  >>> x = jnp.ones((1, 2, 2, 3))
  >>> map_distance(x, 2 * x).tolist()
  [0.0]
  """
  maps, target_maps = as_floats(
    "map_distance",
    maps=(maps, "* H W D"),
    target_maps=(target_maps, "* H W D"),
  )
  flat, target = (
    x.reshape(*x.shape[:-3], math.prod(x.shape[-3:]))
    for x in (maps, jax.lax.stop_gradient(target_maps))
  )
  return jnp.mean(jnp.square(normalize(flat) - normalize(target)), axis=-1)


def diverse_attention(
  maps: Array, reference_maps: Array
) -> tuple[Array, Array]:
  r"""Directs attention to what a reference map ignores.

  With :math:`a = A(F_{ref})` flattened, :math:`r = \|a\|_2`, :math:`\hat a = a
  / r` and :math:`\tau` the :math:`\lfloor S / 3 \rfloor`-th smallest of the S
  values, the target is :math:`t = (r/2 - \hat a)\,\mathrm{sign}(\hat a - \tau)
  + r/2`. Here r and :math:`\hat a` are in different units, as in the published
  code.

  Args:
    maps: float [..., H, W, D].
    reference_maps: float [..., H, W, D], never given a gradient.

  Returns:
    The mean squared distance of n(A(maps)) from t, [...], with A and n as in
    `attention_distance`, and the reference map changed towards that attention,
    :math:`F_{ref} + (t - \hat a) r / D`, [..., H, W, D] without gradient.

  Raises:
    AssertionError: if the shapes differ or a dtype is not floating.

  References:
    Li et al., `Distilling a Powerful Student Model via Online Knowledge
    Distillation <https://arxiv.org/abs/2103.14473>`_, 2022, published code.

  >>> x = jnp.arange(12.0).reshape(1, 2, 2, 3)
  >>> distance, guide = diverse_attention(x, x)
  >>> distance.shape, guide.shape
  ((1,), (1, 2, 2, 3))
  """
  maps, reference_maps = as_floats(
    "diverse_attention",
    maps=(maps, "* H W D"),
    reference_maps=(reference_maps, "* H W D"),
  )
  reference = jax.lax.stop_gradient(reference_maps)
  attention = _attention(reference)
  norm = jnp.linalg.norm(attention, axis=-1, keepdims=True)
  relative = normalize(attention)
  rank = max(attention.shape[-1] // 3, 1) - 1
  threshold = jnp.sort(relative, axis=-1)[..., rank, None]
  target = (norm / 2 - relative) * jnp.sign(relative - threshold) + norm / 2
  gap = normalize(_attention(maps)) - target
  width = reference.shape[-1]
  shift = ((target - relative) * norm / width).reshape(reference.shape[:-1])
  return jnp.mean(jnp.square(gap), axis=-1), reference + shift[..., None]


def spatial_attention(maps: Array) -> Array:
  r"""Attention of a feature map: which positions carry its energy.

  With :math:`m(F)` the mean over channels of :math:`F^2`, flattened, computes
  :math:`m(F) / \max(\|m(F)\|_2, 10^{-12})`.

  Args:
    maps: float [..., H, W, D].

  Returns:
    [..., H * W], float32 or float64, of Euclidean norm 1 unless the map is
    nearly zero.

  Raises:
    ValueError: for less than three axes or a dtype that is not floating.

  References:
    Zagoruyko & Komodakis, `Paying More Attention to Attention
    <https://arxiv.org/abs/1612.03928>`_, ICLR 2017, the published code.

  >>> spatial_attention(jnp.ones((2, 2, 5))).tolist()
  [0.5, 0.5, 0.5, 0.5]
  """
  (maps,) = as_floats("spatial_attention", maps=(maps, "... H W D"))
  return normalize(_attention(maps))


def _attention(maps: Array) -> Array:
  """[..., H * W]: the mean over channels of squares."""
  *leading, height, width, _ = maps.shape
  return jnp.mean(jnp.square(maps), axis=-1).reshape(*leading, height * width)


def normalize(x: Array) -> Array:
  """Divides by the norm of the last axis; zeros stay zeros."""
  # Squares of large values would overflow. A common factor changes neither the
  # result nor its derivatives, so it may be treated as a constant.
  top = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=1)
  top = jax.lax.stop_gradient(top)
  square = jnp.sum(jnp.square(x / top), axis=-1, keepdims=True)
  return x * (jax.lax.rsqrt(jnp.maximum(square, 1e-24)) / top)
