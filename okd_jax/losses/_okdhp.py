"""The objective of online distillation for pose, on heat maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_temperature,
  check_weights,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._peers import HIGHEST


def heatmap_mse(maps: Array, target: Array, weight: Array) -> Array:
  r"""Half the mean squared distance of heat maps, over pixels and joints.

  Computes :math:`\frac{1}{2 h w J} \sum_{p, j} (w_j (m_{pj} - g_{pj}))^2`.

  Args:
    maps: float [..., B, h, w, J].
    target: float [B, h, w, J].
    weight: of every joint, 0 where it is not known, float [B, J].

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
  gap = weight[:, None, None] * (maps - target)
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
  of weight zero contributes zero. Gradients flow into both maps: stop them at
  the call.

  Args:
    maps: float [..., B, h, w, J].
    teacher_maps: float [B, h, w, J].
    weight: of every joint, 0 where it is not known, float [B, J].
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
    _pixels_last(weight[:, None, None] * x) for x in (maps, teacher_maps)
  )
  per_joint = kl(student, teacher, temperature)
  num_pixels = student.shape[-1] if divide_by_pixels else 1
  return jnp.sum(per_joint, axis=-1) / num_pixels


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

  `heatmap_mse` of every output and of the ensemble to the target, and
  `heatmap_kl` from the ensemble to every output. The loss is the sum over terms
  and outputs of the mean over examples.

  Args:
    outputs: the O heat maps of shared, intermediate and last stacks, float
      [B, h, w, J] each.
    ensemble: heat maps of the branches together, see `feature_aggregation`,
      float [B, h, w, J].
    target: heat maps to learn, float [B, h, w, J].
    weight: of every joint, 0 where it is not known, float [B, J].
    ensemble_weight: scalar weight of the ensemble's distance to the target.
    kd_weight: scalar weight of the distillation, ramp-up included.
    divide_by_pixels: see `heatmap_kl`.
    temperature: positive scalar of the distillation.
    stop_gradient: makes the ensemble constant where it is the teacher. The
      published code lets gradients through.

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
  >>> terms = okdhp([maps] * 5, maps, maps, jnp.ones((2, 3)))
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'ensemble_mse': (2,), 'output_kd': (5, 2), 'output_mse': (5, 2)}
  """
  if not len(outputs):
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


def feature_aggregation(
  features: Array,
  maps: Array,
  params: Mapping[str, Any],
  *,
  form: str = "code",
  eps: float = 1e-5,
) -> tuple[Array, Array]:
  r"""Weighs the heat maps of T branches by a look at the shared features.

  In the form of the published code, :math:`u_k = \mathrm{ReLU}(\mathrm{BN}(
  \mathrm{conv}_k(x)))` of three sizes k are added and averaged over pixels to
  s; with :math:`q = s W_1 + b_1` branch t has the logits :math:`q W_{2t} +
  b_{2t}`, one a joint. In the form of the paper every :math:`u_k` goes through
  a 1x1 convolution, and so do the averaged features x; these vectors in a row
  give the logits by one matrix. The softmax over branches of the logits weighs
  the maps. Batch normalisation is by the whole batch, in training mode;
  gradients reach everything.

  Args:
    features: x, float [B, H, W, D].
    maps: last heat maps of the branches, float [T, B, h, w, J].
    params: "conv_kernels" (a sequence of [k, k, D, D]), "conv_bias",
      "bn_scale" and "bn_bias" ([K, D] each), and "W1" [D, m], "b1" [m], "W2"
      [T, m, J], "b2" [T, J]; for "paper" instead of these four "point_kernels"
      [K, D, m], "point_bias" [K, m], "pool_kernel" [D, m], "pool_bias" [m], "W"
      [(K + 1) m, T J] and "b" [T J].
    form: "code" or "paper".
    eps: added to the variance.

  Returns:
    The ensemble, [B, h, w, J], and the weights, [B, T, J].

  Raises:
    ValueError: if the shapes do not match, a dtype is not floating, or for an
      unknown `form`.

  References:
    Li et al., `Online Knowledge Distillation for Efficient Pose Estimation
    <https://arxiv.org/abs/2108.02092>`_, ICCV 2021: the feature aggregation
    unit. The paper does not give m, nor whether its 1x1 convolutions are
    normalised: here they are not.
  """
  if form not in ("code", "paper"):
    expected = "'code' (the published code) or 'paper'"
    refuse("feature_aggregation", "form", expected, f"{form!r}")
  features, maps = as_floats(
    "feature_aggregation",
    features=(features, "B H W D"),
    maps=(maps, "T B h w J"),
  )
  num_branches, num_joints = maps.shape[0], maps.shape[-1]
  views = [
    _conv_norm_relu(features, *view, eps)
    for view in zip(
      params["conv_kernels"],
      params["conv_bias"],
      params["bn_scale"],
      params["bn_bias"],
      strict=True,
    )
  ]
  attend = _logits_of_the_code if form == "code" else _logits_of_the_paper
  logits = attend(features, views, params)
  logits = logits.reshape(-1, num_branches, num_joints)
  attention = jax.nn.softmax(logits, axis=1)
  ensemble = jnp.einsum("btj,tbhwj->bhwj", attention, maps, precision=HIGHEST)
  return ensemble, attention


def _conv_norm_relu(features, kernel, bias, scale, shift, eps):
  kernel = jnp.asarray(kernel, features.dtype)
  maps = jax.lax.conv_general_dilated(
    features,
    kernel,
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=HIGHEST,
  )
  maps += jnp.asarray(bias, maps.dtype)
  mean = jnp.mean(maps, axis=(0, 1, 2))
  gap = maps - mean
  variance = jnp.mean(jnp.square(gap), axis=(0, 1, 2))
  return jax.nn.relu(scale * gap / jnp.sqrt(variance + eps) + shift)


def _logits_of_the_code(features, views, params):
  del features
  pooled = jnp.mean(sum(views[1:], views[0]), axis=(1, 2))
  hidden = _matmul(pooled, params["W1"]) + params["b1"]
  logits = jnp.einsum("bm,tmj->btj", hidden, params["W2"], precision=HIGHEST)
  return logits + params["b2"]


def _logits_of_the_paper(features, views, params):
  # A 1x1 convolution and the mean over pixels may change places.
  vectors = [
    _matmul(jnp.mean(view, axis=(1, 2)), kernel) + bias
    for view, kernel, bias in zip(
      views, params["point_kernels"], params["point_bias"], strict=True
    )
  ]
  pooled = jnp.mean(features, axis=(1, 2))
  vectors.append(_matmul(pooled, params["pool_kernel"]) + params["pool_bias"])
  return _matmul(jnp.concatenate(vectors, axis=-1), params["W"]) + params["b"]


def _matmul(x: Array, kernel: Array) -> Array:
  return jnp.matmul(x, kernel, precision=HIGHEST)


def _pixels_last(maps: Array) -> Array:
  """[..., J, h * w]."""
  maps = jnp.moveaxis(maps, -1, -3)
  return maps.reshape(*maps.shape[:-2], -1)
