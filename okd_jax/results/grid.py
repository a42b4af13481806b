"""The cells of a comparison: every method, network and seed, one recipe."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from okd_jax import methods
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib, freeze
from okd_jax.settings.schema import Comparison, RunConfig
from okd_jax.storage.paths import Path

# Rows besides the methods: one network alone, and what teaches others.
BASELINE = "baseline"
KD_TEACHER = "kd_teacher"


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a comparison.

  Attributes:
    net: name of the network that the row stands under.
    row: a method, `BASELINE` or `KD_TEACHER`.
    seed: of the run.
    workdir: of the run.
    config: of the run.
  """

  net: str
  row: str
  seed: int
  workdir: Path
  config: RunConfig

  @property
  def name(self) -> str:
    """For people: "resnet32/okddip/seed0"."""
    return "/".join(self.workdir.parts[-3:])


def cells(config: Comparison, workdir: Path) -> list[Cell]:
  """Lists the cells in the order in which they run.

  Seeds of a row follow each other, so that its step is compiled once; teachers
  come before their students.

  Args:
    config: of the comparison, see `okd_jax.settings.schema.Comparison`.
    workdir: of the comparison.
  """
  return [
    _cell(config, workdir, net, row, seed)
    for net in config.nets
    for row in rows(config)
    for seed in config.seeds
  ]


def rows(config: Comparison) -> Iterator[str]:
  """Rows for every network: the baseline, and the methods as listed."""
  yield BASELINE
  taught = [m for m in config.methods if methods.make(m).needs.teacher]
  for method in config.methods:
    if method in taught[:1]:
      yield KD_TEACHER
    yield method


def check(config: Comparison, grid: list[Cell]) -> None:
  """Refuses a comparison that cannot be run, before any cell is.

  Raises:
    ConfigError: naming the value, what was expected, and the remedy.
  """
  if config.base.num_seeds != 1:
    raise ConfigError(
      f"config.base.num_seeds={config.base.num_seeds} must be 1: a comparison "
      "lists its seeds in config.seeds; change that."
    )
  for key in ("methods", "nets", "seeds"):
    values = getattr(config, key)
    if not values or len(set(values)) < len(values):
      raise ConfigError(
        f"config.{key}={values} must name at least one, and none twice."
      )
  for name in config.kinds:
    methods.load(name)
  for cell in grid:
    checked = cell.config
    if checked.teacher:
      # The teacher is not there yet; any folder stands for it.
      checked = dataclasses.replace(checked, teacher=".")
    config_lib.check(checked)


def _cell(
  config: Comparison, workdir: Path, net: str, row: str, seed: int
) -> Cell:
  def place(row):
    return workdir / net / row / f"seed{seed}"

  alone = row in (BASELINE, KD_TEACHER)
  name = "independent" if alone else row
  method = freeze.method_section(name)
  if not alone and name not in config.kinds:
    raise ConfigError(
      f"config.kinds has no entry for '{name}'; methods with one: "
      f"{', '.join(config.kinds)}."
    )
  changes: dict[str, Any] = {
    "seed": seed,
    "peers.net": config.teacher_net if row == KD_TEACHER else net,
    "peers.kind": "replicas" if alone else config.kinds[name],
    "method": method,
  }
  if alone:
    changes["peers.num_peers"] = 1
  else:
    chosen = methods.make(name)
    changes |= chosen.settings_compared(net, config.teacher_net)
  if alone or "," in changes["peers.net"]:
    changes["mesh.peer"] = min(config.base.mesh.peer, 1)
  if row != KD_TEACHER and methods.make(name).needs.teacher:
    changes["teacher"] = str(place(KD_TEACHER))
  made = freeze.replace(config.base, changes)
  return Cell(net, row, seed, place(row), made)
