"""Methods against the published vectors, through peers and training step."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax import core, groups, layers, methods, schedules
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.methods import _fusion
from okd_jax.methods._fusion import Fusion
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.optim import Optim
from okd_jax.training.setup import Setup
import runs
import toys


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def some(name, kind, chosen):
  """Some of the cases: losses are tested on all of them elsewhere."""
  cases = golden.cases(name, kind)
  return cases | {"argvalues": cases["argvalues"][chosen]}


def context(rampup=1.0, train=True, epoch=0.0):
  return core.Context(
    epoch=jnp.asarray(epoch),
    step=jnp.int32(0),
    rampup=jnp.asarray(rampup),
    key=jax.random.key(0),
    num_examples=64,
    train=train,
  )


def batch_of(labels):
  labels = jnp.asarray(labels, jnp.int32)
  return core.Batch(
    image=jnp.zeros((len(labels), 1, 1, 1)),
    target=labels,
    index=labels,
    mask=labels >= 0,
  )


def total(result):
  return core.objective(result.terms)


class Linear(nn.Module):
  """The vectors' toy: z_i = (f W3_i) V_i + c_i; f is the trunk's parameter."""

  num_classes: int
  trunk_shape: tuple[int, int]
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = self.param("f", nn.initializers.zeros, self.trunk_shape)
    if self.part == "trunk":
      return x
    features = nn.Dense(5, use_bias=False, name="W3")(x)
    logits = nn.Dense(self.num_classes, name="V")(features)
    return core.Outputs(logits, features)


def toy_variables(case):
  """Variables of the toy's branches, from the parameters of a case."""
  tails = {
    "W3": {"kernel": np.asarray(case["params"]["W3"])},
    "V": {
      "kernel": np.asarray(case["params"]["V"]),
      "bias": np.asarray(case["params"]["c"]),
    },
  }
  return {"trunk": {"f": np.asarray(case["inputs"]["f"])}, "tails": tails}


def run_toy(case, method, method_variables):
  """Loss, gradients and new memory of a method on the toy's branches."""
  num_peers, _, num_classes = np.shape(case["params"]["V"])
  net = Linear(num_classes, np.shape(case["inputs"]["f"]))
  peers = groups.branches(
    net,
    num_peers,
    mesh_lib.make_mesh(1, 1),
    trunk_gradient=method.needs.trunk_gradient,
  )
  batch = batch_of(case["inputs"]["labels"])
  memory = {k: v for k, v in method_variables.items() if k != "params"}
  ctx = context(case["hyper"]["consistency_weight"])

  def loss(params):
    outputs, _ = peers.apply(
      {"params": params["peers"]}, batch.image, jax.random.key(0), train=True
    )
    result, after = method.apply(
      {"params": params["method"], **memory},
      outputs,
      batch,
      ctx,
      mutable=list(memory),
    )
    return total(result), (result, outputs, after)

  params = {
    "peers": toy_variables(case),
    "method": method_variables.get("params", {}),
  }
  return golden.jit_once(jax.value_and_grad(loss, has_aux=True))(params)


def check_toy(case, variant, method, method_variables):
  expected = case["expected"][variant]
  (loss, aux), gradients = run_toy(case, method, method_variables)
  np.testing.assert_allclose(loss, expected["loss"], atol=1e-10)
  want = expected["grads"]
  tails = gradients["peers"]["tails"]
  for got, name in (
    (gradients["peers"]["trunk"]["f"], "f"),
    (tails["W3"]["kernel"], "W3"),
    (tails["V"]["kernel"], "V"),
    (tails["V"]["bias"], "c"),
  ):
    np.testing.assert_allclose(got, want[name], atol=1e-9, err_msg=name)
  return aux, gradients["method"]


def settings(case, variant):
  return {
    "temperature": case["hyper"]["T"],
    "kd_weight": case["hyper"]["alpha"],
    "eps": case["hyper"]["eps"],
    "stop_gradient": variant == "stop_gradient",
  }


@pytest.mark.parametrize(**some("okddip", "ind", slice(2)))
def test_independent_branches(case):
  check_toy(case, "official", methods.make("independent"), {})


@pytest.mark.parametrize("variant", ["official", "stop_gradient"])
@pytest.mark.parametrize(**some("okddip", "cl_ilr", slice(2)))
def test_cl_ilr(case, variant):
  method = methods.make("cl_ilr", **settings(case, variant))
  check_toy(case, variant, method, {})


@pytest.mark.parametrize("variant", ["official", "stop_gradient"])
@pytest.mark.parametrize(**some("okddip", "one", slice(2)))
def test_one(case, variant):
  given = case["params"]
  width = len(given["b_gate"])
  variables = {
    "params": {
      "gate": {
        "kernel": np.asarray(given["W_gate"]),
        "bias": np.asarray(given["b_gate"]),
      },
      "norm": {
        "scale": np.asarray(given["bn_gamma"]),
        "bias": np.asarray(given["bn_beta"]),
      },
    },
    "batch_stats": {"norm": {"mean": np.zeros(width), "var": np.ones(width)}},
  }
  method = methods.make("one", **settings(case, variant))
  aux, gradients = check_toy(case, variant, method, variables)
  result, _, after = aux
  expected = case["expected"][variant]
  statistics = after["batch_stats"]["norm"]
  for got, name in (
    (result.predictions["gated_ensemble"], "ensemble_logits"),
    (statistics["mean"], "gate_bn_running_mean_after"),
    (statistics["var"], "gate_bn_running_var_after"),
  ):
    np.testing.assert_allclose(got, expected[name], atol=1e-10, err_msg=name)
  for got, name in (
    (gradients["gate"]["kernel"], "W_gate"),
    (gradients["gate"]["bias"], "b_gate"),
    (gradients["norm"]["scale"], "bn_gamma"),
    (gradients["norm"]["bias"], "bn_beta"),
  ):
    np.testing.assert_allclose(
      got, expected["grads"][name], atol=1e-9, err_msg=name
    )


# The first case has another width of the attention than the method chooses.
OKDDIP = some("okddip", "okddip", slice(1, 3))


@pytest.mark.parametrize(
  ("variant", "changes"),
  [
    ("official", {}),
    pytest.param(
      "stop_gradient", {"stop_gradient": True}, marks=pytest.mark.long
    ),
    pytest.param(
      "paper_probs_grad", {"aggregate": "probs"}, marks=pytest.mark.long
    ),
    ("paper_probs_detached", {"aggregate": "probs", "stop_gradient": True}),
  ],
)
@pytest.mark.parametrize(**OKDDIP)
def test_okddip(case, variant, changes):
  inputs = golden.arrays(
    case["inputs"],
    ("h_aux", "z_aux", "z_leader"),
    peers_first=("h_aux", "z_aux"),
  )
  method = methods.make("okddip", **settings(case, "") | changes)
  batch = batch_of(case["inputs"]["labels"])
  ctx = context(case["hyper"]["consistency_weight"])

  def loss(inputs, projections):
    # The leader's features take no part.
    none = jnp.full_like(inputs["h_aux"][:1], jnp.nan)
    outputs = core.Outputs(
      jnp.concatenate([inputs["z_aux"], inputs["z_leader"][None]]),
      jnp.concatenate([inputs["h_aux"], none]),
    )
    params = {k: {"kernel": v} for k, v in projections.items()}
    return total(method.apply({"params": params}, outputs, batch, ctx))

  projections = {
    "query": np.asarray(case["params"]["W_L"]),
    "key": np.asarray(case["params"]["W_E"]),
  }
  run = golden.jit_once(jax.value_and_grad(loss, (0, 1)))
  value, (to_inputs, to_projections) = run(inputs, projections)
  expected = case["expected"][variant]
  np.testing.assert_allclose(value, expected["loss"], atol=1e-10)
  want = expected["grads"]
  for got, name, peers_first in (
    (to_inputs["h_aux"], "h_aux", True),
    (to_inputs["z_aux"], "z_aux", True),
    (to_inputs["z_leader"], "z_leader", False),
    (to_projections["query"], "W_L", False),
    (to_projections["key"], "W_E", False),
  ):
    np.testing.assert_allclose(
      got,
      golden.array(want[name], peers_first=peers_first),
      atol=1e-9,
      err_msg=name,
    )


@pytest.mark.parametrize(
  ("variant", "changes"),
  [
    ("ensemble", {}),
    ("ensemble_stop_gradient", {"stop_gradient": True}),
    ("pairwise", {"form": "pairwise"}),
    ("pairwise_stop_gradient", {"form": "pairwise", "stop_gradient": True}),
  ],
)
@pytest.mark.parametrize(**some("okddip", "dml", slice(2)))
def test_dml(case, variant, changes):
  logits = golden.array(case["inputs"]["z"], peers_first=True)
  hyper = {"temperature": case["hyper"]["T"], "eps": case["hyper"]["eps"]}
  method = methods.make("dml", **hyper, **changes)
  batch = batch_of(case["inputs"]["labels"])

  def loss(logits):
    # Not ramped up.
    outputs = core.Outputs(logits, logits)
    return total(method.apply({}, outputs, batch, context(0.1)))

  value, gradient = golden.jit_once(jax.value_and_grad(loss))(logits)
  expected = case["expected"][variant]
  np.testing.assert_allclose(value, expected["loss"], atol=1e-10)
  want = golden.array(expected["grads"]["z"], peers_first=True)
  np.testing.assert_allclose(gradient, want, atol=1e-9)


@pytest.mark.parametrize(**some("okddip", "kd", slice(2)))
def test_kd(case):
  student, teacher = (
    np.asarray(case["inputs"][name])[None]
    for name in ("z_student", "z_teacher")
  )
  method = methods.make(
    "kd",
    temperature=case["hyper"]["T"],
    kd_weight=case["hyper"]["alpha"],
    eps=case["hyper"]["eps"],
  )
  batch = batch_of(case["inputs"]["labels"])

  def loss(student):
    taught = core.Outputs(teacher, teacher)
    outputs = core.Outputs(student, student, teacher=taught)
    return total(method.apply({}, outputs, batch, context(0.1)))

  value, gradient = golden.jit_once(jax.value_and_grad(loss))(student)
  np.testing.assert_allclose(value, case["expected"]["loss"], atol=1e-10)
  want = case["expected"]["grads"]["z_student"]
  np.testing.assert_allclose(gradient[0], want, atol=1e-9)


KDCL_RULES = {
  "naive": {"rule": "naive"},
  "linear_per_sample": {"rule": "linear"},
  "linear_per_batch": {"rule": "linear", "linear_scope": "batch"},
  "minlogit": {"rule": "minlogit"},
  "general": {"rule": "general"},
}


@pytest.mark.parametrize(
  "rule", quick.only(["linear_per_batch", "general"], KDCL_RULES)
)
@pytest.mark.parametrize(**some("kdcl", "targets_and_losses", slice(2)))
def test_kdcl(case, rule):
  expected = case["expected"][rule]
  method = methods.make(
    "kdcl",
    **KDCL_RULES[rule],
    temperature=case["params"]["temperature"],
    kd_weight=case["params"]["kd_weight"],
  )
  inputs = case["inputs"]
  memory = {}
  if rule == "general":
    held_out = jnp.log(np.asarray(inputs["val_probs"]))
    memory = method.refresh(held_out, jnp.asarray(inputs["val_labels"]))
    np.testing.assert_allclose(
      memory["weights"]["peers"], expected["weights"], rtol=1e-5
    )
  batch = batch_of(inputs["labels"])

  def loss(logits):
    outputs = core.Outputs(logits, logits)
    return total(method.apply(memory, outputs, batch, context(0.1)))

  value, gradient = golden.jit_once(jax.value_and_grad(loss))(
    np.asarray(inputs["student_logits"])
  )
  # The ridge on the correlation, and the linear rule's iterations.
  tolerance = {"general": 1e-5, "linear_per_sample": 1e-6}.get(rule, 1e-9)
  np.testing.assert_allclose(value, expected["total"], rtol=tolerance)
  np.testing.assert_allclose(
    gradient, expected["grad_student_logits"], atol=tolerance
  )


def test_kdcl_general_starts_from_equal_weights():
  method = methods.make("kdcl", rule="general")
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)))
  batch = batch_of([0, 1])
  outputs = core.Outputs(logits, logits)
  memory = method.init(jax.random.key(0), outputs, batch, context())
  np.testing.assert_array_equal(memory["weights"]["peers"], [0.25] * 4)
  assert method.needs.held_out == 0.1
  assert methods.make("kdcl").needs.held_out == 0


def test_kdcl_general_clips_weights_on_request():
  # The second peer errs as the first, but more, so its weight is negative.
  probs = jnp.array([[[0.9, 0.1]], [[0.7, 0.3]]])
  for clip in (False, True):
    method = methods.make("kdcl", rule="general", clip_weights=clip)
    weights = method.refresh(jnp.log(probs), jnp.array([0]))["weights"]["peers"]
    assert (weights[1] < 0) == (not clip)
    np.testing.assert_allclose(jnp.sum(weights), 1, rtol=1e-6)


def test_kdcl_general_renews_weights_of_the_same_type():
  # Where JAX has float64, as here, and the networks are in float32.
  method = methods.make("kdcl", rule="general")
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), "f4")
  outputs, labels = core.Outputs(logits, logits), jnp.array([0, 1])
  memory = method.init(jax.random.key(0), outputs, batch_of(labels), context())
  renewed = method.refresh(logits, labels)
  assert jax.typeof(renewed["weights"]["peers"]) == jax.typeof(
    memory["weights"]["peers"]
  )


@pytest.mark.parametrize(**golden.cases("ffl", "fusion_module"))
def test_fusion_module(case):
  given = {k: np.asarray(v) for k, v in case["inputs"].items()}
  params = {
    "depth_conv": {"kernel": given["depthwise_kernel"]},
    "depth_norm": {"scale": given["bn1_scale"], "bias": given["bn1_bias"]},
    "point_conv": {"kernel": given["pointwise_kernel"]},
    "point_norm": {"scale": given["bn2_scale"], "bias": given["bn2_bias"]},
    "head": {"kernel": given["fc_kernel"], "bias": given["fc_bias"]},
  }
  statistics = {
    f"{name}_norm": {
      "mean": given[f"{bn}_running_mean"],
      "var": given[f"{bn}_running_var"],
    }
    for name, bn in (("depth", "bn1"), ("point", "bn2"))
  }
  module = Fusion(case["params"]["num_classes"])
  labels = given["labels"]

  def loss(params, maps):
    (fused, logits), after = module.apply(
      {"params": params, "batch_stats": statistics},
      tuple(maps),
      train=True,
      mutable=["batch_stats"],
    )
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), labels[:, None], axis=1
    )
    return -jnp.mean(picked), (fused, logits, after["batch_stats"])

  run = golden.jit_once(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (value, (fused, logits, after)), gradients = run(
    params, given["feature_maps"]
  )
  expected = case["expected"]["train"]
  want = expected["grads"]
  pairs = [
    (value, expected["cross_entropy"]),
    (fused, expected["fused_map"]),
    (logits, expected["logits"]),
    (gradients[1], want["feature_maps"]),
    (gradients[0]["depth_conv"]["kernel"], want["depthwise_kernel"]),
    (gradients[0]["depth_norm"]["scale"], want["bn1_scale"]),
    (gradients[0]["depth_norm"]["bias"], want["bn1_bias"]),
    (gradients[0]["point_conv"]["kernel"], want["pointwise_kernel"]),
    (gradients[0]["point_norm"]["scale"], want["bn2_scale"]),
    (gradients[0]["point_norm"]["bias"], want["bn2_bias"]),
    (gradients[0]["head"]["kernel"], want["fc_kernel"]),
    (gradients[0]["head"]["bias"], want["fc_bias"]),
  ]
  for name, bn in (("depth", "bn1"), ("point", "bn2")):
    own = after[f"{name}_norm"]
    pairs += [
      (own["mean"], expected[f"{bn}_running_mean_after"]),
      (own["var"], expected[f"{bn}_running_var_after_unbiased"]),
    ]
  evaluated = module.apply(
    {"params": params, "batch_stats": statistics},
    tuple(given["feature_maps"]),
    train=False,
  )
  pairs += [
    (evaluated[0], case["expected"]["eval"]["fused_map"]),
    (evaluated[1], case["expected"]["eval"]["logits"]),
  ]
  for got, desired in pairs:
    np.testing.assert_allclose(got, desired, atol=1e-10)


def test_fusion_averages_larger_maps_down():
  small, large = jnp.ones((2, 2, 2, 3)), jnp.ones((2, 5, 4, 6))
  module = Fusion(4)
  shapes = jax.eval_shape(
    lambda key: module.init_with_output(key, (small, large), train=True),
    jax.random.key(0),
  )
  (fused, logits), variables = shapes
  assert fused.shape == (2, 2, 2, 3) and logits.shape == (2, 4)
  assert variables["params"]["depth_conv"]["kernel"].shape == (3, 3, 1, 9)


@pytest.mark.parametrize(("length", "parts"), [(4, 2), (7, 4), (5, 3), (3, 3)])
def test_every_position_of_a_larger_map_counts_alike(length, parts):
  x = np.random.default_rng(0).normal(size=(2, length, 4, 3))
  # Repeated so often, positions fall into parts as a whole.
  fine = np.repeat(x, parts, axis=1).reshape(2, parts, length, 2, 2, 3)
  shrunk = _fusion._shrink(jnp.asarray(x), (parts, 2))
  np.testing.assert_allclose(shrunk, fine.mean((2, 4)), rtol=1e-12)


@pytest.mark.parametrize("stop", [False, True])
def test_ffl_may_keep_its_gradients_in_the_fusion_module(stop):
  method = methods.make("ffl", stop_gradient_maps=stop)
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 3, 4)))
  maps = jnp.asarray(rng.normal(size=(2, 3, 2, 2, 5)))
  batch = batch_of([0, 1, 2])

  @golden.jit_once
  def gradients(maps):
    def given(maps):
      return core.Outputs(logits, jnp.mean(maps, (2, 3)), maps=(maps,))

    variables = method.init(jax.random.key(0), given(maps), batch, context())

    def loss(params, maps):
      result, _ = method.apply(
        {**variables, "params": params},
        given(maps),
        batch,
        context(),
        mutable=["batch_stats"],
      )
      return total(result)

    return jax.grad(loss, (0, 1))(variables["params"], maps)

  of_module, of_maps = gradients(maps)
  assert all(jnp.any(leaf) for leaf in jax.tree.leaves(of_module))
  assert bool(jnp.any(of_maps)) == (not stop)


def test_ffl_trains_its_module_with_its_own_weight_decay():
  recipe = toys.recipe("ffl", num_peers=2, mapping="vmap")
  shapes = state_lib.abstract(recipe, jax.random.key(0))
  params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes.params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(recipe.optimizer.update)(
    zeros, recipe.optimizer.init(params), params, learning_rate=1.0
  )
  # Nesterov momentum at rest: -(1 + m) wd p.
  for tree, decay in ((updates["peers"], 5e-4), (updates["method"], 1e-5)):
    for leaf in jax.tree.leaves(tree):
      np.testing.assert_allclose(leaf, -1.9 * decay, rtol=1e-6)


def test_alternating_updates_see_the_updates_before_them():
  """Against plain gradient steps on one peer after another."""
  num_peers, num_classes = 3, toys.INFO.num_classes

  class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(num_classes, name="head")(x.reshape(len(x), -1))

  method = methods.make(
    "dml",
    form="pairwise",
    updates="alternating",
    temperature=1.0,
    stop_gradient=True,
    eps=0.0,
  )
  assert method.needs.kind == "replicas"
  mesh = mesh_lib.make_mesh(1, 1)
  recipe = toys.recipe(
    method,
    peers=groups.replicas(Flat(), num_peers, mesh, "vmap"),
    sgd=Optim(0.1, momentum=0.0, nesterov=False, weight_decay=0.0, drops=()),
    dtype=jnp.float64,
  )
  recipe = as_given(recipe)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(6, *toys.INFO.image_shape))
  labels = rng.integers(0, num_classes, 6)
  batch = dataclasses.replace(batch_of(labels), image=jnp.asarray(images))
  state = runs.start(recipe)
  before = jax.device_get(state.params["peers"])
  step = golden.jit_once(functools.partial(steps.train_step, recipe))
  after = jax.device_get(step(state, batch, jax.random.key(0))[0])

  x = images.reshape(6, -1)
  kernel = np.array(before["head"]["kernel"])
  bias = np.array(before["head"]["bias"])
  for i in range(num_peers):
    logits = x @ kernel + bias[:, None]
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    others = [probs[i] - probs[k] for k in range(num_peers) if k != i]
    gradient = probs[i] - np.eye(num_classes)[labels] + np.mean(others, 0)
    kernel[i] -= 0.1 * x.T @ gradient / 6
    bias[i] -= 0.1 * gradient.mean(0)
  np.testing.assert_allclose(
    after.params["peers"]["head"]["kernel"], kernel, atol=1e-12
  )
  np.testing.assert_allclose(
    after.params["peers"]["head"]["bias"], bias, atol=1e-12
  )


@dataclasses.dataclass(frozen=True)
class Given(Setup):
  """A recipe whose views and epochs are given, not drawn and counted.

  The views of an image stand in its batch, [B, P, H, W, c].
  """

  epochs_of_steps: Any = None

  def augment(self, batch, key):
    del key
    if batch.image.ndim < 5:
      return batch
    return dataclasses.replace(batch, image=jnp.moveaxis(batch.image, 1, 0))

  def context(self, step, key, **others):
    ctx = super().context(step, key, **others)
    if self.epochs_of_steps is None:
      return ctx
    epoch = jnp.asarray(self.epochs_of_steps, float)[step]
    rampup = schedules.rampup(epoch, self.rampup_epochs)
    return dataclasses.replace(ctx, epoch=epoch, rampup=rampup)


def as_given(recipe, **changes):
  fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
  return Given(**fields | changes)


class TwoLayers(nn.Module):
  """The PCL vectors' toy: ReLU trunk, ReLU branch, head; no batch norm."""

  num_classes: int
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.relu(nn.Dense(5, use_bias=False, name="trunk")(x))
    if self.part == "trunk":
      return x
    x = nn.relu(nn.Dense(3, use_bias=False, name="branch")(x[:, 0, 0]))
    return core.Outputs(nn.Dense(self.num_classes, name="head")(x), x)


def pcl_params(flat):
  """Our parameters from the flat ones of the vectors."""
  flat = {name: np.asarray(value) for name, value in flat.items()}
  num_peers = sum(name.startswith("branch") for name in flat)

  def stacked(name):
    return np.stack([flat[f"{name}{i}"] for i in range(num_peers)])

  return {
    "peers": {
      "trunk": {"trunk": {"kernel": flat["trunk"]}},
      "tails": {
        "branch": {"kernel": stacked("branch")},
        "head": {"kernel": stacked("head"), "bias": stacked("bias")},
      },
    },
    "method": {
      "ensemble": {"kernel": flat["ens_kernel"], "bias": flat["ens_bias"]}
    },
  }


@pytest.mark.long
@pytest.mark.parametrize(**golden.cases("pcl", "tiny_training"))
def test_pcl_training_step_by_step(case):
  given, expected = case["params"], case["expected"]
  num_peers, num_classes = given["m"], 4
  initial = pcl_params(case["inputs"]["initial_params"])
  peers = groups.branches(
    TwoLayers(num_classes), num_peers, mesh_lib.make_mesh(1, 1), "vmap"
  )
  recipe = as_given(
    toys.recipe(
      methods.make(
        "pcl",
        temperature=given["temperature"],
        kd_weight=given["ramp_lambda"],
        ema_decay=given["ema_beta"],
      ),
      peers=peers,
      sgd=Optim(
        given["learning_rate"],
        momentum=given["momentum"],
        nesterov=given["nesterov"],
        weight_decay=given["weight_decay"],
        drops=(),
      ),
      rampup_epochs=given["ramp_alpha"],
      dtype=jnp.float64,
    ),
    epochs_of_steps=[step["epoch"] for step in expected["steps"]],
  )
  empty = {"peers": {}, "method": {}}
  state = state_lib.TrainState(
    step=jnp.int32(0),
    params=initial,
    memory=empty,
    opt_state=recipe.optimizer.init(initial),
    average=state_lib.Average(initial, empty),
  )
  step_fn = golden.jit_once(functools.partial(steps.train_step, recipe))
  before, old_trace = initial, jax.tree.map(np.zeros_like, initial)
  for views, labels, want in zip(
    case["inputs"]["views_per_step"],
    case["inputs"]["labels_per_step"],
    expected["steps"],
    strict=True,
  ):
    views = np.asarray(views)  # [P, B, 4]
    images = np.moveaxis(views, 0, 1)[:, :, None, None]
    batch = dataclasses.replace(batch_of(labels), image=jnp.asarray(images))
    state, measured = step_fn(state, batch, jax.random.key(0))

    loss, terms = want["loss"], measured["terms"]
    ramp = loss["ramp_weight"]
    for got, desired in (
      (measured["rampup"], ramp),
      (terms["peer_ce"], loss["ce_peers"]),
      (terms["ensemble_ce"], loss["ce_ensemble"]),
      (terms["ensemble_kd"], ramp * np.asarray(loss["pe_per_peer"])),
      (terms["mean_teacher_kd"], ramp * np.asarray(loss["pm_per_peer"])),
      (sum(np.sum(t) for t in terms.values()), loss["total"]),
    ):
      np.testing.assert_allclose(got, desired, rtol=1e-10)

    # The momentum buffer holds m v + g + wd p.
    trace = next(s.trace for s in state.opt_state if hasattr(s, "trace"))
    gradients = jax.tree.map(
      lambda v, u, p: v - given["momentum"] * u - given["weight_decay"] * p,
      trace,
      old_trace,
      before,
    )
    runs.assert_close(gradients, pcl_params(want["grads"]), 1e-10)
    runs.assert_close(state.params, pcl_params(want["params_after"]), 1e-10)
    runs.assert_close(
      state.average.params, pcl_params(want["mean_params_after"]), 1e-10
    )
    before, old_trace = jax.device_get((state.params, trace))

  averaged = state.average.params
  outputs, _ = peers.apply(
    {"params": averaged["peers"]},
    jnp.asarray(views[:, :, None, None]),
    jax.random.key(0),
    train=False,
  )
  result = recipe.method.apply(
    {"params": averaged["method"]},
    dataclasses.replace(outputs, ema=outputs),
    batch,
    context(train=False),
  )
  np.testing.assert_allclose(
    outputs.logits[0],
    expected["final_mean_peer0_logits_on_last_view0"],
    rtol=1e-10,
  )
  np.testing.assert_allclose(
    result.predictions["ensemble_classifier"],
    expected["final_mean_ensemble_logits_on_last_views"],
    rtol=1e-10,
  )


@pytest.mark.parametrize(
  "case", golden.cases("pcl", "ensemble_classifier")["argvalues"]
)
def test_pcl_ensemble_classifier(case):
  features = np.asarray(case["inputs"]["peer_features"])
  dense = {
    "kernel": np.asarray(case["inputs"]["kernel"]),
    "bias": np.asarray(case["inputs"]["bias"]),
  }
  num_classes = dense["bias"].size
  method = methods.make("pcl")
  batch = batch_of(case["inputs"]["labels"])

  def loss(features, dense):
    logits = jnp.zeros((*features.shape[:2], num_classes))
    outputs = core.Outputs(logits, features)
    outputs = dataclasses.replace(outputs, ema=outputs)
    result = method.apply(
      {"params": {"ensemble": dense}}, outputs, batch, context()
    )
    prediction = result.predictions["ensemble_classifier"]
    return jnp.mean(result.terms["ensemble_ce"]), prediction

  run = golden.jit_once(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (value, prediction), gradients = run(features, dense)
  expected = case["expected"]
  for got, name in (
    (value, "ce_ensemble"),
    (prediction, "ensemble_logits"),
    (gradients[0], "grad_peer_features"),
    (gradients[1]["kernel"], "grad_kernel"),
    (gradients[1]["bias"], "grad_bias"),
  ):
    np.testing.assert_allclose(got, expected[name], atol=1e-10, err_msg=name)


class Normed(nn.Module):
  """Trunk and tail of a linear layer and batch norm each."""

  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.Dense(4, name="low")(x)
      norm = layers.BatchNorm(name="low_norm")
      x = nn.relu(norm(x, use_running_average=not train))
    if self.part == "trunk":
      return x
    x = nn.Dense(4, name="high")(jnp.mean(x, (1, 2)))
    x = layers.BatchNorm(name="high_norm")(x, use_running_average=not train)
    return core.Outputs(nn.Dense(toys.INFO.num_classes, name="head")(x), x)


@pytest.mark.long
def test_pcl_average_has_statistics_of_its_own_passes():
  peers = groups.branches(Normed(), 2, mesh_lib.make_mesh(1, 1), "vmap")
  recipe = toys.recipe("pcl", peers=peers)
  step = golden.jit_once(functools.partial(steps.train_step, recipe))
  key = jax.random.key(1)
  first, _ = step(runs.start(recipe), toys.batch(0), key)
  # Equal networks saw equal views, and the first average is a copy.
  runs.assert_close(first.average.memory, first.memory, 1e-6)
  runs.assert_close(first.average.params, first.params, 1e-6)
  second, _ = step(first, toys.batch(1), key)
  third, _ = step(second, toys.batch(2), key)

  # The third step passed its views through the average after the second.
  views_key, peers_key, _ = jax.random.split(
    jax.random.fold_in(key, second.step), 3
  )
  average = second.average
  _, expected = golden.jit_once(functools.partial(peers.apply, train=True))(
    state_lib.variables(average.params, average.memory, "peers"),
    recipe.augment(toys.batch(2), views_key).image,
    peers_key,
  )
  runs.assert_close(third.average.memory["peers"], expected, 1e-6)
  gaps = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), expected, third.memory["peers"]
  )
  assert max(jax.tree.leaves(gaps)) > 1e-4


def test_a_method_without_terms_is_refused():
  with pytest.raises(ConfigError, match="objective: terms={} must hold"):
    core.objective({})


@pytest.mark.parametrize("name", ["ctkd", "ffl", "ffsd", "oem"])
def test_maps_without_height_and_width_are_refused(name):
  logits, flat = jnp.zeros((3, 2, 4)), jnp.zeros((3, 2, 5))
  outputs = core.Outputs(logits, logits, maps=(flat, flat))
  outputs = outputs.replace(teacher=outputs)
  method = methods.make(name)
  with pytest.raises(ConfigError, match=r"a network returns one of .*\[2, 5\]"):
    method.init(jax.random.key(0), outputs, batch_of([0, 1]), context())
