"""The objective of online distillation for pose estimation, on heat maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_list,
  check_temperature,
  check_weights,
  refuse,
  Scalar,
  weighted,
)


def heatmap_mse(maps: Array, target: Array, weight: Array) -> Array:
  r"""Half the mean squared distance of heat maps, over pixels and joints.

  Computes :math:`\frac{1}{2 h w J} \sum_{p, j} (w_j (m_{pj} - g_{pj}))^2`.

  Args:
    maps: float [..., B, h, w, J].
    target: float [B, h, w, J].
    weight: of every joint, 0 where it is not known, where maps may hold
      anything, float [B, J].

  Returns:
    One value a map, [..., B], float32 or float64.

  Raises:
    ValueError: if the shapes do not match or a dtype is not floating.

  References:
    Li et al., `Online Knowledge Distillation for Efficient Pose Estimation
    <https://arxiv.org/abs/2108.02092>`_, ICCV 2021, as in the published code.

  >>> maps = jnp.ones((2, 4, 4, 3))
  >>> heatmap_mse(maps, 0 * maps, jnp.ones((2, 3))).tolist()
  [0.5, 0.5]
  """
  maps, target, weight = as_floats(
    "heatmap_mse",
    maps=(maps, "... B h w J"),
    target=(target, "B h w J"),
    weight=(weight, "B J"),
  )
  gap = _weighted(weight, maps - target)
  return jnp.mean(jnp.square(gap), axis=(-3, -2, -1)) / 2


def heatmap_kl(
  maps: Array,
  teacher_maps: Array,
  weight: Array,
  *,
  divide_by_pixels: bool = True,
  temperature: Scalar = 1.0,
) -> Array:
  r"""Divergence between heat maps as distributions over pixels, in nats.

  Computes :math:`\tau^2 \sum_j \mathrm{KL}(e_j \| s_j)`, with e and s the
  softmax over pixels of :math:`w_j m_j / \tau` of teacher and student. A joint
  of weight zero contributes zero. Gradients flow into both maps; to stop them,
  use `stop_gradient` in the call.

  Args:
    maps: float [..., B, h, w, J].
    teacher_maps: float [B, h, w, J].
    weight: of every joint, 0 where it is not known, where maps may hold
      anything, float [B, J].
    divide_by_pixels: divides by :math:`h w`, as the published code does, which
      makes the term tiny.
    temperature: positive scalar; the published code has none.

  Returns:
    One value a map, [..., B], float32 or float64.

  Raises:
    ValueError: if the shapes do not match, a dtype is not floating, or for an
      invalid temperature.

  References:
    Li et al., `Online Knowledge Distillation for Efficient Pose Estimation
    <https://arxiv.org/abs/2108.02092>`_, ICCV 2021, as in the published code.

  >>> maps = jnp.ones((2, 4, 4, 3))
  >>> heatmap_kl(maps, maps, jnp.ones((2, 3))).tolist()
  [0.0, 0.0]
  """
  check_temperature("heatmap_kl", temperature)
  maps, teacher_maps, weight = as_floats(
    "heatmap_kl",
    maps=(maps, "... B h w J"),
    teacher_maps=(teacher_maps, "B h w J"),
    weight=(weight, "B J"),
  )
  student, teacher = (
    _pixels_last(_weighted(weight, x)) for x in (maps, teacher_maps)
  )
  per_joint = kl(student, teacher, temperature)
  num_pixels = student.shape[-1] if divide_by_pixels else 1
  return jnp.sum(per_joint, axis=-1) / num_pixels


def _weighted(weight: Array, maps: Array) -> Array:
  """Maps times the weights of their joints; what is not known may be nan."""
  weight = weight[:, None, None]
  return weight * jnp.where(weight == 0, 0, maps)


def okdhp(
  outputs: Sequence[Array],
  ensemble: Array,
  target: Array,
  weight: Array,
  *,
  ensemble_weight: Scalar = 1.0,
  kd_weight: Scalar = 1.0,
  divide_by_pixels: bool = True,
  temperature: Scalar = 1.0,
  stop_gradient: bool = True,
) -> dict[str, Array]:
  """Loss terms of OKDHP: every output learns the target and the ensemble.

  The terms are `heatmap_mse` from every output and from the ensemble to the
  target, and `heatmap_kl` from the ensemble to every output. The loss is the
  sum over terms and outputs of the mean over examples.

  Args:
    outputs: the O heat maps of shared, intermediate and last stacks, float
      [B, h, w, J] each.
    ensemble: weighted mean of the branches' heat maps, see
      `feature_aggregation`, float [B, h, w, J].
    target: heat maps to learn, float [B, h, w, J].
    weight: of every joint, 0 where it is not known, float [B, J].
    ensemble_weight: scalar weight of the ensemble's distance to the target.
    kd_weight: scalar weight of the distillation, ramp-up included.
    divide_by_pixels: see `heatmap_kl`.
    temperature: temperature of the distillation, a positive scalar.
    stop_gradient: treats the ensemble as a constant where it is the teacher.
      The published code lets gradients through.

  Returns:
    Weighted terms: "output_mse" [O, B], "ensemble_mse" [B], "output_kd"
    [O, B].

  Raises:
    ValueError: if the shapes do not match, a dtype is not floating, or for no
      outputs or an invalid temperature.

  References:
    Li et al., `Online Knowledge Distillation for Efficient Pose Estimation
    <https://arxiv.org/abs/2108.02092>`_, ICCV 2021, as in the published code.

  >>> maps = jnp.ones((2, 4, 4, 3))
  >>> terms = jax.jit(okdhp)([maps] * 5, maps, maps, jnp.ones((2, 3)))
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'ensemble_mse': (2,), 'output_kd': (5, 2), 'output_mse': (5, 2)}
  """
  outputs = as_list("okdhp", "outputs", outputs)
  if not outputs:
    refuse("okdhp", "outputs", "at least one heat map [B, h, w, J]", "none")
  check_temperature("okdhp", temperature)
  check_weights("okdhp", ensemble_weight=ensemble_weight, kd_weight=kd_weight)
  maps = []
  for output in outputs:
    checked = as_floats(
      "okdhp",
      outputs=(output, "B h w J"),
      ensemble=(ensemble, "B h w J"),
      target=(target, "B h w J"),
      weight=(weight, "B J"),
    )
    maps.append(checked[0])
  stacked = jnp.stack(maps)
  teacher = jax.lax.stop_gradient(ensemble) if stop_gradient else ensemble
  pulls = heatmap_kl(
    stacked,
    teacher,
    weight,
    divide_by_pixels=divide_by_pixels,
    temperature=temperature,
  )
  ensemble_mse = heatmap_mse(ensemble, target, weight)
  return {
    "output_mse": heatmap_mse(stacked, target, weight),
    "ensemble_mse": weighted(ensemble_weight, ensemble_mse),
    "output_kd": weighted(kd_weight, pulls),
  }


def _pixels_last(maps: Array) -> Array:
  """[..., J, h * w]."""
  maps = jnp.moveaxis(maps, -1, -3)
  *leading, height, width = maps.shape
  return maps.reshape(*leading, height * width)
