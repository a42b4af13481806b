"""What is asked of a network more than once, and traced only once.

A run needs the variables of its networks for its checks, its sizes and its
first state, and many runs of one process train equal networks. Linen modules
of equal fields are equal, which is all that jit and caches have to know; those
with fields that cannot be hashed are traced anew.
"""

from collections.abc import Callable
import functools
from typing import Any, TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax.core import Array, Variables

T = TypeVar("T")
# Programs and answers that are kept.
_MOST = 256


def by_value(make: Callable[[Any], T]) -> Callable[[Any], T]:
  """Keeps what is made of a network or a group for all that are equal."""
  known = functools.lru_cache(maxsize=_MOST)(make)

  @functools.wraps(make)
  def get(value: Any) -> T:
    return known(value) if _is_hashable(value) else make(value)

  return get


@by_value
def init(net: nn.Module) -> Callable[[Array, Any], Variables]:
  """Returns fn(key, images) -> variables of one network, compiled."""
  return jax.jit(functools.partial(net.init, train=False))


def remembered(ask: Callable[[nn.Module, Any], T]) -> Callable[..., T]:
  """Keeps what `ask` says of a network and the shape of what enters it."""

  @functools.lru_cache(maxsize=_MOST)
  def known(net, leaves, structure, floats):
    del floats  # those that a network makes by default
    return ask(net, jax.tree.unflatten(structure, leaves))

  @functools.wraps(ask)
  def answer(net: nn.Module, entering: Any) -> T:
    leaves, structure = jax.tree.flatten(entering)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    asked = known if _is_hashable(net) else known.__wrapped__
    return asked(net, tuple(shapes), structure, jnp.result_type(float))

  return answer


def _is_hashable(value: Any) -> bool:
  """Whether it can be, which its type does not tell."""
  try:
    hash(value)
  except TypeError:
    return False
  return True
