"""A full pass over a split, and the figures that result from it."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax.core import Batch
from okd_jax.data.sources.source import Source
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import once
from okd_jax.tasks import figure as figure_lib
from okd_jax.tasks.figure import Figure
from okd_jax.tasks.task import total
from okd_jax.training import contract, state as state_lib, step as steps
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState

_SPLITS = ("test", "validation")
# `eval_step` of a setup: parameters, memory and a batch to sums.
Step = Callable[[Any, Any, Batch], dict[str, Any]]


class Evaluator:
  """Measures a group on the examples of a source."""

  def __init__(
    self,
    setup: Setup,
    source: Source,
    progress: Callable[[], None] = lambda: None,
  ):
    """Compiles nothing yet.

    Args:
      setup: what stays fixed during the run.
      source: the source of the examples.
      progress: called before each batch, as a sign of progress.
    """
    self._setup = setup
    self._source = source
    self._progress = progress
    self._eval_fn = once.jitted(steps.eval_step, setup)
    self._predict_fn = once.jitted(steps.predict, setup)

  def figures(
    self,
    state: TrainState,
    splits: Sequence[str] = _SPLITS,
    closely: Step | None = None,
  ) -> dict[Figure, float]:
    """Measures every example of these splits once, if the data have them.

    Args:
      state: the state to evaluate, including averaged variables, if there are
        any.
      splits: names of the splits.
      closely: function that measures the deployed variables instead of
        `eval_step`.

    Returns:
      The figures of the task for the leader (the network that would be
      deployed), every peer, the ensemble and the method's own group
      predictions; the mean of the members' headline figures; the diversity;
      the references that the task compares with.
    """
    measured: dict[Figure, float] = {}
    for split in splits:
      if len(self._source.positions[split]):
        measured |= self._of_split(state, split, closely or self._eval_fn)
    return measured

  def names(self, state: TrainState) -> list[str]:
    """Names of the group's figures in records; none is computed."""
    setup = self._setup
    logits, predictions = jax.eval_shape(
      functools.partial(steps.predict_normalized, setup),
      state.params,
      state.memory,
      setup.task.blank(setup.mesh.shape[mesh_lib.DATA]),
    )
    each = [*map(figure_lib.peer, range(len(logits))), *predictions]
    task = setup.task
    headline = task.headline(task.info).name
    measures = [measure.name for measure in task.measures_of(task.info)]
    found = [(figure_lib.LEADER, False, name) for name in measures]
    for averaged in (False, True) if state.average else (False,):
      found += [(who, averaged, name) for who in each for name in measures]
      found.append((figure_lib.PEERS_MEAN, averaged, headline))
    splits = [s for s in _SPLITS if len(self._source.positions[s])]
    return [Figure(s, *rest).name for s in splits for rest in found]

  def refreshed(self, state: TrainState) -> TrainState:
    """The state after `Method.refresh` with the held-out data."""
    setup = self._setup
    logits, labels = self._held_out_logits(state)
    everywhere = mesh_lib.sharding(setup.mesh)
    renewed = setup.method.refresh(logits, labels)
    contract.check_refreshed(setup.method, state.memory["method"], renewed)
    renewed = mesh_lib.place(
      renewed, jax.tree.map(lambda _: everywhere, renewed)
    )
    memory = state.memory["method"] | renewed
    return dataclasses.replace(state, memory=state.memory | {"method": memory})

  def _of_split(
    self, state: TrainState, split: str, closely: Step
  ) -> dict[Figure, float]:
    setup = self._setup
    live = closely if state.average is None else self._eval_fn
    figures = self._of_variables(live, state.params, state.memory, split, False)
    if state.average is not None:
      # Methods may name what they remember of examples, but do not read it.
      memory = state_lib.with_per_example(
        setup.method, state.average.memory, state.memory
      )
      average = state.average.params
      figures |= self._of_variables(closely, average, memory, split, True)
    leader = figure_lib.peer(setup.leader)
    deployed = {
      Figure(split, figure_lib.LEADER, False, figure.measure): value
      for figure, value in figures.items()
      if figure.who == leader and figure.averaged == (state.average is not None)
    }
    return deployed | figures

  def _of_variables(
    self, step: Step, params: Any, memory: Any, split: str, averaged: bool
  ) -> dict[Figure, float]:
    # Every batch is sent before the first result is waited for.
    pending = [step(params, memory, batch) for batch in self._batches(split)]
    sums = total(pending)
    setup, num_peers = self._setup, self._setup.peers.num_peers

    def of_peer(peer):
      return jax.tree.map(lambda s: s[peer] if s.ndim else s, sums["peers"])

    parts = {figure_lib.peer(i): of_peer(i) for i in range(num_peers)}
    figures = {
      Figure(split, who, averaged, name): value
      for who, part in (parts | sums["predictions"]).items()
      for name, value in setup.task.figures(part).items()
    }
    headline = setup.task.headline(setup.task.info).name
    members = [
      figures[Figure(split, figure_lib.peer(peer), averaged, headline)]
      for peer in setup.method.members(num_peers)
    ]
    mean = Figure(split, figure_lib.PEERS_MEAN, averaged, headline)
    figures[mean] = sum(members) / len(members)
    diversity = Figure(split, figure_lib.GROUP, averaged, figure_lib.DIVERSITY)
    count = max(int(sums["count"]), 1)
    figures[diversity] = float(sums["diversity"] / count)
    return figures

  def _batches(self, split: str) -> Iterator[Batch]:
    for batch in self._source.evaluation(split):
      self._progress()
      yield batch

  def _held_out_logits(self, state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Logits [P, N, *out] and labels [N] of the held-out, clean images."""
    logits, labels = [], []
    for batch in self._batches("held_out"):
      predicted, _ = self._predict_fn(state.params, state.memory, batch)
      predicted, target, mask = mesh_lib.to_host(
        (predicted, batch.target, batch.mask)
      )
      logits.append(predicted[:, mask])
      labels.append(target[mask])
    return jnp.asarray(np.concatenate(logits, 1)), jnp.asarray(
      np.concatenate(labels)
    )
