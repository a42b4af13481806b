"""The cells of a comparison: every method, network and seed, one recipe."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import fnmatch
import itertools
from typing import Any
from urllib.parse import quote

from okd_jax import methods, rules
from okd_jax.errors import ConfigError
from okd_jax.runs import workdir as workdir_lib
from okd_jax.settings import config as config_lib, freeze, ranges
from okd_jax.settings.schema import Comparison, RunConfig
from okd_jax.storage.paths import Path

# Rows besides the methods: one network alone, and what teaches others.
BASELINE = "baseline"
KD_TEACHER = "kd_teacher"
# Keys that a comparison sets, and what to change instead.
_SET = {
  "seed": "--config.seeds",
  "num_seeds": "--config.seeds",
  "peers.net": "--config.nets",
  "peers.kind": "--config.kinds.METHOD",
  "method.name": "--config.methods",
  "teacher": "--config.teacher_net",
  "teacher_net": "--config.teacher_net",
}
# Is 1 where a network is alone.
_NUM_PEERS = "peers.num_peers"


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a comparison.

  Attributes:
    net: name of the network that the row stands under.
    method: that is trained, `BASELINE` or `KD_TEACHER`.
    values: of the keys in `Comparison.grid` that concern it.
    seed: of the run.
    workdir: of the run.
    config: of the run.
  """

  net: str
  method: str
  values: Mapping[str, Any]
  seed: int
  workdir: Path
  config: RunConfig

  @property
  def row(self) -> str:
    """The name of its row: "okddip,method.temperature=3.0"."""
    return _row(self.method, self.values)

  @property
  def name(self) -> str:
    """For people: "resnet32/okddip/seed0"."""
    return "/".join(self.workdir.parts[-3:])

  @property
  def teacher(self) -> str:
    """The name of the cell that trains its teacher; empty without one."""
    return "/".join(self.config.teacher.split("/")[-3:])


def cells(config: Comparison, workdir: Path) -> list[Cell]:
  """Lists the cells in the order in which they run.

  Seeds of a row follow each other, so that its step is compiled once; teachers
  come before their students.

  Args:
    config: of the comparison, see `okd_jax.settings.schema.Comparison`.
    workdir: of the comparison.
  """
  return [
    _cell(config, workdir, net, method, values, seed)
    for net in config.nets
    for method in rows(config)
    for values in _choices(config, method)
    for seed in config.seeds
  ]


def rows(config: Comparison) -> Iterator[str]:
  """What is trained on every network: the baseline, the methods as listed."""
  yield BASELINE
  taught = [m for m in config.methods if methods.make(m).needs.teacher]
  for method in config.methods:
    if method in taught[:1]:
      yield KD_TEACHER
    yield method


def only(cells: Sequence[Cell], pattern: str) -> list[Cell]:
  """Those cells that a pattern names, and the teachers that they need.

  Args:
    cells: of a comparison.
    pattern: NETWORK/METHOD/SEED with the wildcards of a shell, where * stands
      for any text, slashes included.

  Raises:
    ConfigError: if it names none, with what there is to name.
  """
  chosen = [
    cell
    for cell in cells
    if fnmatch.fnmatchcase(cell.name, pattern)
    or fnmatch.fnmatchcase(f"{cell.net}/{cell.method}/seed{cell.seed}", pattern)
  ]
  if not chosen:
    nets, rows, seeds = (
      ", ".join(dict.fromkeys(names))
      for names in zip(*(cell.name.split("/") for cell in cells), strict=True)
    )
    raise ConfigError(
      f"--only={pattern} names none of the {len(cells)} cells; it must be "
      f"NETWORK/METHOD/SEED with * for any text: networks {nets}; methods "
      f"{rows}; seeds {seeds}."
    )
  wanted = {cell.name for cell in chosen} | {cell.teacher for cell in chosen}
  return [cell for cell in cells if cell.name in wanted]


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
  for name in config.options or {}:
    section = freeze.method_section(name, **_options(config, name))
    rules.check(section, f"config.options.{name}")
  for cell in grid:
    checked = cell.config
    if checked.teacher:
      # The teacher is not there yet; any folder stands for it.
      checked = dataclasses.replace(checked, teacher=".")
    config_lib.check(checked)
  for cell in grid:
    _require_same_run(cell)


def _require_same_run(cell: Cell) -> None:
  """Refuses a cell in whose folder there is another run.

  It would fail when its turn comes, and the tables would have lost its row.
  """
  try:
    workdir_lib.require_same_run(cell.config, cell.workdir)
  except ConfigError as error:
    raise ConfigError(f"{cell.name}: {error}") from error


def refuse_set(keys: Iterable[str]) -> None:
  """Refuses settings of all runs that a comparison sets in each itself.

  Args:
    keys: what a command line changes of the base.

  Raises:
    ConfigError: naming the first of them, and what to change instead.
  """
  for key in keys:
    if key in _SET:
      raise ConfigError(
        f"--config.base.{key}: a comparison sets it in every run itself, so "
        f"this would change nothing; change {_SET[key]} instead."
      )


def _alone(method: str) -> bool:
  return method in (BASELINE, KD_TEACHER)


def _concerned(method: str, key: str) -> bool:
  """Whether a key of the grid makes rows of a method."""
  section, _, option = key.partition(".")
  if section == "method":
    return not _alone(method) and option in methods.options(method)
  return not (_alone(method) and key == _NUM_PEERS)


def _choices(config: Comparison, method: str) -> Iterator[dict[str, Any]]:
  """All values of the grid that concern a method, one of each key."""
  grid = config.grid or {}
  keys = [key for key in grid if _concerned(method, key)]
  for chosen in itertools.product(*(grid[key] for key in keys)):
    # A file of JSON has lists for tuples.
    yield {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in zip(keys, chosen, strict=True)
    }


def _row(method: str, values: Mapping[str, Any]) -> str:
  # It is the name of a folder, too.
  shown = (f",{k}={quote(str(v), safe=' ()')}" for k, v in values.items())
  return method + "".join(shown)


def _cell(
  config: Comparison,
  workdir: Path,
  net: str,
  row: str,
  values: dict[str, Any],
  seed: int,
) -> Cell:
  def place(row, values):
    return workdir / net / _row(row, values) / f"seed{seed}"

  alone = _alone(row)
  name = "independent" if alone else row
  own = {} if alone else _options(config, name)
  chosen = {
    key.partition(".")[2]: value
    for key, value in values.items()
    if key.startswith("method.")
  }
  method = freeze.method_section(name, **{**own, **chosen})
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
    compared = methods.make(name).settings_compared(net, config.teacher_net)
    changes |= compared
  if alone or "," in changes["peers.net"]:
    changes["mesh.peer"] = min(config.base.mesh.peer, 1)
  if row != KD_TEACHER and methods.make(name).needs.teacher:
    shared = {k: v for k, v in values.items() if _concerned(KD_TEACHER, k)}
    changes["teacher"] = str(place(KD_TEACHER, shared))
  others = {k: v for k, v in values.items() if not k.startswith("method.")}
  if taken := sorted(others.keys() & changes.keys()):
    raise ConfigError(
      f"--grid.{taken[0]}: a comparison sets config.{taken[0]} for '{row}' "
      "itself; leave one of them out."
    )
  made = freeze.replace(config.base, changes | others)
  return Cell(net, row, values, seed, place(row, values), made)


def _options(config: Comparison, name: str) -> Mapping[str, Any]:
  """The hyperparameters of a method that are not its defaults."""
  options = (config.options or {}).get(name, {})
  if not isinstance(options, Mapping):
    raise ConfigError(
      f"config.options.{name}={options!r} must be a section; change its keys."
    )
  return options


def ranged(config: Comparison, texts: Mapping[str, str]) -> Comparison:
  """A comparison with what a command line says of --grid.KEY.

  Args:
    config: without a grid.
    texts: the values of every key, as they were written.

  Raises:
    ConfigError: for an unknown key, one that no method has or that a comparison
      sets itself, and for no values.
  """
  grid = {}
  for key, text in texts.items():
    flag = f"--grid.{key}"
    if key in _SET:
      raise ConfigError(f"{flag}: change {_SET[key]} instead.")
    default = ranges.default_of(flag, key, config.base, config.methods)
    grid[key] = ranges.values(flag, text, default)
  return dataclasses.replace(config, grid=grid or None)
