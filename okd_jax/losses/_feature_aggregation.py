"""The feature aggregation unit of OKDHP: weights of branches for each joint."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_list,
  check_not_negative,
  describe,
  refuse,
)
from okd_jax.losses._peers import HIGHEST

# Of every convolution, and by form the others, with the letters of their axes.
OF_VIEWS = ("conv_kernels", "conv_bias", "bn_scale", "bn_bias")
AXES = {
  "code": {"W1": "D m", "b1": "m", "W2": "T m J", "b2": "T J"},
  "paper": {
    "point_kernels": "K D m",
    "point_bias": "K m",
    "pool_kernel": "D m",
    "pool_bias": "m",
    "W": "F O",
    "b": "O'",
  },
}


def feature_aggregation(
  features: Array,
  maps: Array,
  params: Mapping[str, Any],
  *,
  form: str = "code",
  eps: float = 1e-5,
) -> tuple[Array, Array]:
  r"""Weighs the heat maps of T branches according to the shared features.

  In the form of the published code, :math:`u_k = \mathrm{ReLU}(\mathrm{BN}(
  \mathrm{conv}_k(x)))` of three sizes k are added and averaged over pixels to
  s; with :math:`q = s W_1 + b_1` branch t has the logits :math:`q W_{2t} +
  b_{2t}`, one for each joint. In the form of the paper every :math:`u_k` goes
  through a 1x1 convolution, and so do the averaged features x; these vectors
  are concatenated, and one matrix turns them into the logits. The maps are
  weighted by the softmax of the logits over branches. Batch normalisation uses
  the statistics of the whole batch, as in training; gradients flow into all
  arguments.

  Args:
    features: x, float [B, H, W, D].
    maps: last heat maps of the branches, float [T, B, h, w, J].
    params: "conv_kernels" (a sequence of [k, k, D, D]), "conv_bias",
      "bn_scale" and "bn_bias" ([K, D] each), and "W1" [D, m], "b1" [m], "W2"
      [T, m, J], "b2" [T, J]; with the form "paper" these last four are replaced
      by "point_kernels" [K, D, m], "point_bias" [K, m], "pool_kernel" [D, m],
      "pool_bias" [m], "W" [(K + 1) m, T J] and "b" [T J].
    form: form of the unit, "code" or "paper".
    eps: static, at least 0, added to the variance.

  Returns:
    The ensemble, [B, h, w, J], and the weights, [B, T, J].

  Raises:
    ValueError: if the shapes do not match, a dtype is not floating, an entry of
      `params` is missing, `eps` is negative, or `form` is unknown.

  References:
    Li et al., `Online Knowledge Distillation for Efficient Pose Estimation
    <https://arxiv.org/abs/2108.02092>`_, ICCV 2021: the feature aggregation
    unit. The paper does not give m, nor whether its 1x1 convolutions are
    normalised: here they are not.
  """
  if form not in ("code", "paper"):
    expected = "'code' (the published code) or 'paper'"
    refuse("feature_aggregation", "form", expected, f"{form!r}")
  check_not_negative("feature_aggregation", "eps", eps)
  features, maps = as_floats(
    "feature_aggregation",
    features=(features, "B H W D"),
    maps=(maps, "T B h w J"),
  )
  params = _checked_params(features, maps, params, form)
  num_branches, num_joints = maps.shape[0], maps.shape[-1]
  views = [
    _conv_norm_relu(features, kernel, bias, scale, shift, eps)
    for kernel, bias, scale, shift in zip(
      *(params[name] for name in OF_VIEWS), strict=True
    )
  ]
  attend = _logits_of_the_code if form == "code" else _logits_of_the_paper
  logits = attend(features, views, params)
  logits = logits.reshape(features.shape[0], num_branches, num_joints)
  attention = jax.nn.softmax(logits, axis=1)
  ensemble = jnp.einsum("btj,tbhwj->bhwj", attention, maps, precision=HIGHEST)
  return ensemble, attention


def _checked_params(features, maps, params, form) -> dict[str, Any]:
  """Returns what the form needs of `params`, after a check of the shapes."""
  function, letters = "feature_aggregation", AXES[form]
  names = ", ".join(f"'{name}'" for name in (*OF_VIEWS, *letters))
  if not isinstance(params, Mapping):
    refuse(function, "params", f"a mapping with {names}", describe(params))
  missing = [name for name in (*OF_VIEWS, *letters) if name not in params]
  if missing:
    refuse(function, "params", f"a mapping with {names}", f"no {missing}")
  first, *vectors = OF_VIEWS
  kernels = as_list(function, f"params['{first}']", params[first])
  axes = dict.fromkeys(vectors, "K D") | letters
  _, _, *arrays = as_floats(
    function,
    features=(features, "B H W D"),
    maps=(maps, "T B h w J"),
    **{f"params['{name}']": (params[name], axes[name]) for name in axes},
  )
  checked: dict[str, Any] = dict(zip(axes, arrays, strict=True))
  num_views = len(checked[vectors[0]])
  if len(kernels) != num_views or not kernels:
    expected = f"a kernel, at least one, for each of {num_views} rows of biases"
    refuse(function, f"params['{first}']", expected, f"{len(kernels)}")
  checked[first] = [
    as_floats(
      function,
      features=(features, "B H W D"),
      **{f"params['{first}'][{i}]": (kernel, "k k D D")},
    )[1]
    for i, kernel in enumerate(kernels)
  ]
  if form == "paper":
    num_rows = (num_views + 1) * len(checked["pool_bias"])
    num_logits = maps.shape[0] * maps.shape[-1]
    for name, shape in (("W", (num_rows, num_logits)), ("b", (num_logits,))):
      if checked[name].shape != shape:
        got = describe(checked[name])
        refuse(function, f"params['{name}']", f"float {list(shape)}", got)
  return checked


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
