"""Runs side by side: pictures in which each has a line."""

from collections.abc import Mapping, Sequence
import dataclasses

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from okd_jax.results import canvas
from okd_jax.results.course import TEACHER
from okd_jax.results.curves import Curve
from okd_jax.results.together import Entry
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import (
  DIVERSITY,
  ENSEMBLE,
  Figure as Measured,
  GROUP,
  LEADER,
)
from okd_jax.tasks.measure import Measure

_RECORDED = {"loss": "sum of loss terms", "learning_rate": "learning rate"}


def plot(shown: Sequence[Entry], to: Path) -> list[Path]:
  """Draws all entries in one picture of each kind.

  Lines are means over seeds, with bands of the sample standard deviation.

  Args:
    shown: entries to draw.
    to: folder for the pictures.

  Returns:
    The files written, each as PNG and SVG: the headline figure of the leaders
    and of training batches, under its name (`accuracy` in classification);
    `loss`; `learning_rate`; `diversity`, that of several peers; and `gap`, the
    lead of a teacher or else of the ensemble over the leader.
  """
  with mpl.rc_context(canvas.STYLE):
    figures = {
      measure.name: _headlines(
        {i: e for i, e in enumerate(shown) if e.course.headline == measure},
        measure,
      )
      for measure in dict.fromkeys(e.course.headline for e in shown)
    }
    for name, words in _RECORDED.items():
      curves = {i: e.course.trained.get(name) for i, e in enumerate(shown)}
      figures[name] = _one(shown, curves, words)
      if name == "loss":
        canvas.log_scale(figures[name].axes[0])
    distances = {
      i: e.course.evaluated.get(Measured(e.split, GROUP, False, DIVERSITY))
      for i, e in enumerate(shown)
    }
    if any(distances.values()):
      figures["diversity"] = _one(shown, distances, canvas.DISTANCE)
      figures["diversity"].axes[0].set_ylim(bottom=0)
    if gap := _gaps(shown):
      figures["gap"] = gap
    return canvas.save(figures, to)


def _gaps(shown: Sequence[Entry]) -> Figure | None:
  """Leads of frozen teachers or, without one, of ensembles; None if no run has.

  Where some runs have a teacher and others have not, lines say what they show.
  """
  ahead = {
    i: who
    for i, entry in enumerate(shown)
    for who in (ENSEMBLE, TEACHER)
    if any((f.who, f.split) == (who, entry.split) for f in entry.course.gaps)
  }
  if not ahead:
    return None
  curves, named = {}, list(shown)
  for i, who in ahead.items():
    course, split = shown[i].course, shown[i].split
    factor = course.headline.scaled(1.0)
    curves[i] = next(
      curve.scaled(factor)
      for f, curve in course.gaps.items()
      if (f.who, f.split) == (who, split)
    )
    if len(set(ahead.values())) > 1:
      label = f"{shown[i].label}: {who}"
      named[i] = dataclasses.replace(shown[i], label=label)
  label = canvas.label_of_gap(shown[0].course.headline, ahead.values())
  figure = _one(named, curves, label)
  figure.axes[0].axhline(0, color=canvas.BLACK, linewidth=0.8)
  return figure


def _headlines(shown: Mapping[int, Entry], measure: Measure) -> Figure:
  entries = shown.values()
  splits = [
    split
    for split in ("test", "validation")
    if any(f.split == split for e in entries for f in e.course.evaluated)
  ] or ["test"]
  in_steps = {e.course.task.in_step(e.course.info) for e in entries}
  alike = in_steps == {measure}
  label = canvas.label_of(measure)
  figure, panels = canvas.panels("", 1 + len(splits), label, alike=alike)
  drawn: list[Curve] = []
  for split, panel in zip(splits, panels, strict=False):
    panel.set_title(f"{split}: leader")
    drawn += _lines(
      panel,
      shown,
      {
        i: e.course.evaluated.get(Measured(split, LEADER, False, measure.name))
        for i, e in shown.items()
      },
      measure.scaled(1.0),
    )
  (in_step, *_) = in_steps
  words = "" if alike else f", {in_step.words}"
  panels[-1].set_title(f"training batches{words}")
  batches = _lines(
    panels[-1],
    shown,
    {i: e.course.trained.get(in_step.name) for i, e in shown.items()},
    in_step.scaled(1.0),
  )
  canvas.set_range(panels[0], drawn + (batches if alike else []), measure)
  canvas.legend(figure)
  return figure


def _one(
  shown: Sequence[Entry], curves: Mapping[int, Curve | None], words: str
) -> Figure:
  """A figure of one panel, with a line for every entry that has a curve."""
  figure, (panel,) = canvas.panels("", 1, words)
  _lines(panel, dict(enumerate(shown)), curves)
  canvas.legend(figure)
  return figure


def _lines(
  panel: Axes,
  shown: Mapping[int, Entry],
  curves: Mapping[int, Curve | None],
  factor: float = 1.0,
) -> list[Curve]:
  """Draws a line for each entry, with the same look in all pictures."""
  drawn = []
  for i, curve in curves.items():
    if curve is None:
      continue
    scaled = curve.scaled(factor)
    mark = canvas.MARKERS[i % len(canvas.MARKERS)]
    canvas.draw(
      panel,
      scaled,
      mark,
      **canvas.line_look(i),
      marker=mark,
      markersize=4,
      markevery=max(1, len(curve.epochs) // 8),
      label=canvas.letters(shown[i].label),
    )
    drawn.append(scaled)
  return drawn
