"""The objective of collaborative teaching."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import cross_entropy
from okd_jax.losses._inputs import (
  Array,
  as_float,
  check_logits,
  Scalar,
  weighted,
)
from okd_jax.losses._maps import attention_distance


def ctkd(
  student_logits: Array,
  scratch_logits: Array,
  labels: Array,
  student_maps: Sequence[Array],
  expert_maps: Sequence[Array],
  *,
  hint_weight: Scalar,
  attention_weight: Scalar,
  stop_gradient: bool = True,
) -> dict[str, Array]:
  r"""Loss terms of CTKD: a teacher from scratch and an expert teacher.

  The student follows the logits of a teacher that is trained with it,
  :math:`\|z_c - z_s\|_2^2`, and the attention of an expert, the sum over
  stages of the mean over positions of :math:`(Q(F) - Q(X))^2` with Q as in
  `spatial_attention`. The loss is the sum over terms of the mean over examples.

  Args:
    student_logits: float [B, C].
    scratch_logits: logits of the teacher that is trained along, float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    student_maps: a map for every stage, float [B, H, W, D]. The published code
      passes those of the teacher from scratch instead, by mistake.
    expert_maps: a map for every stage, float [B, H, W, D'] with the positions
      of the student's; never given a gradient.
    hint_weight: scalar weight of the distance between logits.
    attention_weight: scalar weight of the distance between attentions.
    stop_gradient: makes the teacher's logits constant in the hint.

  Returns:
    Weighted terms "student_ce", "scratch_ce", "hint", "attention", [B] each.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for different numbers of maps.

  References:
    Zhao et al., `Highlight Every Step: Knowledge Distillation via
    Collaborative Teaching <https://arxiv.org/abs/1907.09643>`_, 2019, as in
    the published code.

  >>> z, maps = jnp.zeros((2, 5)), [jnp.ones((2, 4, 4, 8))]
  >>> options = {"hint_weight": 0.03, "attention_weight": 1000.0}
  >>> terms = ctkd(z, z, jnp.array([0, 1]), maps, maps, **options)
  >>> sorted(terms), terms["attention"].tolist()
  (['attention', 'hint', 'scratch_ce', 'student_ce'], [0.0, 0.0])
  """
  chex.assert_rank(student_logits, 2)
  chex.assert_equal_shape([student_logits, scratch_logits])
  check_logits(student_logits[None], labels)
  if len(student_maps) != len(expert_maps):
    raise ValueError(
      "ctkd: expert_maps must have as many stages as student_maps, "
      f"{len(student_maps)}; got {len(expert_maps)}."
    )
  student_logits = as_float(student_logits)
  scratch_logits = as_float(scratch_logits)
  target = scratch_logits
  if stop_gradient:
    target = jax.lax.stop_gradient(target)
  attention = jnp.zeros_like(student_logits[:, 0])
  for maps, expert in zip(student_maps, expert_maps, strict=True):
    chex.assert_rank([maps, expert], 4)
    chex.assert_equal_shape_prefix([student_logits, maps], 1)
    attention += attention_distance(maps, expert)
  hint = jnp.sum(jnp.square(target - student_logits), axis=-1)
  return {
    "student_ce": cross_entropy(student_logits, labels),
    "scratch_ce": cross_entropy(scratch_logits, labels),
    "hint": weighted(hint_weight, hint),
    "attention": weighted(attention_weight, attention),
  }
