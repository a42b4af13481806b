"""Refuses networks that cannot be peers, before a run begins."""

from collections.abc import Iterator
from typing import Any

from flax import errors, linen as nn
import jax
import jax.numpy as jnp

from okd_jax import trees
from okd_jax.core import Array, Variables
from okd_jax.devices.mesh import DATA
from okd_jax.groups import apart, once
from okd_jax.groups.errors import GroupError
from okd_jax.groups.group import Group
from okd_jax.groups.layout import without_params
from okd_jax.groups.views import foreign, momenta


def check(group: Group, images: Array, *, has_views: bool = False) -> None:
  """Traces the networks and, if the batch will be split, tests them.

  A layer that mixes examples in its own way would see only those of one device,
  so networks are run with a small batch in two parts, and those with state of
  their own also with a whole one. For networks of `okd_jax.backbones` the tests
  do that.

  Args:
    group: group of the run.
    images: float [1, H, W, c]; only their shape matters.
    has_views: whether every peer gets a view of its own.

  Raises:
    GroupError: if the state of a network changes its shape, would differ
      between devices, or depends on how the batch is split, or if outputs or
      random numbers of a network depend on that.
    ValueError: if a network cannot take images of that size.
  """
  data, own_state = group.mesh.shape[DATA], False
  for net, entering in _inputs(group, images):
    keeps_state = _keeps_own_state(net, entering)
    own_state |= keeps_state
    if data > 1:
      apart.check(net, entering, keeps_state=keeps_state)
  if own_state:
    shape = (group.num_peers,) * has_views + (data, *images.shape[1:])
    jax.eval_shape(
      lambda v, x: group.apply(v, x, jax.random.key(0), train=True),
      group.shapes(images),
      jax.ShapeDtypeStruct(shape, images.dtype),
    )


def _inputs(group: Group, images: Array) -> Iterator[tuple[nn.Module, Any]]:
  """Every module that runs, with the shape of its input."""
  entering = jax.ShapeDtypeStruct(images.shape, images.dtype)
  if group.stem is not None:
    yield group.stem, entering
    entering = once.shapes(group.stem, entering)[0]
  nets = tuple(stack.net for stack in group.stacks)
  for net in dict.fromkeys(nets) if once.is_hashable(nets) else nets:
    yield net, entering


@once.remembered
def _keeps_own_state(net: nn.Module, entering: Any) -> bool:
  """Whether a network keeps more than batch normalisation does."""
  variables, known = momenta(net, entering)
  if not apart.is_ours(net):
    check_state(net, variables, entering)
  return bool(foreign(variables, known))


def check_state(net: nn.Module, variables: Variables, entering: Any) -> None:
  """Refuses state that a step, an evaluation or a save could not pass on."""
  for name, leaf in trees.named(variables):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise GroupError(
        f"{type(net).__name__} keeps the random key '{name}', and checkpoints "
        "hold numbers; draw from 'dropout', or keep jax.random.key_data(key)."
      )
  # Two examples tell what has the batch's size.
  batch, part = (
    jax.tree.map(
      lambda x, lead=lead: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype),
      entering,
    )
    for lead in ((2,), (1, 2))
  )
  before = without_params(variables)

  def train(variables, batch):
    return apart.train(net, variables, batch, jax.random.key(0))[1]

  try:
    # A network may name the axis of the data in training.
    after = jax.eval_shape(
      jax.vmap(train, (None, 0), axis_name=DATA), variables, part
    )
    jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, batch)
  except errors.FlaxError as error:
    raise GroupError(
      f"{type(net).__name__} cannot be trained and evaluated: {error} Make all "
      "variables in the first call, which has train=False; change them only if "
      "`train`; draw random numbers from 'dropout' only."
    ) from error
  have, kept = _shapes(after, 1), _shapes(before, 0)
  for name in sorted(have.keys() | kept.keys()):
    if have.get(name) != kept.get(name):
      raise GroupError(
        f"{type(net).__name__} keeps '{name}' as {kept.get(name, 'absent')} "
        f"and leaves it as {have.get(name, 'absent')}; make state in the first "
        "call, with a shape and dtype that stay and do not depend on the "
        "batch; sow into 'intermediates' only."
      )


def _shapes(tree: Any, first: int) -> dict[str, str]:
  """Shapes and dtypes to be read, from axis `first` on."""
  return {
    name: f"{leaf.dtype}{list(leaf.shape[first:])}"
    for name, leaf in trees.named(tree)
  }
