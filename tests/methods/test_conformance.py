"""What every method must do, run over every file in okd_jax/methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, methods, rules, testing
from okd_jax.testing import _outputs
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


# Settings of what is done outside of the method.
OUTSIDE = {
  *("base_grad", "clip_weights", "ema_bn", "ema_decay", "fusion_weight_decay"),
  *("pause_statistics", "updates", "views"),
}
# Settings that matter beside another one alone.
BESIDE = {
  "clip_weights": {"rule": "general"},
  "linear_scope": {"rule": "linear"},
}


def other_values(field):
  """Values that a setting may have instead of its default."""
  if isinstance(field.default, bool):
    return [not field.default]
  if isinstance(field.default, str):
    choices = rules.of(field).expectation.removeprefix("one of ").split(", ")
    return [choice for choice in choices if choice != field.default]
  if isinstance(field.default, int):
    return [field.default + 1]
  return [field.default / 2 or 0.25]


def described(method):
  """What a method says of its training, and the program of its gradients."""
  seen, batch = _outputs.random_outputs(method), _outputs.random_batch(method)
  ctx = _outputs.context(method)
  start = jax.eval_shape(
    lambda key: method.init(key, seen, batch, ctx), jax.random.key(0)
  )
  memory = [name for name in start if name != "params"]

  def step(variables, seen):
    def loss(params, seen):
      result, after = method.apply(
        variables | {"params": params}, seen, batch, ctx, mutable=memory
      )
      return core.objective(result.terms), (result, after)

    params = variables.get("params", {})
    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, seen)

  program = jax.make_jaxpr(step)(start, seen)
  said = (
    *(method.needs, method.turns(4), method.pauses_memory),
    method.optimizer_overrides,
  )
  if method.needs.held_out:
    refresh = jax.make_jaxpr(method.refresh)(seen.logits, batch.target)
    said = (*said, str(refresh))
  return said, (str(program), [str(x) for x in program.consts])


@pytest.mark.parametrize("name", methods.names())
def test_every_setting_matters(name):
  said, program = described(methods.make(name))
  assert described(methods.make(name)) == (said, program)
  for field in methods.fields(name):
    beside, before = BESIDE.get(field.name, {}), (said, program)
    if beside:
      before = described(methods.make(name, **beside))
    for value in other_values(field):
      now = described(methods.make(name, **beside, **{field.name: value}))
      part = 0 if field.name in OUTSIDE else 1
      assert now[part] != before[part], (field, value)
