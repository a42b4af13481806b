"""The objective of collaborative teaching."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import gap_of, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_list,
  check_weights,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
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

  The student follows the logits of a teacher that is trained with it (the
  hint), :math:`\|z_c - z_s\|_2^2`, and the attention of an expert, the sum over
  stages of the mean over positions of :math:`(Q(F) - Q(X))^2` with Q as in
  `spatial_attention`. The loss is the sum over terms of the mean over examples.
  A class that both student and teacher mask takes no part in the hint; a class
  that only one of them masks makes the hint infinite, with a gradient from the
  other classes.

  Args:
    student_logits: float [B, C].
    scratch_logits: logits of the teacher that is trained with the student,
      float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    student_maps: the student's map of every stage, float [B, H, W, D]. The
      published code passes those of the teacher from scratch, by mistake.
    expert_maps: the expert's map of every stage, float [B, H, W, D'], with the
      positions of the student's; never given a gradient.
    hint_weight: scalar weight of the distance between logits.
    attention_weight: scalar weight of the distance between attentions.
    stop_gradient: makes the teacher's logits constant in the hint.

  Returns:
    Weighted terms "student_ce", "scratch_ce", "hint", "attention", [B] each.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for
      different numbers of maps.

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
  check_weights(
    "ctkd", hint_weight=hint_weight, attention_weight=attention_weight
  )
  student_logits, scratch_logits = as_floats(
    "ctkd",
    student_logits=(student_logits, "B C"),
    scratch_logits=(scratch_logits, "B C"),
  )
  labels = as_labels("ctkd", labels, student_logits)
  student_maps = as_list("ctkd", "student_maps", student_maps)
  expert_maps = as_list("ctkd", "expert_maps", expert_maps)
  if len(student_maps) != len(expert_maps):
    expected = f"as many stages as student_maps, {len(student_maps)}"
    refuse("ctkd", "expert_maps", expected, f"{len(expert_maps)}")
  target = scratch_logits
  if stop_gradient:
    target = jax.lax.stop_gradient(target)
  attention = jnp.zeros_like(student_logits[:, 0])
  for maps, expert in zip(student_maps, expert_maps, strict=True):
    _, maps, expert = as_floats(
      "ctkd",
      student_logits=(student_logits, "B C"),
      student_maps=(maps, "B H W D"),
      expert_maps=(expert, "B H W E"),
    )
    attention += attention_distance(maps, expert)
  masked_once = (target == -jnp.inf) != (student_logits == -jnp.inf)
  squares = jnp.square(gap_of(target, student_logits))
  hint = jnp.sum(jnp.where(masked_once, jnp.inf, squares), axis=-1)
  return {
    "student_ce": nll(student_logits, labels),
    "scratch_ce": nll(scratch_logits, labels),
    "hint": weighted(hint_weight, hint),
    "attention": weighted(attention_weight, attention),
  }
