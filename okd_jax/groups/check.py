"""Refuses networks that cannot be peers, before a run begins."""

from collections.abc import Iterator
from typing import Any

from flax import errors, linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import layers
from okd_jax.core import Array, Variables
from okd_jax.devices.mesh import DATA
from okd_jax.groups import once
from okd_jax.groups.errors import GroupError
from okd_jax.groups.forward import name_of
from okd_jax.groups.group import Group
from okd_jax.groups.layout import without_params
from okd_jax.groups.map_peers import across_devices
from okd_jax.groups.views import foreign, momenta

# More than the rounding differences of sums in another order.
_TOLERANCE = 1e-3


def check(group: Group, images: Array, *, has_views: bool = False) -> None:
  """Traces the networks, and tests those that keep state of their own.

  A layer that mixes examples in its own way would see only those of one device.
  If the batch will be split, networks with state of their own are run with a
  small batch, whole and in two parts, and must give the same result.

  Args:
    group: group of the run.
    images: float [1, H, W, c]; only their shape matters.
    has_views: whether every peer gets a view of its own.

  Raises:
    GroupError: if the state of a network changes its shape, would differ
      between devices, or depends on how the batch is split, or if random
      numbers of a network depend on that.
    ValueError: if a network cannot take images of that size.
  """
  data, own_state = group.mesh.shape[DATA], False
  for net, entering in _inputs(group, images):
    if _keeps_own_state(net, entering):
      own_state = True
      if data > 1:
        _check_split(net, entering)
    if data > 1:
      _check_draws(net, entering)
  if own_state:
    shape = (group.num_peers,) * has_views + (data, *images.shape[1:])
    variables = jax.eval_shape(group.init, jax.random.key(0), images)
    jax.eval_shape(
      lambda v, x: group.apply(v, x, jax.random.key(0), train=True),
      variables,
      jax.ShapeDtypeStruct(shape, images.dtype),
    )


def _inputs(group: Group, images: Array) -> Iterator[tuple[nn.Module, Any]]:
  """Every module that runs, with the shape of its input."""
  entering = jax.ShapeDtypeStruct(images.shape, images.dtype)
  if group.stem is not None:
    yield group.stem, entering
    stem = group.stem
    entering = jax.eval_shape(
      lambda key, x: stem.init_with_output(key, x, train=False)[0],
      jax.random.key(0),
      entering,
    )
  nets = tuple(stack.net for stack in group.stacks)
  for net in dict.fromkeys(nets) if once.is_hashable(nets) else nets:
    yield net, entering


@once.remembered
def _keeps_own_state(net: nn.Module, entering: Any) -> bool:
  """Whether a network keeps more than batch normalisation does."""
  variables, known = momenta(net, entering)
  _check_state(net, variables, entering)
  return bool(foreign(variables, known))


def _check_state(net: nn.Module, variables: Variables, entering: Any) -> None:
  """Refuses state that a step, an evaluation or a save could not pass on."""
  for name, leaf in _by_name(variables).items():
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
    with across_devices(DATA):
      return _train(net, variables, batch, jax.random.key(0))[1]

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


def _check_split(net: nn.Module, entering: Any) -> None:
  """Refuses a network that gives other values if the batch is in two parts."""

  def passed(variables, batch):
    with across_devices(DATA):
      outputs, state = _train(net, variables, batch, jax.random.key(1))
    return jax.tree.leaves(outputs), _by_name(state)

  @jax.jit
  def whole_and_parts(key):
    leaves, structure = jax.tree.flatten(entering)
    batch = jax.tree.unflatten(
      structure,
      [jax.random.normal(key, (4, *x.shape[1:]), x.dtype) for x in leaves],
    )
    variables = net.init(key, batch, train=False)
    results = []
    for parts in (1, 2):
      split = jax.tree.map(
        lambda x, n=parts: x.reshape(n, 4 // n, *x.shape[1:]), batch
      )
      results.append(
        jax.vmap(passed, (None, 0), axis_name=DATA)(variables, split)
      )
    return results

  (whole, state), (parts, state_of_parts) = jax.device_get(
    whole_and_parts(jax.random.key(0))
  )
  for one, two in zip(whole, parts, strict=True):
    _require_same(net, "outputs", one, two.reshape(one.shape))
  for name, value in state.items():
    two = state_of_parts[name]
    if jnp.issubdtype(two.dtype, jnp.inexact):
      two = np.mean(two, 0, keepdims=True)
    for part in two:
      _require_same(net, f"'{name}'", value[0], part)


def _check_draws(net: nn.Module, entering: Any) -> None:
  """Refuses random numbers that would be the same on all devices."""
  two = _draws(net, entering, 2)
  if two and two != _draws(net, entering, 3):
    raise GroupError(
      f"{type(net).__name__} draws random numbers for the examples of a batch "
      "by itself, and they would be the same on every device; use nn.Dropout, "
      "whose broadcast_dims let one number serve a whole example, or set "
      "config.mesh.data=1."
    )


def _draws(net: nn.Module, entering: Any, count: int) -> list[tuple[int, ...]]:
  """Shapes of a network's random numbers for `count` examples on one device."""

  def passed(variables, batch):
    with across_devices(DATA):
      return _train(net, variables, batch, jax.random.key(0))

  part = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, count, *x.shape[1:]), x.dtype), entering
  )
  program = jax.vmap(passed, (None, 0), axis_name=DATA)
  traced = jax.make_jaxpr(program)(momenta(net, entering)[0], part)
  return layers.shapes_of_draws(traced)


def _require_same(net: nn.Module, what: str, whole: Any, parts: Any) -> None:
  if jnp.issubdtype(whole.dtype, jax.dtypes.prng_key):
    return
  one, two = np.asarray(whole, np.float64), np.asarray(parts, np.float64)
  gap, size = np.abs(one - two).max(initial=0), np.abs(one).max(initial=0)
  if gap > _TOLERANCE * (size + _TOLERANCE):
    raise GroupError(
      f"{type(net).__name__} gives {what} that depend on how the batch is "
      f"split over devices (they differ by {gap:.2g}): state is averaged over "
      "the parts, which is right for means over examples only, and own "
      f"statistics see one part. Take means with jax.lax.pmean(..., '{DATA}') "
      "in training but not in initialisation, use nn.BatchNorm and nn.Dropout, "
      "or set config.mesh.data=1."
    )


def _train(net: nn.Module, variables: Variables, x: Any, key: Array) -> Any:
  mutable = [name for name in variables if name != "params"]
  return net.apply(
    variables, x, train=True, mutable=mutable, rngs={"dropout": key}
  )


def _by_name(tree: Any) -> dict[str, Any]:
  return {
    name_of(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _shapes(tree: Any, first: int) -> dict[str, str]:
  """Shapes and dtypes to be read, from axis `first` on."""
  return {
    name: f"{leaf.dtype}{list(leaf.shape[first:])}"
    for name, leaf in _by_name(tree).items()
  }
