"""The inputs of a training step, computed before it differentiates."""

from typing import Any

from flax import struct
import jax
import numpy as np

from okd_jax.batch import has_views
from okd_jax.core import Array, Batch, Context, Outputs, Variables
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError
from okd_jax.training import average as average_lib, given, parts
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState


@struct.dataclass
class Inputs:
  """A batch and the outputs for it that get no gradient.

  If gradients are accumulated, the parts of the batch are the first axis.

  Attributes:
    batch: the augmented batch.
    key: random key of the peers' dropout.
    averaged: outputs of the averaged peers.
    taught: outputs of the frozen teachers.
  """

  batch: Batch
  key: Array
  averaged: Outputs | None
  taught: Outputs | None


def prepare(
  setup: Setup,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None,
  train_labels: Array | None,
) -> tuple[Inputs, Context, Any]:
  """Draws at random, and passes the batch through averages and teachers.

  Args:
    setup: this and all other arguments are those of `step.train_step`.

  Returns:
    The inputs, what the method may know, and the memory of the averages after
    the pass.

  Raises:
    ConfigError: if the batch or the key is none, if the batch cannot be
      divided, or the method needs views, a teacher, labels or another kind of
      group and does not get them; also for known labels that are unsuitable.
  """
  given.check_batch(batch)
  given.check_no_padding(batch)
  given.check_key(key)
  devices = setup.mesh.shape[DATA]
  if len(batch.index) % (devices * setup.accumulate):
    raise ConfigError(
      f"a batch of {len(batch.index)} examples must be a multiple of "
      f"{devices * setup.accumulate}: each of {devices} device(s) of the batch "
      f"takes its share in accumulate={setup.accumulate} part(s)."
    )
  _check_group(setup)
  needs = setup.method.needs
  if needs.train_labels and train_labels is None:
    raise ConfigError(
      "the method reads the labels of all training examples; pass "
      "train_labels, int32 [setup.num_examples], to the step."
    )
  if needs.train_labels and not isinstance(train_labels, jax.core.Tracer):
    setup.method.check_labels(np.asarray(train_labels))
  if needs.teacher and setup.teacher is None:
    raise ConfigError(
      "the method learns from frozen teachers; give the setup a group as "
      "teacher, and its variables to the step."
    )
  augment_key, peers_key, method_key = jax.random.split(
    jax.random.fold_in(key, state.step), 3
  )
  ctx = setup.context(
    state.step, method_key, train=True, train_labels=train_labels
  )
  batch = setup.augment(batch, augment_key)
  _check_views(setup, batch)

  def passes(memory, part):
    key, batch = part
    averaged, memory = average_lib.outputs(
      setup, state.average, memory, batch.image, key
    )
    taught = _taught(setup, teacher, batch.image, key)
    return memory, Inputs(batch, key, averaged, taught)

  memory = None if state.average is None else state.average.memory
  if setup.accumulate == 1:
    memory, inputs = passes(memory, (peers_key, batch))
  else:
    keys = jax.random.split(peers_key, setup.accumulate)
    each = parts.split(setup, batch)
    memory, inputs = parts.scan(setup, passes, memory, (keys, each))
  return inputs, ctx, memory


def _check_group(setup: Setup) -> None:
  """Refuses to train a group that the method does not support.

  Earlier releases may have trained such groups; these can still be evaluated.
  """
  needs, peers = setup.method.needs, setup.peers
  kind = "replicas" if peers.stem is None else "branches"
  if needs.kind not in (None, kind):
    raise ConfigError(
      f"the method needs {needs.kind}, and the peers are {kind}; make them "
      f"with okd_jax.groups.{needs.kind}."
    )
  if peers.stem is not None and peers.trunk_gradient != needs.trunk_gradient:
    raise ConfigError(
      f"the group has trunk_gradient='{peers.trunk_gradient}', and the method "
      f"needs '{needs.trunk_gradient}'; give method.needs.trunk_gradient to "
      "okd_jax.groups.branches."
    )


def _check_views(setup: Setup, batch: Batch) -> None:
  shape = batch.image.shape
  if setup.has_views and (len(shape) != 5 or shape[0] != setup.peers.num_peers):
    raise ConfigError(
      f"images of shape {shape} must be one view for each of "
      f"{setup.peers.num_peers} peers, [P, B, H, W, c], as every peer sees its "
      "own augmentation of the batch; stack the views."
    )


def _taught(
  setup: Setup, teacher: Variables | None, images: Array, key: Array
) -> Outputs | None:
  if setup.teacher is None:
    return None
  if teacher is None:
    raise ConfigError(
      "the setup has frozen teachers; pass their variables, as setup.teacher."
      "init draws them or as they were trained, as `teacher` to the step."
    )
  first_view = images[0] if has_views(images) else images
  devices = setup.teacher.mesh.shape[DATA]
  if len(first_view) % devices:
    raise ConfigError(
      f"{len(first_view)} examples, a batch in accumulate={setup.accumulate} "
      f"part(s), must be a multiple of {devices}, the number of devices that "
      "the teacher's mesh divides them among."
    )
  outputs, _ = setup.teacher.apply(teacher, first_view, key, train=False)
  return jax.lax.stop_gradient(outputs)
