"""What every method must do, run over every file in okd_jax/methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import methods, testing
import runs
import toys

# What is dear, compiled once more or trained, is long for these methods. The
# others differ most; a new method is checked whole by the quick set.
ALIKE = {
  *("cl_ilr", "ctkd", "dml", "ffl", "ffsd", "independent", "mcl", "oem"),
  *("okdhp", "one"),
}
DEAR = {
  "depends_on_arguments_alone",
  "soft_labels_are_taken",
  "state_stays_as_it_is",
  "lowers_for_accelerators",
  "goes_on_exactly",
  "meshes_agree",
}
EVERY = [
  pytest.param(
    name,
    check,
    id=f"{check.__name__}-{name}",
    marks=[pytest.mark.long]
    if check.__name__ in DEAR and name in ALIKE
    else [],
  )
  for check in testing.CHECKS
  for name in methods.names()
]
CONSTANT = "targets_are_constant_unless_joint"
JOINT = [
  name
  for name in methods.names()
  if methods.make(name).joint and "stop_gradient" in methods.options(name)
]
ALL = [
  (name, kind)
  for name in toys.OF_CLASSES
  for kind in ("replicas", "branches")
  if methods.make(name).needs.kind in (None, kind)
]


@pytest.mark.parametrize(("name", "check"), EVERY)
@pytest.mark.checklist("B4", "E2")
def test_methods_conform(name, check):
  check(methods.make(name))


@pytest.mark.parametrize("name", JOINT)
def test_joint_methods_can_have_constant_targets(name):
  method = methods.make(name, stop_gradient=True)
  assert not method.joint
  check = {check.__name__: check for check in testing.CHECKS}[CONSTANT]
  check(method)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), ALL)
@pytest.mark.checklist("B4")
def test_all_meshes_agree(name, kind):
  expected = None
  with jax.enable_x64(True):
    for data, peer in [(1, 1), (8, 1), (4, 2), (2, 4)]:
      recipe = toys.recipe(
        name, kind=kind, data=data, peer=peer, mapping="vmap", dtype=jnp.float64
      )
      if expected is None:
        start = jax.device_get(runs.start(recipe))
        expected = runs.train_from(recipe, start)
        assert np.isfinite(expected[1]["gradient_norm"])
      else:
        runs.assert_close(runs.train_from(recipe, start), expected, 1e-9)
