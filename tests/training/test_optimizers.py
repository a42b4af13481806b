"""Every optimiser by its paper's update, for every peer as for one network."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from configs import independent_digits
from okd_jax import train
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze, replace
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import optim, state as state_lib
from okd_jax.training.optim import Optim
from okd_jax.training.schedule import Schedule
import runs
import toys

OUTSIDE = "optax:adabelief"
EVERY = (*optim.NAMES, OUTSIDE)


def settings(name, **options):
  given = {"learning_rate": 0.01, "weight_decay": 0.1, "name": name}
  return Optim(**(given | options))


def adam(g, m, v, t, beta2=0.999, epsilon=1e-8):
  m, v = 0.9 * m + 0.1 * g, beta2 * v + (1 - beta2) * g * g
  mean, square = m / (1 - 0.9**t), v / (1 - beta2**t)
  return mean / (np.sqrt(square) + epsilon), m, v


def by_paper(name, p, grads, rate=0.01, decay=0.1):
  """Written from the papers' algorithms, in NumPy."""
  m, v = np.zeros_like(p), np.zeros_like(p)
  for t, g in enumerate(grads, 1):
    if name == "adam":  # Kingma & Ba, algorithm 1, on the penalised loss
      d, m, v = adam(g + decay * p, m, v, t)
    elif name == "adamw":  # Loshchilov & Hutter, algorithm 2
      d, m, v = adam(g, m, v, t)
      d = d + decay * p
    elif name == "lamb":  # You et al., algorithm 2
      d, m, v = adam(g, m, v, t, epsilon=1e-6)
      d = d + decay * p
      d = d * np.linalg.norm(p) / np.linalg.norm(d)
    elif name == "lion":  # Chen et al., algorithm 2
      d = np.sign(0.9 * m + 0.1 * g) + decay * p
      m = 0.99 * m + 0.01 * g
    p = p - rate * d
  return p


def follow(optimizer, params, grads, rate=0.01):
  state = optimizer.init(params)
  for grad in grads:
    updates, state = jax.jit(optimizer.update)(
      grad, state, params, learning_rate=rate
    )
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lion"])
def test_updates_are_those_of_the_papers(name):
  rng = np.random.default_rng(0)
  p, grads = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
  with jax.enable_x64(True):
    found = follow(
      optim.make(settings(name)),
      {"kernel": jnp.asarray(p)},
      [{"kernel": jnp.asarray(g)} for g in grads],
    )
  np.testing.assert_allclose(
    found["kernel"], by_paper(name, p, grads), rtol=1e-9
  )


def test_muon_turns_a_kernel_into_an_orthogonal_step():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 3, 2, 5))
  params = {"conv": {"kernel": kernel, "bias": rng.normal(size=5)}}
  after = follow(
    optim.make(settings("muon", weight_decay=0.0)), params, [params], rate=1.0
  )
  step = (kernel - after["conv"]["kernel"]).reshape(18, 5)
  # Newton and Schulz take singular values to 0.7 to 1.2; the length is that
  # of Liu et al., 0.2 sqrt(max(rows, columns)).
  singular = np.linalg.svd(step / (0.2 * math.sqrt(18)))[1]
  assert np.all((singular > 0.6) & (singular < 1.3))
  # Biases are Adam's, whose first step has the length of the rate.
  moved = params["conv"]["bias"] - after["conv"]["bias"]
  assert np.all(np.sign(moved) == np.sign(params["conv"]["bias"]))


def random_params(rng, *leading):
  def draw(*shape):
    return rng.normal(size=(*leading, *shape))

  return {
    "conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)},
    "norm": {"scale": draw(4), "bias": draw(4)},
    "head": {"kernel": draw(4, 5), "bias": draw(5)},
  }


@pytest.mark.parametrize("name", EVERY)
def test_a_peer_is_updated_as_if_it_were_alone(name):
  rng = np.random.default_rng(0)
  trunk = random_params(rng)
  steps = [
    {"peers": {"trunk": trunk, "tails": random_params(rng, 3)}}
    for _ in range(4)
  ]
  with jax.enable_x64(True):
    together = follow(
      optim.make(settings(name), shared=("method/", "peers/trunk/")),
      steps[0],
      steps[1:],
    )["peers"]
    for peer in range(3):
      own = [
        jax.tree.map(lambda x, peer=peer: x[peer], step["peers"]["tails"])
        for step in steps
      ]
      alone = follow(optim.make(settings(name)), own[0], own[1:])
      runs.assert_close(
        jax.tree.map(lambda x, peer=peer: x[peer], together["tails"]),
        alone,
        rtol=1e-9,
      )
    alone = follow(optim.make(settings(name)), trunk, [trunk] * 3)
    runs.assert_close(together["trunk"], alone, rtol=1e-9)


@pytest.mark.parametrize("name", optim.NAMES)
def test_weights_decay_in_norms_and_biases_if_they_are_to(name):
  params = random_params(np.random.default_rng(0))
  zero = jax.tree.map(jnp.zeros_like, params)
  for decay_norms in (True, False):
    made = optim.make(settings(name, decay_norms=decay_norms, momentum=0.0))
    after = follow(made, params, [zero])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after, params)
    assert moved["conv"]["kernel"] and moved["head"]["kernel"]
    for layer, leaf in (("conv", "bias"), ("norm", "scale"), ("norm", "bias")):
      assert moved[layer][leaf] == decay_norms


def test_gradients_are_clipped_by_the_norm_of_all():
  plain = settings("sgd", momentum=0.0, nesterov=False, weight_decay=0.0)
  clipped = replace(plain, {"clip_norm": 1.0})
  params = {"method": {"a": jnp.zeros(2)}, "peers": {"b": jnp.zeros(2)}}
  grads = jax.tree.map(lambda _: jnp.array([3.0, 4.0]), params)
  overrides = {"method/a": {"weight_decay": 0.0}}
  for given in (None, overrides):
    after = follow(optim.make(clipped, given), params, [grads], rate=1.0)
    np.testing.assert_allclose(optax.tree.norm(after), 1.0, rtol=1e-6)
    short = jax.tree.map(lambda g: g / 100, grads)
    after = follow(optim.make(clipped, given), params, [short], rate=1.0)
    runs.assert_close(after, jax.tree.map(lambda g: -g, short), rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_overrides_hold_for_every_optimizer(name):
  params = {
    "method": {"fusion": random_params(np.random.default_rng(0))},
    "peers": random_params(np.random.default_rng(1), 2),
  }
  made = optim.make(
    settings(name),
    {"method/fusion": {"name": "sgd", "weight_decay": 0.5, "momentum": 0.0}},
    ("method/",),
  )
  zero = jax.tree.map(jnp.zeros_like, params)
  after = follow(made, params, [zero])
  runs.assert_close(
    after["method"],
    jax.tree.map(lambda p: p * (1 - 0.01 * 0.5), params["method"]),
    rtol=1e-5,
  )


def test_plain_sgd_keeps_the_state_of_earlier_releases():
  params = {"kernel": jnp.ones(2)}
  state = optim.make(Optim()).init(params)
  expected = (optax.EmptyState(), optax.TraceState(params), optax.EmptyState())
  assert jax.tree.structure(state) == jax.tree.structure(expected)


@pytest.mark.checklist("B1")
@pytest.mark.parametrize("name", quick.only(["adamw"], EVERY))
def test_every_optimizer_goes_on_from_any_step(name, tmp_path):
  # Turns keep one count, and decay has a mask.
  recipe = toys.recipe(
    "okddip",
    num_peers=3,
    peer=3,
    net=toys.Quick(),
    sgd=settings(name, decay_norms=False, clip_norm=1.0),
    schedule=Schedule("cosine", warmup_steps=2),
    ema_decay=0.9,
  )
  state = runs.start(recipe)
  abstract = state_lib.abstract(recipe, jax.random.key(0))
  step_fn = runs.jitted(recipe, state)
  checkpoints = Checkpoints(tmp_path, keep=9)

  def go_on(state, first):
    for step in range(first, 4):
      batch = runs.on_mesh(recipe, toys.batch(step))
      state, measured = step_fn(state, batch, jax.random.key(1))
      if first == 0:
        checkpoints.save(step + 1, state, wait=True)
    return jax.device_get((state, measured))

  expected = go_on(state, 0)
  assert np.isfinite(expected[1]["gradient_norm"])
  for k in (1, 3):
    restored, _, _ = Checkpoints(tmp_path).restore(abstract, k)
    again = go_on(restored, k)
    for a, b in zip(
      jax.tree.leaves(again), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_array_equal(a, b)


# Those that look at a whole array of a peer.
@pytest.mark.long
@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_every_mesh_gives_the_same_numbers(name):
  def trained(data, peer):
    return runs.train(
      toys.recipe(
        "dml",
        num_peers=2,
        data=data,
        peer=peer,
        net=toys.Quick(),
        sgd=settings(name, clip_norm=1.0),
        dtype=jnp.float64,
      ),
      3,
    )[0].params

  with jax.enable_x64(True):
    runs.assert_close(trained(2, 2), trained(1, 1), rtol=1e-7)


# Their states are not only trees like the parameters.
OF_OPTAX = {
  "adafactor": optax.adafactor(0.01),
  "lbfgs": optax.lbfgs(0.01, linesearch=None),
  "plateau": optax.chain(
    optax.adam(0.01), optax.contrib.reduce_on_plateau(patience=1)
  ),
  "sm3": optax.sm3(0.01),
}


@pytest.mark.parametrize("name", quick.only(["plateau"], OF_OPTAX))
def test_transformations_of_optax_take_the_place_of_ours(name):
  """On every mesh; sm3 and adafactor keep arrays of other shapes."""

  def trained(data, peer):
    recipe = toys.recipe(
      *("dml",),
      num_peers=2,
      data=data,
      peer=peer,
      net=toys.Quick(),
      dtype=jnp.float64,
    )
    return runs.train(dataclasses.replace(recipe, optimizer=OF_OPTAX[name]), 4)[
      0
    ].params

  with jax.enable_x64(True):
    runs.assert_close(trained(2, 2), trained(1, 1), rtol=1e-7)


def test_an_optimizer_may_read_the_loss():
  def update(updates, state, params=None, *, value, **others):
    return jax.tree.map(jnp.zeros_like, updates), value

  recipe = toys.recipe("dml", num_peers=2, net=toys.Quick())
  reader = optax.GradientTransformationExtraArgs(
    lambda params: jnp.zeros(()), update
  )
  for accumulate in (1, 2):
    state, measured = runs.train(
      dataclasses.replace(recipe, optimizer=reader, accumulate=accumulate), 1
    )
    total = sum(np.sum(term) for term in measured["terms"].values())
    np.testing.assert_allclose(state.opt_state, total, rtol=1e-6)


def not_an_optimizer(learning_rate):
  return learning_rate


@pytest.mark.parametrize(
  ("name", "says"),
  [
    ("no_such_module:adam", "must name an importable module"),
    ("optax:no_such_function", "must name an importable module"),
    ("optax:apply_updates", "must be a function that takes learning_rate"),
    (f"{__name__}:not_an_optimizer", "made a float; let the function return"),
  ],
)
def test_functions_that_make_no_optimizer_are_refused(name, says):
  with pytest.raises(ConfigError, match=says):
    optim.make(settings(name))


def test_an_unknown_name_is_refused_early():
  config = freeze({"optim": {"name": "adamax"}, "method": {"name": "dml"}})
  with pytest.raises(ConfigError, match="config.optim.name='adamax' must be"):
    config_lib.check(config)


def needs_a_line_search(learning_rate):
  return optax.lbfgs(learning_rate)


def draws(learning_rate):
  return optax.noisy_sgd(learning_rate, key=jax.random.key(3))


@pytest.mark.parametrize(
  ("name", "says"),
  [("needs_a_line_search", "value_fn"), ("draws", "keeps a random key")],
)
def test_an_optimizer_that_needs_more_is_refused_before_training(
  name, says, tmp_path
):
  config = independent_digits.get_config("smoke")
  config.optim.name = f"{__name__}:{name}"
  with pytest.raises(ConfigError, match=f"cannot update this group .*{says}"):
    train.train(freeze(config), tmp_path)
  assert not (tmp_path / "config.json").exists()


def test_an_optimizer_may_draw_in_a_loop_of_ones_own():
  recipe = toys.recipe("dml", num_peers=2, net=toys.Quick(), data=2)
  recipe = dataclasses.replace(recipe, optimizer=draws(0.01))
  keys = [
    jax.tree.leaves(
      runs.train(recipe, steps)[0].opt_state,
      is_leaf=lambda leaf: hasattr(leaf, "rng_key"),
    )[0].rng_key
    for steps in (1, 2)
  ]
  bits = [jax.random.key_data(key).tolist() for key in keys]
  assert bits[0] != bits[1]
