"""Networks as a user writes them: plain linen, nothing of ours."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class Small(nn.Module):
  """A convolution with flax's batch norm; returns logits and features."""

  num_classes: int
  width: int = 8

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(self.width, (3, 3))(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    features = jnp.mean(x, (1, 2))
    return nn.Dense(self.num_classes)(features), features


class Wide(Small):
  """The same with more features."""

  width: int = 16


class Hidden(nn.Module):
  """Has a linear layer below the classifier."""

  num_classes: int
  width: int = 10

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.relu(nn.Dense(self.width, name="dense1")(jnp.mean(x, (1, 2))))
    return nn.Dense(self.num_classes, name="last")(x)


class Parted(nn.Module):
  """Can be split; returns logits alone."""

  num_classes: int
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.relu(nn.Conv(4, (3, 3), name="early")(x))
    if self.part == "trunk":
      return x
    x = nn.relu(nn.Conv(8, (3, 3), name="late")(x))
    return nn.Dense(self.num_classes, name="last")(jnp.mean(x, (1, 2)))


class Foreign(nn.Module):
  """Keeps what no network of ours keeps; can be split."""

  num_classes: int = 5
  part: str = "whole"
  keeps: str = "mean"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.Conv(4, (3, 3), name="early")(x)
      x = LAYERS[self.keeps](name="own")(x, train)
      x = nn.relu(x)
    if self.part == "trunk":
      return x
    x = nn.relu(nn.Conv(6, (3, 3), name="late")(x))
    x = LAYERS[self.keeps](name="own_too")(x, train)
    return nn.Dense(self.num_classes, name="last")(jnp.mean(x, (1, 2)))


class Mean(nn.Module):
  """Subtracts a running mean, also in training."""

  @nn.compact
  def __call__(self, x, train):
    mean = self.variable("moving", "mean", jnp.zeros, x.shape[-1])
    y = x - mean.value
    if train:
      mean.value = 0.7 * mean.value + 0.3 * jnp.mean(x, (0, 1, 2))
    return y


class Counter(nn.Module):
  """Counts steps and fades in with them."""

  @nn.compact
  def __call__(self, x, train):
    steps = self.variable("counter", "steps", jnp.zeros, (), jnp.int32)
    if train:
      steps.value = steps.value + 1
    return x * (1 - 0.5 ** (steps.value + 1))


class SlowNorm(nn.Module):
  """Flax's batch normalisation with its own momentum."""

  @nn.compact
  def __call__(self, x, train):
    return nn.BatchNorm(not train, momentum=0.99, name="norm")(x)


class Drop(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.Dropout(0.5)(x, deterministic=not train)


class Spectral(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    norm = nn.SpectralNorm(nn.Dense(x.shape[-1], name="inner"), name="norm")
    return norm(x, update_stats=train)


class Weight(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.WeightNorm(nn.Dense(x.shape[-1], name="inner"), name="norm")(x)


class Masked(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    mask = jnp.tril(jnp.ones((x.shape[-1],) * 2))[None, None]
    return nn.Conv(x.shape[-1], (1, 1), mask=mask, name="inner")(x)


class Largest(nn.Module):
  """Remembers the largest value: no mean over examples."""

  @nn.compact
  def __call__(self, x, train):
    largest = self.variable("moving", "largest", jnp.zeros, ())
    if train:
      largest.value = jnp.maximum(largest.value, jnp.max(x))
    return x


class OwnNorm(nn.Module):
  """Normalises by the examples that it sees."""

  @nn.compact
  def __call__(self, x, train):
    mean = self.variable("moving", "mean", jnp.zeros, x.shape[-1])
    if train:
      batch_mean = jnp.mean(x, (0, 1, 2))
      mean.value = 0.9 * mean.value + 0.1 * batch_mean
      return x - batch_mean
    return x - mean.value


class Positives(nn.Module):
  """Counts examples in an integer."""

  @nn.compact
  def __call__(self, x, train):
    count = self.variable("counter", "positive", jnp.zeros, (), jnp.int32)
    if train:
      count.value = count.value + jnp.sum(x > 0)
    return x


class Examples(nn.Module):
  """Counts the examples that it is shown."""

  @nn.compact
  def __call__(self, x, train):
    count = self.variable("counter", "examples", jnp.zeros, (), jnp.int32)
    if train:
      count.value = count.value + len(x)
    return x


class Last(nn.Module):
  """Keeps the last batch."""

  @nn.compact
  def __call__(self, x, train):
    last = self.variable("cache", "last", jnp.zeros, x.shape)
    if train:
      last.value = x
    return x


class Late(nn.Module):
  """Makes its state in training only."""

  @nn.compact
  def __call__(self, x, train):
    if train:
      self.variable("moving", "late", jnp.zeros, ())
    return x


class Always(nn.Module):
  """Changes its state in evaluation too."""

  @nn.compact
  def __call__(self, x, train):
    calls = self.variable("counter", "calls", jnp.zeros, (), jnp.int32)
    calls.value = calls.value + 1
    return x


class Noise(nn.Module):
  """Draws from a stream that there is not."""

  @nn.compact
  def __call__(self, x, train):
    if train:
      x = x + jax.random.normal(self.make_rng("noise"), x.shape)
    return x


LAYERS = {
  "mean": Mean,
  "counter": Counter,
  "norm": SlowNorm,
  "dropout": Drop,
  "spectral": Spectral,
  "weight": Weight,
  "masked": Masked,
  "largest": Largest,
  "own_norm": OwnNorm,
  "positives": Positives,
  "examples": Examples,
  "last": Last,
  "late": Late,
  "always": Always,
  "noise": Noise,
}


class Deterministic(nn.Module):
  """Is called with another signature."""

  num_classes: int = 5

  @nn.compact
  def __call__(self, x, deterministic=False):
    return nn.Dense(self.num_classes)(jnp.mean(x, (1, 2)))
