"""Checks of the state that a method computes from held-out data."""

from okd_jax import core
from okd_jax.errors import ConfigError
from okd_jax.testing import _outputs
from okd_jax.testing._checks import variables_of
from okd_jax.training import contract


def refresh_fits_the_state(method: core.Method) -> None:
  """What `refresh` returns can replace collections of the state."""
  if not method.needs.held_out:
    return
  logits = _outputs.random_outputs(method).logits
  labels = _outputs.random_batch(method).target
  try:
    contract.check_refreshed(
      method, variables_of(method), method.refresh(logits, labels)
    )
  except ConfigError as error:
    raise AssertionError(str(error)) from error
