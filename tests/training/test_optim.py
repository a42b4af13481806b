"""The optimiser against the published update rule."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from okd_jax import methods
from okd_jax.errors import ConfigError
from okd_jax.training import optim
import runs
import toys

VECTORS = json.loads(
  (Path(__file__).parents[1] / "vectors" / "okddip.json").read_text()
)["cases"]


@pytest.mark.parametrize(
  "case",
  [c for c in VECTORS if c["kind"] == "sgd_nesterov"],
  ids=lambda c: c["name"],
)
def test_trajectory(case):
  with jax.enable_x64(True):
    optimizer = optim.make(
      optim.Optim(
        momentum=case["hyper"]["momentum"],
        weight_decay=case["hyper"]["weight_decay"],
      )
    )
    params = {"p": jnp.asarray(case["inputs"]["p0"], jnp.float64)}
    state = optimizer.init(params)
    for rate, grad, expected in zip(
      case["hyper"]["lr_per_step"],
      case["inputs"]["grads"],
      case["expected"]["p_after_each_step"],
      strict=True,
    ):
      updates, state = optimizer.update(
        {"p": jnp.asarray(grad)}, state, params, learning_rate=rate
      )
      params = optax.apply_updates(params, updates)
      np.testing.assert_allclose(params["p"], expected, rtol=0, atol=1e-12)


def test_overrides_hold_below_their_prefix_alone():
  optimizer = optim.make(
    optim.Optim(weight_decay=0.5, momentum=0.0, nesterov=False),
    {"method/fusion": {"weight_decay": 0.0}},
  )
  params = {
    "method": {"fusion": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}},
    "peers": {"w": jnp.ones(2)},
  }
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(
    zero, optimizer.init(params), params, learning_rate=1.0
  )
  assert float(updates["method"]["fusion"]["w"][0]) == 0.0
  assert float(updates["method"]["head"]["w"][0]) == -0.5
  assert float(updates["peers"]["w"][0]) == -0.5


@pytest.mark.parametrize(
  ("prefix", "changes", "words"),
  [
    ("method/fusoin", {"momentum": 0.0}, "fits no parameter.*method/fusion, "),
    ("method/fusion", {"momentun": 0.0}, "'momentun'; did you mean 'momentum'"),
    ("method/fusion", {"momentum": 2.0}, r"method/fusion'\].momentum=2.0 must"),
  ],
)
def test_overrides_that_would_do_nothing_are_refused(prefix, changes, words):
  params = {"method": {"fusion": jnp.ones(2)}, "peers": {"w": jnp.ones(2)}}
  with pytest.raises(ConfigError, match=words):
    optim.make(optim.Optim(), {prefix: changes}).init(params)


def test_norms_of_an_override_by_adam_decay_only_if_asked():
  params = {"method": {"decoder_1": {"kernel": 2.0, "scale": 2.0}}}
  params = jax.tree.map(jnp.float32, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  for decay_norms in (True, False):
    optimizer = optim.make(
      optim.Optim(decay_norms=decay_norms),
      {"method/decoder": {"weight_decay": 0.1, "adam_rate": 1e-3}},
    )
    updates, _ = optimizer.update(
      zero, optimizer.init(params), params, learning_rate=1.0
    )
    found = updates["method"]["decoder_1"]
    # Adam's first step is as long as its rate.
    np.testing.assert_allclose(found["kernel"], -1e-3, rtol=1e-4)
    expected = -1e-3 if decay_norms else 0.0
    np.testing.assert_allclose(found["scale"], expected, rtol=1e-4)


def test_turns_are_one_step_of_an_optimizer_that_counts():
  method = methods.make("dml", form="pairwise", updates="alternating")
  recipe = dataclasses.replace(
    toys.recipe(method, num_peers=2, net=toys.Quick()),
    optimizer=optax.adam(1e-2),
    learning_rate=None,
  )
  state, measured = runs.train(recipe, 2)
  assert int(optax.tree.get(state.opt_state, "count")) == 2
  assert "learning_rate" not in measured
  # Adam's first two steps are as long as its rate, whatever the gradient.
  before = jax.device_get(runs.start(recipe).params["peers"]["head"]["bias"])
  moved = np.abs(state.params["peers"]["head"]["bias"] - before)
  assert np.all(moved < 0.021) and np.all(np.any(moved > 0.005, -1))
