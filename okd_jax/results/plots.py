"""Pictures of a run."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from okd_jax.results import canvas, course as course_lib
from okd_jax.results.course import Course
from okd_jax.results.curves import Curve
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import (
  DIVERSITY,
  Figure as Measured,
  is_group,
  is_reference,
  LEADER,
  parse_element,
  peer_index,
)
from okd_jax.tasks.measure import Measure
from okd_jax.training import measures

# Entries of a training record that are neither loss terms nor task figures.
_NO_TERMS = ("loss", *measures.SCALARS)


def plot(workdir: Path, to: Path | None = None) -> list[Path]:
  """Draws the curves of a run, finished or not.

  For several seeds, curves are means with bands of the sample standard
  deviation, over the steps that all seeds have reached.

  Args:
    workdir: folder of the run, or of the runs of several seeds.
    to: folder for the pictures; `plots` in the work directory by default.

  Returns:
    The files written, each as PNG and SVG:

    * `loss`: the loss terms;
    * the headline figure of the task, under its name (`accuracy` in
      classification): of leader, peers and group predictions, and that of
      training batches;
    * `learning_rate`, if it is recorded;
    * `diversity`: the diversity of several peers;
    * `gap`: the lead of ensemble, group predictions and teacher over the
      leader;
    * each summary of the method by its name, for example `attention`.

  Raises:
    ConfigError: if there is no run.
  """
  course = course_lib.read(workdir)
  title, trained, evaluated = course.title, course.trained, course.evaluated
  with mpl.rc_context(canvas.STYLE):
    figures = {
      "loss": _loss(trained, course.task.in_step(course.info), title),
      course.headline.name: _headlines(course),
    }
    if "learning_rate" in trained:
      figures["learning_rate"] = _learning_rate(trained, title)
    if course.config.peers.num_peers > 1:
      figures["diversity"] = _diversity(evaluated, title)
    if course.gaps:
      figures["gap"] = _gaps(course)
    for name in _summaries(trained):
      figures[name] = _summary(trained, name, title)
    return canvas.save(figures, to or workdir / "plots")


def _loss(curves: Mapping[str, Curve], in_step: Measure, title: str) -> Figure:
  figure, (panel,) = canvas.panels(title, 1, "loss term, summed over peers")
  others = (*_NO_TERMS, in_step.name)
  terms = [n for n in curves if n not in others and not parse_element(n)[1]]
  if "loss" in curves and len(terms) != 1:
    canvas.draw(
      panel, curves["loss"], color=canvas.BLACK, linewidth=2.4, label="sum"
    )
  for i, name in enumerate(terms):
    look = canvas.line_look(i) | {
      "marker": canvas.MARKERS[i % len(canvas.MARKERS)],
      "markersize": 4,
    }
    every = max(1, len(curves[name].epochs) // 10)
    canvas.draw(panel, curves[name], **look, markevery=every, label=name)
  # Logarithmic, as terms differ by orders of magnitude.
  canvas.log_scale(panel)
  canvas.legend(figure)
  return figure


def _learning_rate(curves: Mapping[str, Curve], title: str) -> Figure:
  figure, (panel,) = canvas.panels(title, 1, "learning rate")
  canvas.draw(panel, curves["learning_rate"], color=canvas.COLORS[0])
  panel.set_ylim(bottom=0)
  return figure


def _headlines(course: Course) -> Figure:
  headline = course.headline
  # References of the task are constant; they are in tables only.
  curves = {
    f: curve.scaled(headline.scaled(1.0))
    for f, curve in course.evaluated.items()
    if f.measure == headline.name and not is_reference(f.who)
  }
  splits = list(dict.fromkeys(f.split for f in curves)) or ["test"]
  label = canvas.label_of(headline)
  figure, panels = canvas.panels(course.title, len(splits), label)
  for split, panel in zip(splits, panels, strict=True):
    panel.set_title(split)
    shown = {f: curve for f, curve in curves.items() if f.split == split}
    if shown:
      _draw_everybody(shown, course.leader, panel)
    in_step = course.task.in_step(course.info)
    in_range = list(shown.values())
    if in_step == headline and in_step.name in course.trained:
      batches = course.trained[in_step.name].scaled(in_step.scaled(1.0))
      in_range.append(batches)
      canvas.draw(
        panel,
        batches,
        color="#888888",
        linewidth=1.0,
        label="training batches",
        zorder=1,
      )
    canvas.set_range(panel, in_range, headline)
  canvas.legend(figure)
  return figure


def _draw_everybody(
  curves: Mapping[Measured, Curve], leader: int, panel: Axes
) -> None:
  """Draws leader, group predictions and peers for one split."""
  peers = [f for f in curves if peer_index(f.who) is not None]
  # Of a single network, the curves include the peer only if its average is the
  # leader; otherwise both would be equal.
  averaged = any(f.averaged for f in peers) or len(peers) == 1
  deployed = f"peer {leader}, averaged" if averaged else f"peer {leader}"
  for figure, curve in curves.items():
    if figure.who == LEADER:
      canvas.draw(
        panel,
        curve,
        color=canvas.BLACK,
        linewidth=2.4,
        label=f"leader ({deployed})",
        zorder=3,
      )
  groups = [f for f in curves if is_group(f.who)]
  for i, figure in enumerate(groups):
    canvas.draw(
      panel,
      curves[figure],
      color="#D55E00",
      linestyle=canvas.STYLES[1 + i % (len(canvas.STYLES) - 1)],
      linewidth=2.2,
      label=figure.prediction,
      mark=canvas.MARKERS[1 + i % (len(canvas.MARKERS) - 1)],
    )
  for figure, curve in curves.items():
    peer = peer_index(figure.who)
    # The leader is drawn already. But its average differs from the peer.
    if peer is None or figure.averaged or (peer == leader and not averaged):
      continue
    canvas.draw(panel, curve, **canvas.line_look(peer), label=f"peer {peer}")


def _gaps(course: Course) -> Figure:
  headline = course.headline
  splits = list(dict.fromkeys(figure.split for figure in course.gaps))
  ahead = [figure.prediction for figure in course.gaps]
  label = canvas.label_of_gap(headline, ahead)
  figure, panels = canvas.panels(course.title, len(splits), label)
  for split, panel in zip(splits, panels, strict=True):
    panel.set_title(split)
    panel.axhline(0, color=canvas.BLACK, linewidth=0.8)
    shown = [found for found in course.gaps if found.split == split]
    for i, found in enumerate(shown):
      canvas.draw(
        panel,
        course.gaps[found].scaled(headline.scaled(1.0)),
        canvas.MARKERS[i % len(canvas.MARKERS)],
        **canvas.line_look(i),
        label=found.prediction,
      )
  canvas.legend(figure)
  return figure


def _diversity(curves: Mapping[Measured, Curve], title: str) -> Figure:
  figure, (panel,) = canvas.panels(title, 1, canvas.DISTANCE)
  shown = [f for f in curves if f.measure == DIVERSITY]
  for i, measured in enumerate(shown):
    averaged = ", averaged" if measured.averaged else ""
    canvas.draw(
      panel,
      curves[measured],
      **canvas.line_look(i),
      label=measured.split + averaged,
    )
  if len(shown) == 1:
    panel.set_title(shown[0].split)
  panel.set_ylim(bottom=0)
  canvas.legend(figure)
  return figure


def _summaries(curves: Mapping[str, Curve]) -> list[str]:
  """Names of the method's summaries: records with an index per element."""
  elements = map(parse_element, curves)
  return list(dict.fromkeys(name for name, index in elements if index))


def _summary(curves: Mapping[str, Curve], name: str, title: str) -> Figure:
  """Draws a summary: one panel for a vector, one for each row of a matrix."""
  panels: dict[tuple[int, ...], dict[int, Curve]] = {}
  for path, curve in curves.items():
    summary, index = parse_element(path)
    if summary == name and index:
      panels.setdefault(index[:-1], {})[index[-1]] = curve
  figure, axes = canvas.panels(
    title, len(panels), f"{name}, mean over the batch"
  )
  for (of, lines), panel in zip(panels.items(), axes, strict=True):
    if of:
      panel.set_title(f"{name} of peer {', '.join(map(str, of))}")
    for last, curve in lines.items():
      # Styles differ, as lines of weights with sum one often coincide.
      look = canvas.line_look(last) | {
        "linestyle": canvas.STYLES[last % len(canvas.STYLES)]
      }
      canvas.draw(panel, curve, **look, label=f"peer {last}")
  canvas.legend(figure)
  return figure
