"""Refuses networks that cannot be peers, before a run begins."""

import jax

from okd_jax.core import Array
from okd_jax.groups.group import Group


def check(group: Group, images: Array) -> None:
  jax.eval_shape(group.init, jax.random.key(0), images)
