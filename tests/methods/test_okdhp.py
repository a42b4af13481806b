"""OKDHP on heat maps: which outputs learn what, and its attention."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import okdhp_mpii
from okd_jax import backbones, core, groups, losses, methods
from okd_jax.backbones.hourglass import Hourglass
from okd_jax.data import info as info_lib
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.methods import okdhp
from okd_jax.settings import build, config as config_lib
from okd_jax.settings.freeze import base, freeze, method

B, J = 4, 3


def outputs(group):
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.random((B, 16, 16, 3)), jnp.float32)
  # Any values will do, and a program that draws them compiles for long.
  shapes = jax.eval_shape(group.init, jax.random.key(0), image[:1])
  variables = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) / 4, shapes
  )
  apply = golden.jit_once(
    lambda v, x: group.apply(v, x, jax.random.key(1), train=True)[0]
  )
  return apply(variables, image)


def hourglass(stacks, split=1):
  return Hourglass(J, split=split, stacks=stacks, width=8, depth=1)


@pytest.fixture(scope="module")
def uneven():
  """Branches of one and of two stacks on one shared stack."""
  nets = [hourglass(stacks) for stacks in (2, 3)]
  return outputs(groups.different_branches(nets, make_mesh(1, 1)))


@pytest.fixture(scope="module")
def even():
  return outputs(groups.branches(hourglass(3), 3, make_mesh(1, 1)))


def batch(seed=1):
  rng = np.random.default_rng(seed)
  target = {
    "maps": jnp.asarray(rng.random((B, 4, 4, J)), jnp.float32),
    "weight": jnp.asarray(rng.integers(0, 2, (B, J)), jnp.float32),
  }
  return core.Batch(jnp.zeros((B, 1)), target, jnp.arange(B), jnp.ones(B) > 0)


def context(rampup=0.5, train=True):
  return core.Context(
    epoch=jnp.float32(0),
    step=jnp.int32(0),
    rampup=jnp.float32(rampup),
    key=jax.random.key(0),
    num_examples=B,
    train=train,
  )


def run(made, seen):
  @golden.jit_once
  def both(seen):
    variables = made.init(jax.random.key(2), seen, batch(), context())
    result, _ = made.apply(
      variables, seen, batch(), context(), mutable=["batch_stats"]
    )
    return variables, result

  return both(seen)


@pytest.mark.long
def test_networks_of_unequal_length_keep_all_their_maps(uneven):
  there = [[m is not None for m in stage] for stage in uneven.maps]
  # One map before all stacks, one shared, and one or two of its own.
  assert np.sum(there, 0).tolist() == [3, 4]
  assert uneven.num_shared == 2 and uneven.logits.shape == (2, B, 4, 4, J)
  first = [next(s[i] for s in uneven.maps if s[i] is not None) for i in (0, 1)]
  np.testing.assert_array_equal(*first)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["even", "uneven"])
def test_every_output_learns_once(kind, request):
  seen = request.getfixturevalue(kind)
  made = methods.make("okdhp", kd_weight=2.0)
  _, result = run(made, seen)
  peers = [
    [s[i] for s in seen.maps if s[i] is not None][1:]
    for i in range(len(seen.logits))
  ]
  every = [peers[0][0], *(m for maps in peers for m in maps[1:])]
  assert len(every) == 1 + {"even": 6, "uneven": 3}[kind]
  ensemble = result.predictions["aggregated"]
  target, weight = batch().target["maps"], batch().target["weight"]
  expected = losses.okdhp(every, ensemble, target, weight, kd_weight=1.0)
  for name in ("mse", "kd"):
    rows = np.asarray(expected[f"output_{name}"])
    shared, own = result.terms[f"shared_{name}"], result.terms[f"peer_{name}"]
    np.testing.assert_allclose(shared, rows[0], rtol=1e-5)
    np.testing.assert_allclose(np.sum(own, 0), rows[1:].sum(0), rtol=1e-5)
  np.testing.assert_allclose(
    result.terms["ensemble_mse"], expected["ensemble_mse"], rtol=1e-5
  )


@pytest.mark.long
def test_attention_is_that_of_the_loss(even):
  variables, result = run(methods.make("okdhp"), even)
  own = variables["params"]["aggregation"]
  convs = [f"conv{size}" for size in (3, 5, 7)]
  heads = [own[f"branch{i}"] for i in range(3)]
  params = {
    "conv_kernels": [own[name]["kernel"] for name in convs],
    "conv_bias": np.stack([own[name]["bias"] for name in convs]),
    "bn_scale": np.stack([own[f"{name}_bn"]["scale"] for name in convs]),
    "bn_bias": np.stack([own[f"{name}_bn"]["bias"] for name in convs]),
    "W1": own["hidden"]["kernel"],
    "b1": own["hidden"]["bias"],
    "W2": np.stack([head["kernel"] for head in heads]),
    "b2": np.stack([head["bias"] for head in heads]),
  }
  ensemble, attention = losses.feature_aggregation(
    even.maps[0][0], even.logits, params
  )
  np.testing.assert_allclose(
    result.predictions["aggregated"], ensemble, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    result.summaries["aggregation"], attention.mean((0, 2)), rtol=1e-4
  )


def test_the_unit_has_the_published_size():
  unit = okdhp.Aggregation(3, 16)
  shapes = jax.eval_shape(
    lambda key: unit.init(key, jnp.zeros((1, 8, 8, 256)), train=False),
    jax.random.key(0),
  )
  assert backbones.count_parameters(shapes["params"]) == 5_461_360


@pytest.mark.long
@pytest.mark.parametrize("name", ["independent", "dml"])
def test_others_learn_heat_maps_too(name, even):
  _, result = run(methods.make(name), even)
  target, weight = batch().target["maps"], batch().target["weight"]
  own = [
    sum(losses.heatmap_mse(stage[i], target, weight) for stage in even.maps[2:])
    for i in range(3)
  ]
  np.testing.assert_allclose(result.terms["peer_mse"], own, rtol=1e-5)
  np.testing.assert_allclose(
    result.terms["shared_mse"],
    losses.heatmap_mse(even.maps[1][0], target, weight),
    rtol=1e-5,
  )
  if name == "dml":
    expected = [
      losses.heatmap_kl(
        even.logits[i],
        (sum(even.logits) - even.logits[i]) / 2,
        weight,
        temperature=3.0,
      )
      for i in range(3)
    ]
    np.testing.assert_allclose(
      result.terms["peer_kd"], expected, rtol=1e-3, atol=1e-9
    )


@pytest.mark.long
def test_a_teacher_of_heat_maps(even):
  made = methods.make("kd")
  taught = dataclasses.replace(even, logits=even.logits[:1] + 1)
  _, result = run(made, dataclasses.replace(even, teacher=taught))
  expected = losses.heatmap_kl(
    even.logits, taught.logits[0], batch().target["weight"], temperature=3.0
  )
  np.testing.assert_allclose(result.terms["peer_kd"], expected, rtol=1e-3)


def config(**changes):
  made = base()
  made.data.name = "stickfolk/easy"
  made.method = method("okdhp")
  made.peers.kind = "branches"
  made.peers.num_peers = 3
  made.update_from_flattened_dict(changes)
  return freeze(made)


def test_the_recipe_of_eight_stacks_lowers_its_rate_later():
  for words, epochs in (("", [90, 120]), ("hourglass8", [120, 140])):
    made = okdhp_mpii.get_config(words)
    found = [round(made.epochs * drop) for drop in made.optim.drops]
    assert found == epochs


def test_branches_of_different_networks_need_one_trunk():
  info = dataclasses.replace(
    info_lib.KNOWN["cifar10"], image_shape=(64, 64, 3), num_classes=J
  )

  def peers(**changes):
    return build.peers(config(**changes), info, make_mesh(1, 1), core.Needs())

  nets = "hourglass2_small,hourglass3_small,hourglass2_small"
  assert peers(**{"peers.net": nets}).num_peers == 3
  with pytest.raises(ConfigError, match="the same trunk"):
    peers(**{"peers.net": "resnet20,hourglass3_small,hourglass2_small"})


def test_separate_networks_are_refused():
  with pytest.raises(ConfigError, match="needs branches"):
    config_lib.check(config(**{"peers.kind": "replicas"}))
