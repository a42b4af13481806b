"""All checks that a method must pass."""

from collections.abc import Callable

from okd_jax import core
from okd_jax.testing import (
  _checks,
  _declared,
  _draws,
  _evaluation,
  _float64,
  _gradients,
  _memory,
  _programs,
  _training,
)

CHECKS: tuple[Callable[[core.Method], None], ...] = (
  _declared.properties_make_sense,
  _checks.terms_are_named_and_shaped,
  _gradients.loss_is_finite,
  _gradients.gradients_reach_the_peers,
  _checks.depends_on_arguments_alone,
  _draws.random_numbers_change,
  _float64.soft_labels_are_taken,
  _gradients.targets_are_constant_unless_joint,
  _gradients.averages_and_teachers_are_constant,
  _checks.too_few_peers_are_refused,
  _checks.missing_trunk_or_maps_are_refused,
  _memory.memory_begins_alike,
  _evaluation.evaluation_reads_no_target,
  _evaluation.predictions_are_of_single_examples,
  _memory.refresh_fits_the_state,
  _programs.predictions_are_of_any_batch,
  _programs.state_stays_as_it_is,
  _programs.lowers_for_accelerators,
  _training.goes_on_exactly,
  _training.meshes_agree,
)

_IN_FLOAT64 = (
  _float64.soft_labels_are_taken,
  _training.goes_on_exactly,
  _training.meshes_agree,
)


def check_method(method: core.Method | type[core.Method]) -> None:
  """Checks that a method behaves as every method must.

  Args:
    method: a method with the hyperparameters to check, or a class, which is
      checked with its defaults.

  Raises:
    AssertionError: if a check fails; it says what the method does and how to
      correct it.
    TooFewDevices: if there are too few devices here to compare meshes.
  """
  made = method() if isinstance(method, type) else method
  if not isinstance(made, core.Method):
    raise AssertionError(
      f"{made!r} is no method; subclass okd_jax.core.Method."
    )
  for check in CHECKS:
    try:
      check(made)
    except (AssertionError, _training.TooFewDevices):
      raise
    except Exception as error:  # of the method, whatever it is
      how = ", with jax_enable_x64" if check in _IN_FLOAT64 else ""
      raise AssertionError(
        f"{_checks.name_of(made)} fails where {check.__name__} is checked{how}:"
        f" {type(error).__name__}: {error}. The traceback above says where."
      ) from error
