"""The figures of one run of a comparison."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from okd_jax.core import Method
from okd_jax.settings.schema import RunConfig
from okd_jax.tasks.figure import (
  DIVERSITY,
  ENSEMBLE,
  Figure,
  GROUP,
  is_reference,
  LEADER,
  peer,
  peer_index,
  PEERS_MEAN,
)
from okd_jax.tasks.measure import Measure, place_of_best

# The steps and figures of a run's evaluations.
Evaluations = Sequence[tuple[int, Mapping[Figure, float]]]


def headlines(
  evaluations: Evaluations, measure: Measure, num_members: int
) -> dict[tuple[str, str], float]:
  """The headline figures of one run, as they are shown (fractions in percent).

  Args:
    evaluations: evaluations of the run.
    measure: the headline figure.
    num_members: number of peers of which the mean and the ensemble are; those
      of a single one are left out, as they are this peer again.

  Returns:
    Values by who and when, see `okd_jax.results.rows.Row.runs`; none without
    test data.
  """
  last = evaluations[-1][1]
  on_test = [f for f in last if (f.split, f.measure) == ("test", measure.name)]
  if not on_test:
    return {}
  averaged = any(f.averaged and f.who == PEERS_MEAN for f in on_test)
  chosen = {"deployed": Figure("test", LEADER, False, measure.name)}
  if num_members > 1:
    for who in (PEERS_MEAN, ENSEMBLE):
      chosen[who] = Figure("test", who, averaged, measure.name)
  for figure in on_test:
    single = figure.who in (LEADER, PEERS_MEAN, ENSEMBLE)
    if single or peer_index(figure.who) is not None:
      continue
    if is_reference(figure.who):
      continue
    if figure.averaged or not averaged:
      chosen["group"] = figure
  result = {}
  for who, figure in chosen.items():
    held = dataclasses.replace(figure, split="validation")
    if held in last:
      result[who, "validation"] = measure.scaled(last[held])
    judge = held if held in last else figure
    place = place_of_best([measure.merit(f[judge]) for _, f in evaluations])
    result[who, "last"] = measure.scaled(last[figure])
    result[who, "best"] = measure.scaled(evaluations[place][1][figure])
  return result


def alike(
  last: Mapping[Figure, float],
  config: RunConfig,
  method: Method,
  measure: Measure,
) -> list[float]:
  """Test figures of the peers that differ only in weights and index.

  Args:
    last: figures of the last evaluation.
    config: configuration of the run.
    method: method of the run.
    measure: the headline figure.

  Returns:
    Values as they are shown, in the order of the peers; none if the peers are
    different networks.
  """
  if "," in config.peers.net:
    return []
  num_peers = config.peers.num_peers
  # A last peer that is the leader has other loss terms than the rest.
  last_leads = method.leader < 0
  equal = [
    i
    for i in method.members(num_peers)
    if not (last_leads and i == num_peers - 1)
  ]
  figures = [Figure("test", peer(i), False, measure.name) for i in equal]
  return [measure.scaled(last[f]) for f in figures if f in last]


def diversity(
  evaluations: Evaluations, epochs_a_step: float
) -> tuple[np.ndarray, np.ndarray]:
  """The epochs of the evaluations, and the diversity of the peers at each.

  Args:
    evaluations: evaluations of the run, with test data.
    epochs_a_step: length of a step in epochs.
  """
  figure = Figure("test", GROUP, False, DIVERSITY)
  points = [(step, figures[figure]) for step, figures in evaluations]
  steps, values = np.array(points, float).T
  return steps * epochs_a_step, values
