"""The training step and the evaluation step: pure functions of arrays."""

import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from okd_jax import core, schedules
from okd_jax.core import Array, Batch, Context, MethodOutput, Outputs, Variables
from okd_jax.tasks import figure as figure_lib
from okd_jax.training import targets, turns as turns_lib
from okd_jax.training.setup import Setup
from okd_jax.training.state import Average, TrainState, variables


@struct.dataclass
class _Inputs:
  """What a step has before it differentiates.

  Attributes:
    batch: augmented.
    ctx: for the method.
    key: of the peers' dropout.
    averaged: outputs of the averaged peers.
    averaged_memory: of them, after that pass.
    taught: outputs of the frozen teachers.
  """

  batch: Batch
  ctx: Context
  key: Array
  averaged: Outputs | None
  averaged_memory: Any
  taught: Outputs | None


@struct.dataclass
class Aux:
  """What comes out of a loss besides its value.

  Attributes:
    result: of the method.
    logits: of every peer [P, B, *out].
    memory: after the pass.
  """

  result: MethodOutput
  logits: Array
  memory: Any


def train_step(
  setup: Setup,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None = None,
  train_labels: Array | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Makes one update of a whole group.

  Args:
    setup: what stays fixed.
    state: before the update.
    batch: images and targets.
    key: of the run; the step is folded in here.
    teacher: variables of the frozen teachers, if the method needs them.
    train_labels: int32 [N], see `okd_jax.core.Context`, likewise.

  Returns:
    The state after the update, and measures: `terms` by name ([Q], a value a
    peer, or a scalar), `figures`, the task's headline for every peer on the
    batch [P], `learning_rate` if it is known, `rampup`, `gradient_norm`, and
    the method's `summaries`.
  """
  inputs = _prepare(setup, state, batch, key, teacher, train_labels)
  rate = _rate(setup, state.step)
  optimizer = optax.with_extra_args_support(setup.optimizer)
  loss = functools.partial(_loss, setup, inputs=inputs)

  turns = setup.method.turns(setup.peers.num_peers)
  before = (state.params, state.memory, state.opt_state)
  for turn in turns:
    params, memory, opt_state = before
    grads, aux = jax.grad(loss, has_aux=True)(params, memory)
    updates, opt_state = optimizer.update(grads, opt_state, params, **rate)
    after = (optax.apply_updates(params, updates), aux.memory, opt_state)
    before = turns_lib.take(setup, before, after, turn, aux.result.paused)
  params, memory, opt_state = before

  new_state = TrainState(
    step=state.step + 1,
    params=params,
    memory=memory,
    opt_state=opt_state,
    average=_update_average(setup, state, params, inputs.averaged_memory),
  )
  headline = setup.task.headline_in_step(aux.logits, inputs.batch)
  measured = {
    "terms": {n: jnp.mean(t, -1) for n, t in aux.result.terms.items()},
    "figures": {setup.task.in_step(setup.task.info).name: headline},
    **rate,
    "rampup": inputs.ctx.rampup,
    "gradient_norm": optax.tree.norm(grads),
    "summaries": aux.result.summaries,
  }
  return new_state, measured


def loss_fn(
  setup: Setup,
  params: Any,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None = None,
  train_labels: Array | None = None,
) -> tuple[Array, Aux]:
  """The loss that one update lowers, for a gradient of one's own.

  Args:
    setup: what stays fixed.
    params: to differentiate by, as `state.params`.
    state: for everything else.
    batch: images and targets.
    key: of the run; the step is folded in here.
    teacher: variables of the frozen teachers, if the method needs them.
    train_labels: int32 [N], see `okd_jax.core.Context`, likewise.

  Returns:
    A scalar and what else the pass gives.
  """
  inputs = _prepare(setup, state, batch, key, teacher, train_labels)
  return _loss(setup, params, state.memory, inputs)


def eval_step(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> dict[str, Any]:
  """Measures a group on one batch.

  Args:
    setup: what stays fixed.
    params: of the live or of the averaged group.
    memory: likewise.
    batch: images, targets and mask.

  Returns:
    `peers`: sums for every peer [P]; `predictions`: sums for the ensemble (what
    the members say together), the method's own group predictions and the
    task's references;
    `diversity`: a sum over examples; `count`: of examples.
  """
  logits, predictions = predict(setup, params, memory, batch)
  references = setup.task.references(batch)
  known = {figure_lib.reference(name): r for name, r in references.items()}
  members = logits[jnp.array(setup.method.members(len(logits)))]
  return {
    "peers": setup.task.measure(logits, batch),
    "predictions": {
      name: setup.task.measure(value, batch)
      for name, value in (predictions | known).items()
    },
    "diversity": setup.task.diversity_sum(members, batch),
    "count": jnp.sum(batch.mask, dtype=jnp.int32),
  }


def predict(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """Logits of every peer [P, B, *out], and of the group by name [B, *out]."""
  views = setup.task.test_views(setup.task.normalize(batch))
  each = [predict_normalized(setup, params, memory, view) for view in views]
  merge = setup.task.merge_views
  return merge([logits for logits, _ in each]), {
    name: merge([predictions[name] for _, predictions in each])
    for name in each[0][1]
  }


def predict_normalized(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """The same for images that are normalised floats."""
  key = jax.random.key(0)  # nothing is random in evaluation
  outputs, _ = setup.peers.apply(
    variables(params, memory, "peers"), batch.image, key, train=False
  )
  result: Any = setup.method.apply(
    variables(params, memory, "method"),
    targets.blank(setup, outputs),
    batch,
    setup.context(jnp.zeros((), jnp.int32), key, train=False),
  )
  members = jnp.array(setup.method.members(len(outputs.logits)))
  ensemble = setup.task.combine(outputs.logits[members])
  return outputs.logits, {"ensemble": ensemble, **result.predictions}


def _prepare(
  setup: Setup,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None,
  train_labels: Array | None,
) -> _Inputs:
  """Draws at random, and passes the batch through averages and teachers."""
  if setup.method.needs.train_labels:
    assert train_labels is not None, "the method needs labels of all examples"
  augment_key, peers_key, method_key = jax.random.split(
    jax.random.fold_in(key, state.step), 3
  )
  ctx = setup.context(
    state.step, method_key, train=True, train_labels=train_labels
  )
  batch = setup.augment(batch, augment_key)
  averaged, averaged_memory = _averaged_pass(
    setup, state, batch.image, peers_key
  )
  taught = _teacher_pass(setup, teacher, batch.image, peers_key)
  return _Inputs(batch, ctx, peers_key, averaged, averaged_memory, taught)


def _loss(
  setup: Setup, params: Any, memory: Any, inputs: _Inputs
) -> tuple[Array, Aux]:
  outputs, peers_memory = setup.peers.apply(
    variables(params, memory, "peers"),
    inputs.batch.image,
    inputs.key,
    train=True,
  )
  outputs = dataclasses.replace(
    outputs, ema=inputs.averaged, teacher=inputs.taught
  )
  result, method_memory = setup.method.apply(
    variables(params, memory, "method"),
    outputs,
    inputs.batch,
    inputs.ctx,
    mutable=list(memory["method"]),
  )
  new_memory = {"peers": peers_memory, "method": dict(method_memory)}
  return core.objective(result.terms), Aux(result, outputs.logits, new_memory)


def _rate(setup: Setup, step: Array) -> dict[str, Any]:
  """The learning rate of a step by name, if it is known."""
  if setup.learning_rate is None:
    return {}
  return {"learning_rate": setup.learning_rate(setup.epoch(step))}


def _averaged_pass(
  setup: Setup, state: TrainState, images: Array, key: Array
) -> tuple[Outputs | None, Any]:
  if state.average is None:
    return None, None
  params, memory = state.average.params, state.average.memory
  outputs, peers_memory = setup.peers.apply(
    variables(params, memory, "peers"), images, key, train=True
  )
  return jax.lax.stop_gradient(outputs), {**memory, "peers": peers_memory}


def _teacher_pass(
  setup: Setup, teacher: Variables | None, images: Array, key: Array
) -> Outputs | None:
  if setup.teacher is None:
    return None
  assert teacher is not None, "the setup has a teacher, so the step needs it"
  first_view = images[0] if images.ndim == 5 else images
  outputs, _ = setup.teacher.apply(teacher, first_view, key, train=False)
  return jax.lax.stop_gradient(outputs)


def _update_average(
  setup: Setup, state: TrainState, params: Any, memory: Any
) -> Average | None:
  decay = setup.method.needs.ema_decay
  if state.average is None or decay is None:
    return None
  phi = schedules.ema_decay(state.step + 1, decay)
  return Average(
    params=jax.tree.map(
      lambda mean, new: phi * mean + (1 - phi) * new,
      state.average.params,
      params,
    ),
    memory=memory,
  )
