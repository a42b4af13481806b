"""Figures of an evaluation: what they measure, and their names in records.

A figure is a `Figure` until it is written. Its name is composed and parsed only
here.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any, TypeVar

# Who is measured, besides peers and the method's own group predictions.
LEADER = "leader"  # the network that would be deployed
PEERS_MEAN = "peers_mean"  # the mean of the members' figures
ENSEMBLE = "ensemble"  # what the members say together
GROUP = ""  # how the members differ

DIVERSITY = "diversity"
_AVERAGED = "ema"
_REFERENCE = "reference_"
# Entries of every record.
NOT_FIGURES = ("step", "kind")

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Figure:
  """What is measured, of which prediction, and on which data.

  Attributes:
    split: "test", "validation" or "held_out".
    who: `LEADER`, `peer(0)`, `PEERS_MEAN`, `ENSEMBLE`, `GROUP`, the name of a
      group prediction, or `reference(name)`.
    averaged: whether the variables are averages over training. The leader is
      the deployed network, averaged or not.
    measure: a name from `Task.measures`, or `DIVERSITY`.
  """

  split: str
  who: str
  averaged: bool
  measure: str

  @property
  def prediction(self) -> str:
    """The prediction's name for exports: "peer_0" or "ema/peer_0"."""
    return prediction(self.who, self.averaged)

  @property
  def name(self) -> str:
    """The name in records: "test/ema/peer_0/accuracy"."""
    parts = (self.split, self.prediction, self.measure)
    return "/".join(part for part in parts if part)


def parse(name: str) -> Figure:
  """The inverse of `Figure.name`.

  Raises:
    ValueError: if it is no name of a figure.
  """
  parts = name.split("/")
  averaged, who = parse_prediction("/".join(parts[1:-1]))
  if len(parts) < 2 or not (who or parts[-1] == DIVERSITY):
    raise ValueError(f"'{name}' must be split/who/measure.")
  return Figure(parts[0], who, averaged, parts[-1])


def of_record(record: Mapping[str, Any]) -> dict[Figure, float]:
  """The figures of an evaluation's line in `metrics.jsonl`."""
  return {
    parse(name): value
    for name, value in record.items()
    if name not in NOT_FIGURES
  }


def prediction(who: str, averaged: bool) -> str:
  """Names a prediction of trained or averaged variables."""
  return "/".join(part for part in (_AVERAGED if averaged else "", who) if part)


def parse_prediction(name: str) -> tuple[bool, str]:
  """The inverse of `prediction`: whether it is of averages, and who."""
  first, _, rest = name.partition("/")
  return (True, rest) if first == _AVERAGED else (False, name)


def reference(name: str) -> str:
  """Names a reference to compare figures with, such as a constant guess."""
  return f"{_REFERENCE}{name}"


def is_reference(who: str) -> bool:
  """Whether it is a reference, and not a prediction of the group."""
  return who.startswith(_REFERENCE)


def is_group(who: str) -> bool:
  """Whether it is a joint prediction of several peers, as the ensemble is."""
  single = peer_index(who) is not None or is_reference(who)
  return not single and who not in (LEADER, PEERS_MEAN, GROUP)


def is_free(who: str) -> bool:
  """Whether a method may call a prediction of its own so."""
  return is_group(who) and who not in (ENSEMBLE, _AVERAGED) and "/" not in who


def peer(index: int) -> str:
  """Names a peer, counted from 0."""
  return f"peer_{index}"


def peer_index(who: str) -> int | None:
  """The inverse of `peer`; None for others."""
  matched = re.fullmatch(r"peer_(\d+)", who)
  return int(matched[1]) if matched else None


def distinct(figures: Mapping[Figure, _T]) -> dict[Figure, _T]:
  """Removes figures that repeat another one in a group of one network.

  Its mean, its ensemble and, unless its averages are deployed, the peer itself
  are equal to the leader, and there is no diversity.
  """
  if any(peer_index(figure.who) for figure in figures):
    return dict(figures)
  averaged = any(figure.averaged for figure in figures)
  return {
    figure: value
    for figure, value in figures.items()
    if figure.who not in (PEERS_MEAN, ENSEMBLE, GROUP)
    and (figure.who, figure.averaged) != (peer(0), averaged)
  }


def element(summary: str, index: tuple[int, ...]) -> str:
  """Names an element of a method's summary: "attention/0/1"."""
  return "/".join((summary, *map(str, index)))


def parse_element(name: str) -> tuple[str, tuple[int, ...]]:
  """The inverse of `element`; without an index for any other scalar."""
  summary, *index = name.split("/")
  return summary, tuple(map(int, index))
