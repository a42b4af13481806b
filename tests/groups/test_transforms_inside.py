"""Networks that loop, or take gradients, in their forward pass."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import groups
from okd_jax.devices.mesh import make_mesh

IMAGES = jax.random.normal(jax.random.key(3), (4, 3, 3, 1))


class Sloped(nn.Module):
  """Reads the gradient of a score by the images; can be split."""

  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      score = nn.Dense(4, name="score")
      x = jax.grad(lambda x: jnp.sum(jnp.sin(score(x))))(x)
    if self.part == "trunk":
      return x
    return nn.Dense(5, name="last")(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize("make", [groups.replicas, groups.branches])
def test_gradients_by_images_are_those_of_one_peer(make):
  def logits(peer, train):
    group = make(Sloped(), 2, make_mesh(1, peer))
    variables = group.init(jax.random.key(0), IMAGES[:1])
    key = jax.random.key(1)
    apply = jax.jit(lambda v: group.apply(v, IMAGES, key, train=train))
    return apply(variables)[0].logits

  for train in (True, False):
    one, two = logits(1, train), logits(2, train)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


class Noisy(nn.Module):
  """Draws from a stream of its own."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(x.shape[0], -1)
    if train:
      x = x + jax.random.normal(self.make_rng("noise"), x.shape[1:])
    return nn.Dense(5)(x)


def test_draws_from_another_stream_are_refused_by_name():
  group = groups.replicas(Noisy(), 2, make_mesh(1, 1))
  variables = jax.eval_shape(group.init, jax.random.key(0), IMAGES[:1])
  with pytest.raises(groups.GroupError, match="Noisy .*\"noise\".*'dropout'"):
    jax.eval_shape(
      lambda v: group.apply(v, IMAGES, jax.random.key(1), train=True), variables
    )


class Recurrent(nn.Module):
  """Reads an image line by line, beginning with one of two kinds of zeros."""

  begins: str

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(x.shape[0], 3, 3)
    carry = None
    if self.begins == "like":
      carry = (jnp.zeros_like(x[:, 0, :2]),) * 2
    x = nn.RNN(nn.OptimizedLSTMCell(2))(x, initial_carry=carry)
    return nn.Dense(5)(x[:, -1])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mapping", ["unroll", "vmap"])
def test_loops_begin_with_what_depends_on_the_images(mapping, train):
  def shapes(begins):
    group = groups.replicas(Recurrent(begins), 2, make_mesh(1, 1), mapping)
    variables = jax.eval_shape(group.init, jax.random.key(0), IMAGES[:1])
    return jax.eval_shape(
      lambda v: group.apply(v, IMAGES, jax.random.key(1), train=train),
      variables,
    )

  assert shapes("like")[0].logits.shape == (2, 4, 5)
  with pytest.raises(groups.GroupError, match=r"Recurrent has a loop .*_like"):
    shapes("constant")
