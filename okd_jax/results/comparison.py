"""The tables of a comparison, with published figures beside ours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from okd_jax.results import (
  differences,
  formats,
  published,
  relative,
  rows as results,
)
from okd_jax.results.formats import Table
from okd_jax.results.grid import BASELINE
from okd_jax.results.rows import Row, WHO
from okd_jax.storage import files
from okd_jax.storage.paths import Path


def read(workdir: Path) -> list[Table]:
  """The tables of a comparison, finished or not."""
  return make_tables(results.read(workdir), published.read(workdir))


def write(workdir: Path) -> None:
  """Writes table.md, table.csv and table.tex into the folder."""
  rows, known = results.read(workdir), published.read(workdir)
  made = make_tables(rows, known)
  for name, text in (
    ("table.md", formats.markdown(made)),
    ("table.tex", formats.latex(made)),
    ("table.csv", formats.as_csv(_flat(rows, known))),
  ):
    files.write(workdir / name, text)


def make_tables(rows: Sequence[Row], known: Mapping[str, Any]) -> list[Table]:
  """Makes the tables of each network: last epoch, differences, best, published.

  Args:
    rows: rows of the comparison.
    known: published figures, as from `published.read`.
  """
  made = []
  for net in dict.fromkeys(row.net for row in rows):
    of_net = [row for row in rows if row.net == net]
    title = f"{net} on {_all(r.data for r in of_net)}, "
    title += f"{_all(r.epochs for r in of_net)} epochs"
    made += [
      _last(title, of_net),
      *_validation(title, of_net),
      *_sure(title, of_net),
      _best(title, of_net),
      _beside(title, of_net, known),
    ]
  return made


def _all(values: Iterable[Any]) -> str:
  """The different values of rows, of which a grid may have several."""
  return " and ".join(map(str, dict.fromkeys(values)))


def _last(title: str, rows: Sequence[Row]) -> Table:
  columns = ["method", "peers", "seeds", *WHO.values()]
  columns += ["time vs 1 network", "time vs P networks"]
  lines = [
    [
      row.name,
      _group(row),
      f"{row.finished} of {row.planned}",
      *(_text(row.headlines.get((who, "last"))) for who in WHO),
      *(_text(ratio, "{:.2f}") for ratio in relative.times(row, rows)),
    ]
    for row in rows
  ]
  measure = rows[0].measure
  notes = [
    f"{measure.heading} on test data{measure.unit}, mean ± sample "
    "standard deviation over seeds. "
    "Mean of peers and ensemble (mean of logits) are of two or more peers, "
    "without the leader of okddip and ffsd and the teacher of ctkd; for pcl "
    "they are of the averaged peers, and for oem and switokd of different "
    "networks. Group prediction: "
    "the gated ensemble of one, the fused classifier of ffl and ffsd, PCL-E, "
    "the aggregated maps of okdhp. "
    "Time: to train on one image, relative to a single network and to P "
    "independent networks."
  ]
  for row in rows:
    notes += [f"Failed: {name}: {why}" for name, why in row.failures.items()]
  return Table(f"{title}: last epoch", columns, lines, notes)


def _validation(title: str, rows: Sequence[Row]) -> list[Table]:
  """The table for choosing hyperparameters; none without validation data."""
  lines = [
    [row.name, *(_text(row.headlines.get((w, "validation"))) for w in WHO)]
    for row in rows
  ]
  if not any((w, "validation") in r.headlines for r in rows for w in WHO):
    return []
  title = f"{title}: last epoch, validation data"
  return [Table(title, ["method", *WHO.values()], lines)]


def _sure(title: str, rows: Sequence[Row]) -> list[Table]:
  """Differences at the last epoch with intervals; none of a single seed."""
  lines = []
  for row in rows:
    alone = relative.counterpart(row, rows, BASELINE)
    several = relative.counterpart(row, rows, "independent")
    line = [row.name]
    for who, other, others in (
      ("deployed", alone, "deployed"),
      ("deployed", several, "peers_mean"),
      ("peers_mean", several, "peers_mean"),
      ("ensemble", several, "ensemble"),
    ):
      line.append(_difference(row, who, other, others))
    effect = differences.peer_effect(list(row.alike.values()))
    line.append(_text(effect))
    lines.append(line)
  if all(cell == "-" for line in lines for cell in line[1:]):
    return []
  notes = [
    "Mean of the differences seed by seed, ± half the width of its 95 % "
    "interval by Student's t. If the interval contains 0, the number in "
    "brackets is the number of seeds at which it would no longer do so, with "
    "the same mean and deviation. One interval in twenty misses the true "
    "difference by chance. Peers alike: whether the figures of peers that "
    "differ only in weights and index depend on the index (analysis of "
    "variance, seeds as blocks); a small p says that they do."
  ]
  if any(" of " in cell for line in lines for cell in line[1:]):
    notes.append("A difference is over those seeds that both rows have.")
  columns = [
    "method",
    "deployed - one network",
    "deployed - a network of independent",
    "mean of peers - that of independent",
    "ensemble - that of independent",
    "peers alike",
  ]
  return [
    Table(f"{title}: differences at the last epoch", columns, lines, notes)
  ]


def _difference(row: Row, who: str, other: Row | None, others: str) -> str:
  if other is None or other is row and who == others:
    return "-"
  ours, theirs = row.by_seed(who, "last"), other.by_seed(others, "last")
  found = differences.paired(ours, theirs)
  if found is None:
    return "-"
  text, most = str(found), differences.MOST_SEEDS
  if found.seeds < max(row.planned, other.planned):
    text += f" of {found.seeds} seeds"
  if found.needed is not None:
    text += f" ({f'>{most}' if found.needed > most else found.needed})"
  return text


def _best(title: str, rows: Sequence[Row]) -> Table:
  lines = [
    [row.name, *(_text(row.headlines.get((who, "best"))) for who in WHO)]
    for row in rows
  ]
  notes = [
    "Each figure at the epoch at which it is best: on validation data if there "
    "are any, otherwise on the test data themselves, which is too optimistic."
  ]
  return Table(f"{title}: best epoch", ["method", *WHO.values()], lines, notes)


def _beside(title: str, rows: Sequence[Row], known: Mapping[str, Any]) -> Table:
  cited: list[str] = []
  lines = []
  for row in rows:
    texts = []
    for figure in published.matching(row, known):
      source = known["sources"][figure["source"]]
      if "error" in figure:
        source += "; given as error"
      if source not in cited:
        cited.append(source)
      texts.append(f"{_spread(figure, row)} [{cited.index(source) + 1}]")
    lines.append(
      [
        row.name,
        row.compared_as,
        *(
          _text(row.headlines.get((row.compared, w))) for w in ("last", "best")
        ),
        "; ".join(texts) or "-",
      ]
    )
  notes = [f"[{i}] {source}." for i, source in enumerate(cited, 1)]
  return Table(
    f"{title}: beside published figures",
    ["method", "figure", "last epoch", "best epoch", "published [source]"],
    lines,
    notes or ["None is known for this data set and network."],
  )


def _group(row: Row) -> str:
  if row.num_peers == 1:
    return "1"
  different = f" ({row.nets})" if "," in row.nets else ""
  return f"{row.num_peers} {row.kind}{different}"


def _flat(rows: Sequence[Row], known: Mapping[str, Any]) -> Table:
  """All figures in one table of plain numbers, with one line for each row."""
  columns = ["net", "data", "method", "kind", "num_peers", "epochs", "seeds"]
  keys = [(who, when) for who in WHO for when in ("last", "best")]
  for who, when in keys:
    columns += [f"{who}_{when}_mean", f"{who}_{when}_std"]
  columns += ["time_vs_one", "time_vs_independent", "compared"]
  columns += ["published", "published_std", "published_source"]
  lines = []
  for row in rows:
    line: list[Any] = [row.net, row.data, row.name, row.kind, row.num_peers]
    line += [row.epochs, row.finished]
    for key in keys:
      found = row.headlines.get(key)
      line += [found.mean, found.std] if found else [None, None]
    line += [
      *relative.times(row, [r for r in rows if r.net == row.net]),
      row.compared_as,
    ]
    figures = published.matching(row, known)
    for values in (
      [f"{published.headline(figure, row):.2f}" for figure in figures],
      [str(figure["std"]) if "std" in figure else "" for figure in figures],
      [known["sources"][figure["source"]] for figure in figures],
    ):
      line.append(" | ".join(values))
    lines.append([_plain(value) for value in line])
  return Table("", columns, lines)


def _plain(value: Any) -> str:
  if value is None:
    return ""
  return f"{value:.4f}" if isinstance(value, float) else str(value)


def _spread(figure: Mapping[str, Any], row: Row) -> str:
  return str(results.Spread(published.headline(figure, row), figure.get("std")))


def _text(value: Any, form: str = "{}") -> str:
  return "-" if value is None else form.format(value)
