"""A task of another kind needs a class and nothing else."""

import dataclasses
import functools
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from okd_jax import core, groups, training
from okd_jax.data import picture
from okd_jax.devices.mesh import make_mesh
from okd_jax.results import findings
from okd_jax.tasks import asking, task
from okd_jax.tasks.figure import Figure
from okd_jax.tasks.measure import Measure
from okd_jax.training import finite
from okd_jax.training.evaluate import Evaluator


@dataclasses.dataclass(frozen=True)
class Task(task.Task):
  """Finds a point in an image; the distance is the lower, the better."""

  name: ClassVar[str] = "points"
  measures: ClassVar[tuple[Measure, ...]] = (
    Measure("distance", "distance", higher_is_better=False, fraction=False),
  )
  info: Any = None

  @classmethod
  def of(cls, info, *, pad_mode="constant", image_dtype=jnp.float32):
    return cls(info)

  def out_shape(self):
    return (1, 2)

  def blank(self, size):
    return core.Batch(
      image=jnp.zeros((size, 4, 4, 1)),
      target=jnp.zeros((size, 1, 2)),
      index=jnp.zeros(size, jnp.int32),
      mask=jnp.ones(size, bool),
    )

  def augment(self, batch, key, *, num_views, mesh):
    return batch

  def normalize(self, batch):
    return batch

  def normalize_floats(self, images):
    return images

  def headline_in_step(self, logits, batch):
    return jnp.mean(_distances(logits, batch), -1)

  def measure(self, logits, batch):
    distances = jnp.where(batch.mask, _distances(logits, batch), 0)
    return {"sum": jnp.sum(distances, -1), "count": jnp.sum(batch.mask)}

  def figures(self, sums):
    return {"distance": float(sums["sum"] / sums["count"])}

  def combine(self, logits):
    return jnp.median(logits, 0)

  def diversity_sum(self, logits, batch):
    return jnp.sum(jnp.std(logits, 0))

  @classmethod
  def card(cls, info):
    return {"output": "float32 [batch, 1, 2]"}

  @classmethod
  def asking(cls, card, *, top=5, boxes=None):
    return Asking(card)


class Asking(asking.Asking):
  heads = ("point",)

  def question(self, file, number):
    return asking.Question(file, picture.resized(file, self.card)[None])

  def answer(self, question, logits):
    return np.asarray(logits[0, 0]).tolist()

  def cells(self, answer):
    return [[f"{x:.1f}, {y:.1f}" for x, y in [answer]]]


def _distances(logits, batch):
  return jnp.linalg.norm(logits - batch.target, axis=-1)[..., 0]


class Method(core.Method):
  """Peers learn the points, each alone."""

  @property
  def task(self):
    return "points"

  def __call__(self, outputs, batch, ctx):
    error = jnp.square(outputs.logits - batch.target)
    return core.MethodOutput({"peer_mse": jnp.sum(error, (-2, -1))})


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    features = x.reshape(len(x), -1)
    return nn.Dense(2)(features).reshape(-1, 1, 2), features


@dataclasses.dataclass
class Given:
  """A source of one batch of a test split."""

  batch: core.Batch

  @property
  def positions(self):
    return {"test": np.arange(len(self.batch.mask)), "validation": ()}

  def evaluation(self, split):
    assert split == "test"
    yield self.batch


def test_it_is_trained_and_evaluated_by_its_own_figures():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(16, 4, 4, 1)).astype(np.float32)
  target = images[:, :1, :2, 0]
  batch = core.Batch(images, target, np.arange(16), np.arange(16) < 13)
  setup = training.Setup(
    peers=groups.replicas(Net(), 3, make_mesh(1, 1)),
    method=Method(),
    task=Task(),
    optimizer=optax.adam(0.02),
    batch_size=16,
    train_size=16,
  )
  state = training.init(setup, jax.random.key(0))
  evaluator = Evaluator(setup, Given(batch))
  before = evaluator.figures(state)
  step = jax.jit(functools.partial(training.train_step, setup))
  for _ in range(20):
    state, measured = step(state, batch, jax.random.key(1))
  record = finite.check_measures(20, measured)
  assert {"loss", "peer_mse", "distance", "rampup"} <= set(record)
  after = evaluator.figures(state)
  leader = Figure("test", "leader", False, "distance")
  assert 0 < after[leader] < before[leader]
  logits = np.asarray(
    training.predict(setup, state.params, state.memory, batch)[0]
  )
  distances = np.linalg.norm(logits - target, axis=-1)[..., 0][:, :13]
  for i, distance in enumerate(distances.mean(-1)):
    peer = Figure("test", f"peer_{i}", False, "distance")
    np.testing.assert_allclose(after[peer], distance, rtol=1e-5)
  middle = np.linalg.norm(np.median(logits, 0) - target, axis=-1)[:13]
  ensemble = Figure("test", "ensemble", False, "distance")
  np.testing.assert_allclose(after[ensemble], middle.mean(), rtol=1e-5)

  # In a comparison the least distance is the best one.
  headlines = findings.headlines([(0, before), (20, after)], Task.headline(), 2)
  assert headlines["deployed", "best"] == after[leader]
  turned = findings.headlines([(0, after), (20, before)], Task.headline(), 2)
  assert turned["deployed", "last"] == before[leader]
  assert turned["deployed", "best"] == after[leader]
