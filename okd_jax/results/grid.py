"""The cells of a comparison: one run for each method, network and seed."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import fnmatch
import itertools
from typing import Any
from urllib.parse import quote

from okd_jax import methods, rules
from okd_jax.core import Method
from okd_jax.errors import ConfigError
from okd_jax.runs import workdir as workdir_lib
from okd_jax.settings import config as config_lib, freeze
from okd_jax.settings.schema import Comparison, RunConfig
from okd_jax.storage.paths import Path

# Rows besides the methods: a single network, and the teacher of other runs.
BASELINE = "baseline"
KD_TEACHER = "kd_teacher"
# The number of peers; always 1 in rows of a single network.
_NUM_PEERS = "peers.num_peers"


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a comparison.

  Attributes:
    net: name of the network under which its row stands in tables.
    method: name of the method, or `BASELINE` or `KD_TEACHER`.
    values: its values of those keys in `Comparison.grid` that apply to it.
    seed: seed of the run.
    workdir: work directory of the run.
    config: configuration of the run.
    teacher: name of the cell that trains its teacher; empty without a teacher.
  """

  net: str
  method: str
  values: Mapping[str, Any]
  seed: int
  workdir: Path
  config: RunConfig
  teacher: str

  @property
  def row(self) -> str:
    """Name of its row, for example "okddip,method.temperature=3.0"."""
    return _row(self.method, self.values)

  @property
  def name(self) -> str:
    """Name of the cell, for example "resnet32/okddip/seed0"."""
    return _name(self.net, self.row, self.seed)


def cells(config: Comparison, workdir: Path) -> list[Cell]:
  """Lists the cells in the order in which they run.

  The seeds of a row are consecutive, so that its training step is compiled
  once. Teachers come before their students.

  Args:
    config: configuration of the comparison.
    workdir: work directory of the comparison.

  Raises:
    ConfigError: if a value breaks its rule.
  """
  _check_values(config)
  return [
    _cell(config, workdir, net, method, values, seed)
    for net in config.nets
    for method in rows(config)
    for values in _choices(config, method)
    for seed in config.seeds
  ]


def _check_values(config: Comparison) -> None:
  """Applies the rules of all values but those of runs, which `check` does."""
  for described in dataclasses.fields(config):
    value = getattr(config, described.name)
    is_unset = value is None and described.default is None
    if described.name != "base" and not is_unset:
      rules.check_value(described, value, "config")


def rows(config: Comparison) -> Iterator[str]:
  """Yields the baseline and the methods; teachers come before students."""
  yield BASELINE
  taught = [
    method
    for method in config.methods
    if any(
      _method(config, method, values)[1].needs.teacher
      for values in _choices(config, method)
    )
  ]
  for method in config.methods:
    if method in taught[:1]:
      yield KD_TEACHER
    yield method


def only(cells: Sequence[Cell], pattern: str) -> list[Cell]:
  """Selects the cells that match a pattern, and the teachers that they need.

  Args:
    cells: cells of a comparison.
    pattern: NETWORK/METHOD/SEED with the wildcards of a shell; * stands for any
      text, including slashes.

  Raises:
    ConfigError: if no cell matches.
  """
  chosen = [
    cell
    for cell in cells
    if fnmatch.fnmatchcase(cell.name, pattern)
    or fnmatch.fnmatchcase(_name(cell.net, cell.method, cell.seed), pattern)
  ]
  if not chosen:
    nets, rows, seeds = (
      ", ".join(dict.fromkeys(names))
      for names in zip(
        *((cell.net, cell.row, f"seed{cell.seed}") for cell in cells),
        strict=True,
      )
    )
    raise ConfigError(
      f"--only={pattern} names none of the {len(cells)} cells; it must be "
      f"NETWORK/METHOD/SEED with * for any text: networks {nets}; methods "
      f"{rows}; seeds {seeds}."
    )
  wanted = {cell.name for cell in chosen} | {cell.teacher for cell in chosen}
  return [cell for cell in cells if cell.name in wanted]


def check(config: Comparison, grid: list[Cell]) -> None:
  """Checks the configuration of all cells before the first one runs.

  Raises:
    ConfigError: if a value is not allowed, or if the folder of a cell holds a
      run of another configuration.
  """
  if config.base.num_seeds != 1:
    raise ConfigError(
      f"config.base.num_seeds={config.base.num_seeds} must be 1, as the seeds "
      "of a comparison are in config.seeds; change that instead."
    )
  for name in config.kinds or {}:
    methods.load(name)
  for name in config.options or {}:
    _options(config, name)
  for cell in grid:
    checked = cell.config
    if checked.teacher:
      # The teacher is not trained yet; any folder may stand for it here.
      checked = dataclasses.replace(checked, teacher=".")
    config_lib.check(checked)
  for cell in grid:
    _require_same_run(cell)


def _require_same_run(cell: Cell) -> None:
  """Raises ConfigError if the folder of a cell holds another run.

  Otherwise the cell would fail only later, and tables would miss it.
  """
  try:
    workdir_lib.require_same_run(cell.config, cell.workdir)
  except ConfigError as error:
    raise ConfigError(f"{cell.name}: {error}") from error


def _alone(method: str) -> bool:
  return method in (BASELINE, KD_TEACHER)


def _concerned(method: str, key: str) -> bool:
  """Whether a key of the grid applies to the rows of a method."""
  section, _, option = key.partition(".")
  if section == "method":
    return not _alone(method) and option in methods.options(method)
  return not (_alone(method) and key == _NUM_PEERS)


def _choices(config: Comparison, method: str) -> Iterator[dict[str, Any]]:
  """Yields the combinations of those values of the grid that apply."""
  grid = config.grid or {}
  keys = [key for key in grid if _concerned(method, key)]
  for chosen in itertools.product(*(grid[key] for key in keys)):
    # Tuples become lists in JSON.
    yield {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in zip(keys, chosen, strict=True)
    }


def _row(method: str, values: Mapping[str, Any]) -> str:
  # Quoted, as it is also the name of a folder.
  shown = (f",{k}={quote(str(v), safe=' ()')}" for k, v in values.items())
  return method + "".join(shown)


def _name(net: str, row: str, seed: int) -> str:
  """Name of a cell and of its folder; that of a network may hold slashes."""
  return f"{net}/{row}/seed{seed}"


def _cell(
  config: Comparison,
  workdir: Path,
  net: str,
  row: str,
  values: dict[str, Any],
  seed: int,
) -> Cell:
  alone = _alone(row)
  section, method = _method(config, row, values)
  kinds = config.kinds or {}
  if not alone and row not in kinds:
    raise ConfigError(
      f"config.kinds has no entry for the method '{row}'; add one, or choose "
      f"from {', '.join(kinds)}."
    )
  changes: dict[str, Any] = {
    "seed": seed,
    "peers.net": config.teacher_net if row == KD_TEACHER else net,
    "peers.kind": "replicas" if alone else kinds[row],
    "method": section,
  }
  if alone:
    changes["peers.num_peers"] = 1
  else:
    changes |= method.settings_compared(net, config.teacher_net)
  if alone or "," in changes["peers.net"]:
    changes["mesh.peer"] = min(config.base.mesh.peer, 1)
  teacher = ""
  if method.needs.teacher:
    shared = {k: v for k, v in values.items() if _concerned(KD_TEACHER, k)}
    teacher = _name(net, _row(KD_TEACHER, shared), seed)
    changes["teacher"] = str(workdir / teacher)
  others = {k: v for k, v in values.items() if not k.startswith("method.")}
  if taken := sorted(others.keys() & changes.keys()):
    raise ConfigError(
      f"--grid.{taken[0]}: a comparison sets config.{taken[0]} for '{row}' "
      "itself; leave out the key or the method."
    )
  made = freeze.replace(config.base, changes | others)
  where = workdir / _name(net, _row(row, values), seed)
  return Cell(net, row, values, seed, where, made, teacher)


def _method(
  config: Comparison, row: str, values: Mapping[str, Any]
) -> tuple[Any, Method]:
  """The section of a row's method, and the method with its hyperparameters."""
  alone = _alone(row)
  name = "independent" if alone else row
  own = {} if alone else _options(config, name)
  chosen = {
    key.partition(".")[2]: value
    for key, value in values.items()
    if key.startswith("method.")
  }
  section = freeze.method_section(name, **{**own, **chosen})
  rules.check(section, "config.method")
  run = freeze.replace(config.base, {"method": section})
  return section, config_lib.make_method(run)


def _options(config: Comparison, name: str) -> Mapping[str, Any]:
  """The hyperparameters that `config.options` sets for a method."""
  options = (config.options or {}).get(name, {})
  if not isinstance(options, Mapping):
    raise ConfigError(
      f"config.options.{name}={options!r} must be a section; set keys in it."
    )
  section = freeze.method_section(name, **options)
  rules.check(section, f"config.options.{name}")
  return options
