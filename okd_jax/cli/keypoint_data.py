"""Show what training would use of annotated joints; a part of `data`."""

from collections.abc import Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from okd_jax import data
from okd_jax.cli import common
from okd_jax.data.augmentation import Augment, PLAIN
from okd_jax.data.keypoints import description, load, own, pictures
from okd_jax.data.keypoints.figures import Figure
from okd_jax.devices.mesh import make_mesh
from okd_jax.runs import display
from okd_jax.tasks import keypoint_drawing, keypoint_maps
from okd_jax.tasks.keypoint_batches import STRIDE
from okd_jax.tasks.keypoints import Task

_SHOWN = 32


def run(
  config: data.Config, how: Augment, show: Path | None, *, as_json: bool
) -> None:
  """Checks every picture and annotation, and prints a summary.

  Args:
    config: configuration of the data.
    how: other changes of the pictures.
    show: PNG file for pictures of figures as a network sees them in training.
    as_json: whether to print JSON, for programs.

  Raises:
    ConfigError: for a configuration that training would refuse as well.
    DataError: for data that training would refuse as well.
  """
  found = load.find(config)
  listing = load.listed(config, found)
  if how != PLAIN:
    Task.of(listing.info).changed(how, 0.0, ())
  if config.source != "stream":
    for part in (listing.train, listing.test):
      pictures.room(part, listing.info)
  positions = data.division(config, listing)
  used = {
    split: len(positions[split]) for split in ("train", "validation", "test")
  }
  for figures in found.splits.values():
    pictures.check(figures, exif=listing.info.exif)
  flip = found.flip and config.flip
  counts = {
    split: {
      "pictures": len({f.image_id for f in figures}),
      "figures": len(figures),
      "joints": _labelled(found.names, figures),
    }
    for split, figures in found.splits.items()
  }
  if as_json:
    known = dataclasses.asdict(found.info)
    about = {"joints": found.names, "known": known, "notes": found.notes}
    common.print_json({"splits": counts, "used": used, "flip": flip} | about)
  else:
    _show(config.name, counts, found, used, flip=flip)
  if show:
    _draw(config, show, _left_first(found))
    if not as_json:
      sides = (
        "; left joints are green, right ones purple" if found.info.pairs else ""
      )
      print(f"What a network sees is in {show}{sides}.")


def _labelled(
  names: Sequence[str], figures: Sequence[Figure]
) -> dict[str, int]:
  """Number of figures that show each joint; a split may have none."""
  return {
    name: sum(bool(figure.visible[joint] > 0) for figure in figures)
    for joint, name in enumerate(names)
  }


def _show(
  name: str,
  counts: dict[str, Any],
  found: own.Set,
  used: dict[str, int],
  *,
  flip: bool,
) -> None:
  rows = [
    (what, *(part[what] for part in counts.values()))
    for what in ("pictures", "figures")
  ]
  rows += [
    (joint, *(part["joints"][joint] for part in counts.values()))
    for joint in found.names
  ]
  display.table(f"Counts of {name}", ["what", *counts], rows)
  pairs = [f"{found.names[a]} - {found.names[b]}" for a, b in found.info.pairs]
  division = ", ".join(
    f"{number or 'none'} for {split}" for split, number in used.items()
  )
  mirrored = ", ".join(pairs) or "without joints that change places"
  rows = [("figures", division), ("mirrored", mirrored if flip else "never")]
  rows += [("note", note) for note in found.notes]
  display.table("What training makes of it", ["what", "value"], rows)


def _left_first(found: own.Set) -> list[tuple[int, int]]:
  """The pairs of joints, left and right where their names say it."""
  known = description.mirrored(found.names)
  return [(b, a) if (b, a) in known else (a, b) for a, b in found.info.pairs]


def _draw(
  config: data.Config, path: Path, pairs: Sequence[tuple[int, int]]
) -> None:
  source = data.make(config, batch_size=1, eval_batch_size=1, seed=0)
  count = min(_SHOWN, source.train_size)
  source.batch_size = count
  task, mesh = Task.of(source.info), make_mesh(1, 1, jax.local_devices()[:1])
  augment = functools.partial(task.augment, num_views=None, mesh=mesh)
  seen = jax.jit(augment)(next(source.batches(0)), jax.random.key(0))
  pixels = data.denormalize(seen.image, source.info)
  places = STRIDE * np.asarray(keypoint_maps.decode(seen.target["maps"])[0])
  labelled = np.asarray(seen.target["weight"])
  bones = source.info.of_keypoints.bones
  drawn = [
    keypoint_drawing.with_sides(*each, bones, pairs)
    for each in zip(pixels, places, labelled, strict=True)
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  keypoint_drawing.sheet(drawn).save(path)
