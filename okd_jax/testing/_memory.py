"""Checks of what a method remembers."""

import jax
import jax.numpy as jnp

from okd_jax import core
from okd_jax.errors import ConfigError
from okd_jax.testing import _checks, _outputs
from okd_jax.training import contract


def refresh_fits_the_state(method: core.Method) -> None:
  """What `refresh` returns can replace collections of the state."""
  if not method.needs.held_out:
    return
  logits = _outputs.random_outputs(method).logits
  labels = _outputs.random_batch(method).target
  try:
    contract.check_refreshed(
      method, _checks.variables_of(method), method.refresh(logits, labels)
    )
  except ConfigError as error:
    raise AssertionError(str(error)) from error


def memory_begins_alike(method: core.Method) -> None:
  """What a method remembers at first does not depend on what it sees."""
  kept = sorted(set(_checks.variables_of(method)) - {"params"})
  for name in method.needs.per_example:
    _checks.require(
      name in kept,
      method,
      f"needs per_example='{name}' and has no such collection; name one of "
      f"{', '.join(kept) or 'those that it makes by self.variable'}",
    )
  seen, batch = _outputs.random_outputs(method), _outputs.random_batch(method)
  other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0) * 2 + 1, seen)
  first, second = [
    {k: v for k, v in made.items() if k != "params"}
    for made in (
      _checks.init(method)(seen, batch),
      _checks.init(method)(other, _outputs.other_batch(batch)),
    )
  ]
  _checks.require_close(
    second,
    first,
    0,
    method,
    "remembers something of its first call, which is given blank outputs; "
    "change memory only `if ctx.train and not self.is_initializing()`",
  )
