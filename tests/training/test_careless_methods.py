"""What methods ask of groups and of Flax that these cannot give."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from okd_jax import core, losses, training
from okd_jax.errors import ConfigError
import toys


class Elsewhere(core.Method):
  """Names peers of a larger group."""

  what: str = "members"

  def members(self, num_peers):
    return (0, 9) if self.what == "members" else (0,)

  def turns(self, num_peers):
    chosen = {"turns": (num_peers,), "no turns": ()}
    return chosen.get(self.what, (None,))

  @property
  def leader(self):
    return 7 if self.what == "leader" else -1

  def __call__(self, outputs, batch, ctx):
    terms = {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    return core.MethodOutput(terms)


@pytest.mark.parametrize("what", ["members", "turns", "no turns", "leader"])
def test_peers_that_the_group_does_not_have_are_refused(what):
  named = what.split()[-1]
  with pytest.raises(
    ConfigError, match=f"{named} of .*Elsewhere is .* of the 3 peers"
  ):
    toys.recipe(Elsewhere(what), num_peers=3, net=toys.Quick())


class Careless(core.Method):
  """Draws from a stream that it does not have, or changes what it may not."""

  what: str

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    logits, rng = outputs.logits, ctx.key if self.what == "key" else None
    if self.what == "counts":
      self.variable("own", "seen", jnp.zeros, ()).value += 1
    elif ctx.train:
      logits = nn.Dropout(0.5, deterministic=False)(logits, rng=rng)
    terms = {"peer_ce": losses.cross_entropy(logits, batch.target)}
    return core.MethodOutput(terms)


def evaluated(setup):
  """Makes a state, and traces a step and an evaluation."""
  state = training.init(setup, jax.random.key(0))
  batch = toys.batch(0)
  state, _ = jax.eval_shape(
    functools.partial(training.train_step, setup),
    state,
    batch,
    jax.random.key(0),
  )
  jax.eval_shape(
    functools.partial(training.eval_step, setup),
    state.params,
    state.memory,
    batch,
  )


@pytest.mark.parametrize(
  ("what", "words"),
  [
    ("stream", "Careless cannot be .*PRNG.*nn.Dropout take as `rng`"),
    ("counts", "Careless cannot be .*only if ctx.train"),
  ],
)
def test_errors_of_flax_say_what_a_method_must_not(what, words):
  with pytest.raises(ConfigError, match=words):
    evaluated(toys.recipe(Careless(what), num_peers=2, net=toys.Quick()))


def test_a_method_may_drop_with_its_key():
  evaluated(toys.recipe(Careless("key"), num_peers=2, net=toys.Quick()))
