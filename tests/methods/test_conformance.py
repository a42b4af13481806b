"""What every method must do, run over every file in okd_jax/methods."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, methods
from okd_jax.training import state as state_lib
import runs
import toys

TERMS = {
  "peer_ce",
  "peer_kd",
  "leader_ce",
  "leader_kd",
  "ensemble_ce",
  "ensemble_kd",
  "mean_teacher_kd",
  # Of maps: FFSD alone.
  "peer_diversity",
  "peer_self_kd",
  "leader_map_kd",
  "leader_self_kd",
  "decoder",
}
P, B, C, D, H = 4, 8, 5, 8, 4
# Both kinds are seen; all combinations are in the slow test.
BRANCHES = ("pcl", "dml")

every_method = pytest.mark.parametrize("name", methods.names())


def kind_of(method):
  default = "branches" if method in BRANCHES else "replicas"
  return methods.make(method).needs.kind or default


def outputs(num_peers=P, scale=1.0, dtype=jnp.float32, trunk=True):
  """Random outputs of a group, with those of averages and of a teacher."""
  rng = np.random.default_rng(0)

  def draw(*shape, factor=1.0, dtype=dtype):
    return jnp.asarray(factor * rng.normal(size=shape), dtype)

  def group(count):
    return core.Outputs(
      logits=draw(count, B, C, factor=scale, dtype=jnp.float32),
      features=draw(count, B, D),
      maps=(draw(count, B, 2 * H, 2 * H, D // 2), draw(count, B, H, H, D)),
      trunk=draw(B, D) if trunk else None,
    )

  return dataclasses.replace(
    group(num_peers), ema=group(num_peers), teacher=group(1)
  )


CONTEXT = core.Context(
  epoch=jnp.float32(1),
  step=jnp.int32(3),
  rampup=jnp.float32(0.5),
  key=jax.random.key(0),
  num_examples=toys.INFO.num_train,
  train=True,
  train_labels=jnp.arange(toys.INFO.num_train) % C,
)
BATCH = toys.batch(0, B)


@functools.cache
def variables_of(method):
  """The variables of a method for the outputs above, drawn once."""
  with jax.ensure_compile_time_eval():  # may be called while tracing
    init = jax.jit(lambda key: method.init(key, outputs(), BATCH, CONTEXT))
    return jax.device_get(init(jax.random.key(0)))


def apply(method, params, seen):
  """The method's output for its initial memory and the given parameters."""
  variables = variables_of(method) | ({"params": params} if params else {})
  memory = [name for name in variables if name != "params"]
  return method.apply(variables, seen, BATCH, CONTEXT, mutable=memory)[0]


def loss_and_gradients(method, seen):
  def loss(params, seen):
    return core.objective(apply(method, params, seen).terms)

  params = variables_of(method).get("params", {})
  return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, seen)


@every_method
def test_terms_are_named_and_shaped_alike(name):
  method = methods.make(name)
  result = jax.eval_shape(functools.partial(apply, method, {}), outputs())
  assert result.terms
  for term, value in result.terms.items():
    assert term in TERMS, term
    assert value.dtype == jnp.float32, term
    assert value.shape[-1] == B and value.ndim <= 2, (term, value.shape)
    assert value.ndim == 1 or value.shape[0] <= P, (term, value.shape)
  for prediction, value in result.predictions.items():
    assert value.shape == (B, C), prediction
  for summary, value in result.summaries.items():
    assert value.size <= P * P, summary


@every_method
@pytest.mark.parametrize(
  ("scale", "dtype"),
  [(1e3, jnp.float32), (1.0, jnp.bfloat16)],
  ids=["large_logits", "bfloat16"],
)
@pytest.mark.checklist("E2")
def test_loss_and_gradients_are_finite(name, scale, dtype):
  seen = outputs(scale=scale, dtype=dtype)
  loss, gradients = loss_and_gradients(methods.make(name), seen)
  assert loss.dtype == jnp.float32
  for leaf in jax.tree.leaves((loss, gradients)):
    assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


@every_method
def test_jit_changes_nothing(name):
  method = methods.make(name)
  plain = apply(method, {}, outputs())
  jitted = jax.jit(functools.partial(apply, method, {}))(outputs())
  runs.assert_close(jitted, plain, 1e-4)


@every_method
def test_targets_are_constant_unless_joint(name):
  method = methods.make(name)
  if method.joint:
    method = methods.make(name, stop_gradient=True)
  assert not method.joint

  def loss_of_each_peer(seen):
    terms = apply(method, {}, seen).terms
    return {k: jnp.sum(t, -1) for k, t in terms.items() if t.ndim == 2}

  seen = outputs()
  jacobian = jax.jit(jax.jacrev(loss_of_each_peer))(seen)
  for term, by_outputs in jacobian.items():
    frozen = (by_outputs.ema, by_outputs.teacher)
    for leaf in jax.tree.leaves(frozen):
      assert not np.any(leaf), f"{term} trains averages or teachers"
    live = dataclasses.replace(by_outputs, trunk=None, ema=None, teacher=None)
    # [Q, P]: whether row q of the term sends gradient into peer p.
    reached = sum(
      np.abs(leaf).sum(axis=tuple(range(2, leaf.ndim)))
      for leaf in jax.tree.leaves(live)
    )
    rows = len(reached)
    if rows == P:
      reached = reached - np.diag(np.diag(reached))
    else:
      # Terms of fewer peers name them by position only.
      reached = np.sort(reached, axis=1)[:, :-1]
    assert not np.any(reached), f"{term} of one peer trains another: {reached}"


@every_method
def test_joint_methods_do_send_gradient_to_others(name):
  method = methods.make(name)
  if not method.joint:
    return
  seen = outputs()

  def first(logits):
    terms = apply(method, {}, dataclasses.replace(seen, logits=logits)).terms
    return jnp.sum(terms["peer_kd"][0])

  gradient = jax.jit(jax.grad(first))(seen.logits)
  assert np.any(gradient[1])


@every_method
def test_too_few_peers_are_refused(name):
  method = methods.make(name)
  if method.min_peers == 1:
    return
  with pytest.raises(ValueError, match=f"'{name}' got 1 peer.*num_peers"):
    jax.eval_shape(functools.partial(apply, method, {}), outputs(num_peers=1))


@every_method
def test_missing_trunk_or_maps_are_refused(name):
  bare = dataclasses.replace(outputs(trunk=False), maps=())
  method = methods.make(name)
  try:
    jax.eval_shape(functools.partial(apply, method, {}), bare)
  except ValueError as error:
    assert f"method '{name}' reads the" in str(error)
  else:
    assert name not in ("one", "ffl", "ffsd")


@every_method
def test_memory_of_examples_is_not_read_in_evaluation(name):
  method = methods.make(name)
  variables = variables_of(method)
  context = dataclasses.replace(CONTEXT, train=False, train_labels=None)

  def evaluate(variables):
    return method.apply(variables, outputs(), BATCH, context)

  forgotten = runs.forget(method, variables)
  runs.assert_close(evaluate(forgotten), evaluate(variables), 0.0)


@every_method
def test_networks_in_bfloat16_keep_float32_state(name):
  net = toys.Toy(C, dtype=jnp.bfloat16)
  recipe = toys.recipe(name, kind=kind_of(name), net=net)
  state = state_lib.abstract(recipe, jax.random.key(0))
  taught = jax.eval_shape(lambda: teacher_variables(recipe))
  given = (jax.random.key(1), taught, runs.train_labels(recipe))
  after, measured = jax.eval_shape(
    runs.jitted(recipe, state), state, toys.batch(0), *given
  )
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after
  )
  assert all(jax.tree.leaves(same))
  assert all(t.dtype == jnp.float32 for t in measured["terms"].values())


def teacher_variables(recipe):
  if recipe.teacher is None:
    return None
  return recipe.teacher.init(jax.random.key(7), recipe.example_images())


def check_meshes(name, kind, meshes):
  """Trains from one state on every mesh; all end where the first one does."""
  expected = None
  for data, peer in meshes:
    recipe = toys.recipe(
      name, kind=kind, data=data, peer=peer, mapping="vmap", dtype=jnp.float64
    )
    if expected is None:
      start = jax.device_get(runs.start(recipe))
      expected = runs.train_from(recipe, start)
      assert np.isfinite(expected[1]["gradient_norm"])
    else:
      runs.assert_close(runs.train_from(recipe, start), expected, 1e-9)


@every_method
@pytest.mark.checklist("B4")
def test_meshes_agree(name):
  with jax.enable_x64(True):
    check_meshes(name, kind_of(name), [(1, 1), (4, 2)])


ALL = [
  (name, kind)
  for name in methods.names()
  for kind in ("replicas", "branches")
  if methods.make(name).needs.kind in (None, kind)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), ALL)
@pytest.mark.checklist("B4")
def test_all_meshes_agree(name, kind):
  with jax.enable_x64(True):
    check_meshes(name, kind, [(1, 1), (8, 1), (4, 2), (2, 4)])
