"""Keeps results that are needed repeatedly, so that they are traced only once.

A run needs the variables of its networks for its checks, its sizes and its
first state, and many runs of one process train equal networks, or differ only
in their seeds. Linen modules with equal fields are equal, so jit and caches
recognise them; those with fields that cannot be hashed are traced again.
"""

from collections.abc import Callable
import functools
from typing import Any, TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax.core import Array, Variables

T = TypeVar("T")
# Programs and answers of networks that are kept, and programs of setups.
_MOST, _MOST_JITTED = 256, 32


def by_value(make: Callable[..., T]) -> Callable[..., T]:
  """Caches a result for all equal networks, groups or settings."""
  known = functools.lru_cache(maxsize=_MOST)(make)

  @functools.wraps(make)
  def get(*values: Any) -> T:
    return known(*values) if is_hashable(values) else make(*values)

  return get


def variables(net: nn.Module, key: Array, images: Any) -> Variables:
  """New variables of one network, as plain arrays.

  A network is whole on each of its devices, so names of axes that it has for
  partitioning (`nn.with_partitioning`) are left out.
  """
  drawn: Variables = nn.meta.unbox(net.init(key, images, train=False))
  return drawn


@by_value
def init(net: nn.Module) -> Callable[[Array, Any], Variables]:
  """Returns fn(key, images) -> variables of one network, compiled."""
  return jax.jit(functools.partial(variables, net))


def remembered(ask: Callable[[nn.Module, Any], T]) -> Callable[..., T]:
  """Caches the result of `ask` for a network and the shape of its input."""

  @functools.lru_cache(maxsize=_MOST)
  def known(net, leaves, structure, floats):
    del floats  # those that a network makes by default
    return ask(net, jax.tree.unflatten(structure, leaves))

  @functools.wraps(ask)
  def answer(net: nn.Module, entering: Any) -> T:
    leaves, structure = jax.tree.flatten(entering)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    asked = known if is_hashable(net) else known.__wrapped__
    return asked(net, tuple(shapes), structure, jnp.result_type(float))

  return answer


@remembered
def shapes(net: nn.Module, entering: Any) -> tuple[Any, Variables]:
  """Shapes of what a network returns in evaluation and of its variables."""
  traced = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), entering
  )
  # Without the mesh at which the first caller asked.
  returned: tuple[Any, Variables] = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nn.meta.unbox(traced)
  )
  return returned


def jitted(
  fn: Callable[..., Any],
  *given: Any,
  donate_argnums: tuple[int, ...] = (),
  out_shardings: Any = None,
) -> Any:
  """Returns `jax.jit(functools.partial(fn, *given))`, one for equal arguments.

  Args:
    fn: a pure function.
    *given: its first arguments, which are compared by their values.
    donate_argnums: see `jax.jit`.
    out_shardings: see `jax.jit`.
  """
  where, structure = jax.tree.flatten(out_shardings)
  asked = (fn, given, donate_argnums, tuple(where), structure)
  make = _jitted if is_hashable(asked) else _jitted.__wrapped__
  return make(*asked)


@functools.lru_cache(maxsize=_MOST_JITTED)
def _jitted(fn, given, donate_argnums, where, structure):
  return jax.jit(
    functools.partial(fn, *given),
    donate_argnums=donate_argnums,
    out_shardings=jax.tree.unflatten(structure, where),
  )


def is_hashable(value: Any) -> bool:
  """Whether a value can be hashed, which its type does not tell."""
  try:
    hash(value)
  except TypeError:
    return False
  return True
