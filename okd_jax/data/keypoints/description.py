"""What users say about their joints, in `keypoints.yaml` or by their names."""

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

from okd_jax.data.keypoints.info import KeypointInfo, Pairs
from okd_jax.errors import closest, DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

FILE = "keypoints.yaml"
# As many people write such a name.
_OTHER_NAME = "keypoints.yml"
SIGMA = 0.05
SPLITS = ("train", "validation", "test")
_KEYS = (*SPLITS, "images", "flip_pairs", "sigmas", "skeleton", "torso")
_SIDES = (
  ("left", "right"),
  ("Left", "Right"),
  ("LEFT", "RIGHT"),
  ("l", "r"),
  ("L", "R"),
)
# The torso, by the names that people give to its ends.
_TORSO = (("left_hip", "right_shoulder"), ("l_hip", "r_shoulder"))


def read(path: Path, look: files.Look) -> dict[str, Any]:
  """The content of a description; {} if there is none.

  A key without a value is ignored.

  Raises:
    DataError: naming the key that is wrong.
  """
  if not look.has(path):
    if look.has(other := path.parent / _OTHER_NAME):
      raise DataError(
        f"{other} is not read, as {FILE} was expected; give it this name."
      )
    return {}
  # Needed by those alone who write such a file.
  import yaml

  try:
    said = yaml.safe_load(files.content(path).decode()) or {}
  except (OSError, ValueError, yaml.YAMLError) as error:
    raise DataError(f"{path} cannot be read as YAML ({error}).") from error
  if not isinstance(said, dict):
    raise DataError(f"{path} must hold keys: {', '.join(_KEYS)}.")
  for key in said:
    if key not in _KEYS:
      raise DataError(
        f"{path} has the key '{key}'{closest(key, _KEYS)} The keys are "
        f"{', '.join(_KEYS)}."
      )
  said = {key: value for key, value in said.items() if value is not None}
  for key in (*SPLITS, "images"):
    if not isinstance(said.get(key, ""), str):
      raise DataError(f"{path}: '{key}' must be a path, not {said[key]!r}.")
  return said


def describe(
  path: Path,
  names: tuple[str, ...],
  bones: Pairs,
  said: Mapping[str, Any],
) -> tuple[KeypointInfo, list[str]]:
  """Facts about joints, from their names and a description.

  Args:
    path: path of the description, for messages.
    names: names of the joints.
    bones: bones of the annotations.
    said: content of the description.

  Returns:
    The facts, and notes.
  """
  notes = []

  def joint(given: Any) -> int:
    # Of names that are numbers YAML makes numbers.
    name = str(given)
    if name not in names:
      raise DataError(
        f"{path} names the joint '{name}', which is not in the annotations"
        f"{closest(name, names)} They have {', '.join(names)}."
      )
    return names.index(name)

  def joints(key: str, default: Pairs) -> Pairs:
    if key not in said:
      return default
    try:
      return tuple((joint(a), joint(b)) for a, b in said[key] or ())
    except (TypeError, ValueError) as error:
      raise DataError(
        f"{path}: '{key}' must be a list of pairs of joint names, as [[one, "
        f"other], ...], not {said[key]!r:.80}."
      ) from error

  pairs = joints("flip_pairs", mirrored(names))
  paired = [end for pair in pairs for end in pair]
  if len(set(paired)) < len(paired):
    raise DataError(f"{path}: 'flip_pairs' must have every joint once at most.")
  if not pairs and "flip_pairs" not in said:
    notes.append(
      "No joints are named left_* and right_*, so nothing is mirrored; "
      f"'flip_pairs' in {path.name} names them, or [] if there are none."
    )
  by_joint = {joint(name): value for name, value in _sigmas(path, said).items()}
  notes += _alone(names, paired, named="flip_pairs" in said)
  if (rest := len(names) - len(by_joint)) > 0:
    some = "all" if not by_joint else f"{rest} of {len(names)}"
    notes.append(
      f"The sigma of {some} joints is {SIGMA}, so OKS and AP are not that of "
      "COCO."
    )
  named = [ends for ends in _TORSO if set(ends) <= set(names)]
  ends = _torso_ends(path, said) if "torso" in said else (*named, ())[0]
  torso = tuple(map(joint, ends))
  if not torso:
    notes.append(
      "There is no left_hip and right_shoulder, so PCK is relative to the "
      "longer side of the box."
    )
  return KeypointInfo(
    pairs=pairs,
    bones=joints("skeleton", bones),
    sigmas=tuple(by_joint.get(i, SIGMA) for i in range(len(names))),
    torso=torso,
  ), notes


def mirrored(names: Sequence[str]) -> Pairs:
  """Pairs of joints by their names: left_eye and right_eye, eye.L and eye.R."""
  found = []
  for i, name in enumerate(names):
    for left, right in _SIDES:
      other = _with_side(name, left, right)
      if other != name and other in names:
        found.append((i, names.index(other)))
        break
  return tuple(found)


def _with_side(name: str, side: str, other: str) -> str:
  # Whole words: "leg" does not begin with l for left.
  return re.sub(rf"(?<![a-zA-Z]){side}(?![a-z])", other, name)


def _alone(
  names: Sequence[str], paired: Sequence[int], *, named: bool
) -> list[str]:
  """A note on joints that are named after one side but are in no pair."""
  alone = [
    name
    for i, name in enumerate(names)
    if i not in paired
    and any(_with_side(name, side, "") != name for side in sum(_SIDES, ()))
  ]
  if not paired or not alone:
    return []
  joints = ", ".join(alone)
  if named:
    return [
      f"{joints} have a side by name and are in no pair of 'flip_pairs', so "
      "they keep their names in the mirror."
    ]
  return [
    f"{joints} of one side by name have no joint of the other to change places "
    "with in the mirror; correct the names, or say 'flip_pairs'."
  ]


def _torso_ends(path: Path, said: Mapping[str, Any]) -> list[Any]:
  ends = said["torso"]
  if not isinstance(ends, list) or len(ends) != 2 or ends[0] == ends[1]:
    raise DataError(
      f"{path}: 'torso' must be a list of two joint names that differ, not "
      f"{ends!r}; name both ends."
    )
  return ends


def _sigmas(path: Path, said: Mapping[str, Any]) -> dict[str, float]:
  sigmas = said.get("sigmas") or {}
  if not isinstance(sigmas, dict) or not all(
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and 0 < value < math.inf
    for value in sigmas.values()
  ):
    raise DataError(
      f"{path}: 'sigmas' must be finite numbers above 0 by joint, not "
      f"{sigmas!r}; correct them, or leave them out."
    )
  return {name: float(value) for name, value in sigmas.items()}
