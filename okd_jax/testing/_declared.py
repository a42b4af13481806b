"""Checks of a method by its properties only."""

from collections.abc import Iterable
import numbers
from typing import Any

from okd_jax import core, tasks
from okd_jax.errors import ConfigError
from okd_jax.testing._checks import require


def properties_make_sense(method: core.Method) -> None:
  """Hyperparameters obey their rules; properties name peers that exist."""
  try:
    core.check_hyperparameters(method)
  except ConfigError as error:
    raise AssertionError(
      f"{error} Give the field a default that its rule allows."
    ) from error
  known = tasks.NAMES
  require(
    set(method.tasks) <= set(known),
    method,
    f"is for the tasks {method.tasks}; there are {', '.join(known)}",
  )
  _needs_make_sense(method)
  compared, kind = method.compared, method.published_kind
  require(
    compared in ("deployed", "peers_mean"),
    method,
    f"has compared={compared!r}; papers report 'deployed' or 'peers_mean'",
  )
  require(
    kind in (None, "replicas", "branches"),
    method,
    f"has published_kind={kind!r}; there are replicas and branches, None is "
    "any",
  )
  require(
    _whole(method.min_peers) and method.min_peers >= 1,
    method,
    f"has min_peers={method.min_peers!r}; it must be a whole number above 0",
  )
  for count in range(method.min_peers, method.min_peers + 3):
    _peers_exist(method, count)


def _needs_make_sense(method: core.Method) -> None:
  needs: Any = method.needs
  require(
    isinstance(needs, core.Needs),
    method,
    f"has needs={needs!r}; return core.Needs",
  )
  require(
    needs.kind in (None, "replicas", "branches"),
    method,
    f"needs kind={needs.kind!r}; there are replicas and branches, None is both",
  )
  require(
    needs.trunk_gradient in ("sum", "mean", "first"),
    method,
    f"needs trunk_gradient={needs.trunk_gradient!r}; it is sum, mean or first",
  )
  require(
    needs.ema_decay is None or 0 <= needs.ema_decay < 1,
    method,
    f"needs ema_decay={needs.ema_decay!r}; it must be in [0, 1), or None",
  )
  require(
    0 <= needs.held_out < 1,
    method,
    f"needs held_out={needs.held_out!r}; it must be in [0, 1)",
  )
  require(
    not needs.held_out or type(method).refresh is not core.Method.refresh,
    method,
    "needs held_out and has no `refresh`, which is given those data; write it, "
    "or leave held_out at 0",
  )


def _peers_exist(method: core.Method, count: int) -> None:
  leader: Any = method.leader
  require(
    _whole(leader) and -count <= leader < count,
    method,
    f"has leader={leader!r}; of {count} peers it must be from {-count} to "
    f"{count - 1}",
  )
  members: Any = method.members(count)
  require(
    _peers(members, count) and len(set(members)) == len(members) > 0,
    method,
    f"has the members {members!r} of {count} peers; return different ones, "
    f"each from 0 to {count - 1}",
  )
  turns: Any = method.turns(count)
  require(
    turns == (None,) or (_peers(turns, count) and len(turns) > 0),
    method,
    f"has the turns {turns!r} of {count} peers; return (None,), or peers from "
    f"0 to {count - 1}",
  )


def _peers(found: Any, count: int) -> bool:
  return isinstance(found, Iterable) and all(
    _whole(peer) and 0 <= peer < count for peer in found
  )


def _whole(value: Any) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)
