"""Refuses networks whose results depend on how devices share a batch."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec as P
import numpy as np

from okd_jax import trees
from okd_jax.core import Array, Variables
from okd_jax.devices.mesh import DATA
from okd_jax.groups import once
from okd_jax.groups.errors import GroupError
from okd_jax.groups.forward import apply_network
from okd_jax.groups.map_peers import across_devices
from okd_jax.groups.views import momenta

_DRAWS = ("random_bits", "random_split", "random_fold_in")
# More than the rounding differences of sums in another order.
_TOLERANCE = 1e-3
_REMEDY = (
  f"Take means with jax.lax.pmean(..., '{DATA}') in training but not in "
  "initialisation, use nn.BatchNorm and nn.Dropout, or set config.mesh.data=1."
)


def check(net: nn.Module, entering: Any, *, keeps_state: bool) -> None:
  """Traces a network, and runs it in parts as if on several devices.

  For networks of `okd_jax.backbones` the tests do that.

  Args:
    net: a network, or the trunk or the tail of one.
    entering: shapes of its input, which begin with the batch.
    keeps_state: whether it keeps more state than batch normalisation does.

  Raises:
    GroupError: if outputs, state or random numbers depend on the parts.
  """
  if is_ours(net):
    return
  check_draws(net, entering)
  check_mixing(net, entering)
  if keeps_state:
    _check_split(net, entering)


def is_ours(net: nn.Module) -> bool:
  """Whether the class of a network is one of `okd_jax.backbones`.

  One that runs a network of flax nnx is not, as that is the user's.
  """
  module = type(net).__module__
  ours = module.startswith("okd_jax.backbones.")
  return ours and module != "okd_jax.backbones.nnx_network"


def check_draws(net: nn.Module, entering: Any) -> None:
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
  """Shapes of what a network draws on all of two devices alike.

  Args:
    net: the network.
    entering: shapes of its input.
    count: number of examples on each device.
  """
  forward = apply_network(net, train=True)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2 * count, *x.shape[1:]), x.dtype), entering
  )
  program = jax.shard_map(
    lambda variables, batch: forward(variables, batch, jax.random.key(0))[0],
    mesh=AbstractMesh((2,), (DATA,), axis_types=(AxisType.Auto,)),
    in_specs=(P(), P(DATA)),
    out_specs=P(DATA),
  )
  variables = momenta(net, entering)[0]
  return _shapes_of_draws(jax.make_jaxpr(program)(variables, batch))


def _shapes_of_draws(traced: Any) -> list[tuple[int, ...]]:
  """Shapes of random numbers and keys that do not vary over devices."""
  drawn = [
    equation.outvars[0].aval
    for equation in equations(traced)
    if equation.primitive.name in _DRAWS
  ]
  return [
    found.shape for found in drawn if DATA not in found.manual_axis_type.varying
  ]


def equations(traced: Any) -> Iterator[Any]:
  """The equations of a traced program and of all programs inside of it."""
  for equation in traced.eqns:
    yield equation
    for inner in jaxprs_in_params(equation.params):
      yield from equations(inner)


@once.remembered
def check_mixing(net: nn.Module, entering: Any) -> None:
  """Refuses a network in which examples depend on others of their device only.

  One example of the first of two parts is changed. In evaluation no other may
  change, and in training none of its part unless the other part does as well,
  as it does by batch normalisation.
  """

  def trained(variables, batch):
    return train(net, variables, batch, jax.random.key(1))[0]

  def evaluated(variables, batch):
    return net.apply(variables, batch, train=False)

  @jax.jit
  def before_and_after(key):
    batch = _split(_draw(key, entering), 2)
    variables = once.variables(net, key, jax.tree.map(lambda x: x[0], batch))
    changed = jax.tree.map(lambda x: x.at[0, 0].multiply(-2), batch)
    return [
      [jax.tree.leaves(_over(fn)(variables, x)) for x in (batch, changed)]
      for fn in (trained, evaluated)
    ]

  for alone, (before, after) in zip(
    (False, True),
    jax.device_get(before_and_after(jax.random.key(0))),
    strict=True,
  ):
    for one, two in zip(before, after, strict=True):
      one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
      gaps = np.abs(one - two)
      if _beyond(gaps[0, 1:], one) and (alone or not gaps[1].any()):
        raise GroupError(
          f"{type(net).__name__} lets the outputs of an example depend on the "
          "other examples that are on its device (they change by "
          f"{gaps[0, 1:].max():.2g} with one of these). {_REMEDY}"
        )


def _check_split(net: nn.Module, entering: Any) -> None:
  """Refuses a network that gives other values if the batch is in two parts."""

  def passed(variables, batch):
    outputs, state = train(net, variables, batch, jax.random.key(1))
    return jax.tree.leaves(outputs), dict(trees.named(state))

  @jax.jit
  def whole_and_parts(key):
    batch = _draw(key, entering)
    variables = once.variables(net, key, batch)
    return [_over(passed)(variables, _split(batch, n)) for n in (1, 2)]

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


def _require_same(net: nn.Module, what: str, whole: Any, parts: Any) -> None:
  if jnp.issubdtype(whole.dtype, jax.dtypes.prng_key):
    return
  one, two = np.asarray(whole, np.float64), np.asarray(parts, np.float64)
  gaps = np.abs(one - two)
  if _beyond(gaps, one):
    raise GroupError(
      f"{type(net).__name__} gives {what} that depend on how the batch is "
      f"split over devices (they differ by {gaps.max():.2g}): state is "
      "averaged over the parts, which is right for means over examples only, "
      f"and own statistics see one part. {_REMEDY}"
    )


def _beyond(gaps: Any, values: Any) -> bool:
  """Whether gaps are larger than rounding of values makes them."""
  size = np.abs(values).max(initial=0)
  return bool(gaps.max(initial=0) > _TOLERANCE * (size + _TOLERANCE))


def _draw(key: Array, entering: Any) -> Any:
  """A batch of four examples."""
  return jax.tree.map(
    lambda x: jax.random.normal(key, (4, *x.shape[1:]), x.dtype), entering
  )


def _split(batch: Any, parts: int) -> Any:
  return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)


def _over(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Maps a function of variables and a part of the batch over the parts."""
  return jax.vmap(fn, (None, 0), axis_name=DATA)


def train(net: nn.Module, variables: Variables, x: Any, key: Array) -> Any:
  """Applies a network in training and returns its result and its state."""
  mutable = [name for name in variables if name != "params"]
  with across_devices(DATA):
    return net.apply(
      variables, x, train=True, mutable=mutable, rngs={"dropout": key}
    )
