"""MCL-OKD: multi-view contrastive learning for online distillation."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core, layers, losses
from okd_jax.core import Array
from okd_jax.errors import ConfigError
from okd_jax.methods import _contrast

# Rows of the banks that an example has in memory at a time.
_CHUNK = 256


class Method(core.Method):
  """Peers tell an image from others in each other's memory of them.

  Yang et al., "Multi-view Contrastive Learning for Online Knowledge
  Distillation", ICASSP 2021, as in the authors' code. Every peer remembers an
  embedding of every training image. With its own embedding of an image, each
  peer learns to find this image in the memory of each other peer, among K
  images of other classes. The last peer also learns from the mean of all
  logits, and is deployed.

  Attributes:
    num_negatives: number K of negatives, images of other classes. The contrast
      is a sum that grows with K, so adapt `nce_weight` to it; the paper has 256
      for small networks and 16384 for VGG and HCGNet.
    replacement: whether the same negative may be drawn more than once for an
      image.
    positive: what each peer learns to find: the image itself ("exact"), or any
      image of its class ("relax").
    embedding_size: size of the projected features.
    momentum: share of the old embedding in the remembered one.
    nce_temperature: temperature of the contrast.
    temperature: temperature of the distillation.
    ce_weight: weight of the cross-entropy.
    kd_weight: weight of the distillation.
    nce_weight: weight of the contrast, a sum over negatives and ordered pairs
      of peers.
  """

  num_negatives: int = core.between(256, 1, 2**24)
  replacement: bool = core.flag(False)
  positive: str = core.one_of("exact", "exact", "relax", added=True)
  embedding_size: int = core.between(128, 1, 2**16)
  momentum: float = core.between(0.5, 0, 1)
  nce_temperature: float = core.positive(0.1)
  temperature: float = core.positive(3.0)
  ce_weight: float = core.at_least(1.0, 0)
  kd_weight: float = core.at_least(1.0, 0)
  nce_weight: float = core.at_least(0.025, 0)

  @property
  def needs(self):
    return core.Needs(per_example=("bank",), train_labels=True)

  @property
  def leader(self):
    return -1

  @property
  def published_kind(self):
    return "branches"

  @property
  def deployed_as(self):
    return "last peer"

  @property
  def min_peers(self):
    return 2

  def check_labels(self, labels):
    counts = np.bincount(labels[labels >= 0])
    fewest = int(counts.sum() - counts.max(initial=0))
    if not fewest:
      raise ConfigError(
        "config.method.name='mcl_okd': all training images are of one class, "
        "and the method tells images from those of other classes; give it "
        "more classes or more images, or choose another method."
      )
    if fewest < self.num_negatives and not self.replacement:
      raise ConfigError(
        f"config.method.num_negatives={self.num_negatives} must be at most "
        f"{fewest}, the number of training images that are not of the most "
        "frequent class; lower it, or set config.method.replacement=True."
      )

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("mcl_okd", outputs, self.min_peers)
    if not ctx.train:
      return core.MethodOutput({})
    embeddings = self._embed(outputs.features)
    shape = (ctx.num_examples, len(outputs.logits), self.embedding_size)
    bank = self.variable("bank", "rows", self._first_rows, shape)
    rows = bank.value
    own = found = rows[batch.index]
    if self.positive == "relax":
      # The key itself is that of the negatives.
      key = jax.random.fold_in(ctx.key, 1)
      found = rows[_contrast.draw_positives(key, ctx.train_labels, batch.index)]
    negatives = _contrast.draw_negatives(
      ctx.key,
      ctx.train_labels,
      batch.index,
      self.num_negatives,
      replacement=self.replacement,
    )
    scaled = embeddings / self.nce_temperature
    terms = losses.mcl_okd_of_scores(
      outputs.logits,
      _scores(scaled, found),
      _scores_of_negatives(scaled, rows, negatives),
      batch.target,
      num_examples=jnp.sum(ctx.train_labels >= 0),
      temperature=self.temperature,
      ce_weight=self.ce_weight,
      kd_weight=self.kd_weight,
      nce_weight=self.nce_weight,
    )
    if not self.is_initializing():
      renewed = losses.memory_update(
        own, jnp.swapaxes(embeddings, 0, 1), momentum=self.momentum
      )
      bank.value = rows.at[_last_of_each(batch.index)].set(
        renewed.astype(rows.dtype), mode="drop"
      )
    return core.MethodOutput(terms)

  def _embed(self, features: core.PerPeer) -> Array:
    """Projections of length 1, [P, B, d]."""
    projected = jnp.stack(
      [
        layers.linear(
          layers.at_least_float32(own),
          self.embedding_size,
          name=f"projection_{i}",
        )
        for i, own in enumerate(features)
      ]
    )
    return layers.unit_vectors(projected)

  def _first_rows(self, shape: tuple[int, ...]) -> Array:
    """Uniform, of expected squared length 1."""
    bound = (3 / shape[-1]) ** 0.5
    key = self.make_rng("params")
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _scores(embeddings: Array, rows: Array) -> Array:
  """[P, P, B], the peer of the embedding first, from rows [B, P, d]."""
  return jnp.einsum(
    "ebd,bad->eab", embeddings, jax.lax.stop_gradient(rows), precision="highest"
  )


def _scores_of_negatives(
  embeddings: Array, bank: Array, negatives: Array
) -> Array:
  """Scores [P, P, B, K]; the gradient gathers again what does not fit."""

  @jax.checkpoint
  def of_one(index):
    return _scores(embeddings, bank[index])

  scores = jax.lax.map(of_one, negatives.T, batch_size=_CHUNK)
  return jnp.moveaxis(scores, 0, -1)


def _last_of_each(index: Array) -> Array:
  """Moves all but the last of equal positions out of range.

  A batch that spans two epochs may hold an example twice.
  """
  again = jnp.triu(index[:, None] == index, 1)
  return jnp.where(jnp.any(again, axis=1), jnp.iinfo(jnp.int32).max, index)
