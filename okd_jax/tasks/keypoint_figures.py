"""Which figures keypoints have, and all of them from rows of examples."""

from collections.abc import Mapping

import numpy as np

from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints import beside
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.tasks import keypoint_metrics as metrics, keypoint_oks
from okd_jax.tasks.measure import Measure

PCKH = Measure("pckh", "PCKh@0.5", phrase="PCKh@0.5")
PCK = Measure("pck", "PCK@0.2", phrase="PCK@0.2")
_GROUPS = tuple(
  Measure(f"pckh_{name.lower()}", name) for name in metrics.MPII_GROUPS
)
_STRICT = Measure("pckh_0_1", "PCKh@0.1")
_OF_OKS = {
  name: Measure(name.lower(), name, phrase=name)
  for kind in ("AP", "AR")
  for name in (kind, f"{kind}50", f"{kind}75", f"{kind}M", f"{kind}L")
}
MEASURES = (PCKH, PCK, *_GROUPS, _STRICT, *_OF_OKS.values())
_NEAR = 0.2
# Findings of one image that are more alike than that are one figure.
_SAME = 0.9


def headline(info: DataInfo | None) -> Measure:
  """PCKh where heads are known, AP where it is COCO's, PCK otherwise."""
  if info is None or info.of_keypoints.head_boxes:
    return PCKH
  return _OF_OKS["AP"] if info.of_keypoints.official_sigmas else PCK


def of(info: DataInfo | None) -> tuple[Measure, ...]:
  """Those that are measured: of heads, MPII's joints and OKS only if known."""
  if info is None:
    return MEASURES
  known = info.of_keypoints
  lacking: list[Measure] = [] if known.sigmas else [*_OF_OKS.values()]
  if not known.head_boxes:
    lacking += [PCKH, _STRICT]
  if not (known.head_boxes and known.mpii):
    lacking += _GROUPS
  return tuple(measure for measure in MEASURES if measure not in lacking)


def measured(
  rows: Mapping[str, np.ndarray], known: KeypointInfo
) -> dict[str, float]:
  """Figures by name, as fractions, of the examples of a split.

  Args:
    rows: of N figures, in pixels of their pictures: `points` and `truth`
      [N, J, 2], `peak` and `visible` [N, J], `head`, `torso`, `area`,
      `crop_area`, `image_id` and `score` [N], `box` [N, 4], `beside` [N, K, 6].
    known: about the joints.
  """
  points, truth = rows["points"].astype(float), rows["truth"].astype(float)
  labelled = rows["visible"] > 0
  result = {}
  if known.head_boxes:
    arguments = points, truth, labelled, rows["head"].astype(float)
    left_out = metrics.MPII_LEFT_OUT if known.mpii else ()
    share = metrics.pck(*arguments, 0.5, left_out)
    result[PCKH.name] = share.mean
    strict = metrics.pck(*arguments, 0.1, left_out)
    result[_STRICT.name] = strict.mean
    if known.mpii:
      groups = metrics.mpii_groups(share.per_joint)
      for measure, value in zip(_GROUPS, groups.values(), strict=True):
        result[measure.name] = value
  torso = rows["torso"].astype(float)
  result[PCK.name] = metrics.pck(points, truth, labelled, torso, _NEAR).mean
  fractions = {name: value / 100 for name, value in result.items()}
  if not known.sigmas:
    return fractions
  return fractions | _by_oks(rows, np.array(known.sigmas))


def _by_oks(
  rows: Mapping[str, np.ndarray], sigmas: np.ndarray
) -> dict[str, float]:
  visible = rows["visible"]
  annotated = np.flatnonzero(np.any(visible > 0, axis=1))
  asked = np.flatnonzero(~np.isnan(rows["score"]))
  if not rows["peak"][asked].any():
    # What is made of annotations says nothing where a detector has looked.
    asked = annotated
  tables = {
    "truth": np.concatenate([rows["truth"], visible[..., None]], axis=-1),
    "points": np.concatenate([rows["points"], rows["peak"][..., None]], -1),
  }
  box_scores = np.where(np.isnan(rows["score"]), 1, rows["score"])
  scores = metrics.rescore(rows["peak"], box_scores)
  annotations = [
    {
      "image_id": int(rows["image_id"][i]),
      "bbox": rows["box"][i],
      "area": float(rows["area"][i]),
      "num_keypoints": int(np.sum(visible[i] > 0)),
      "keypoints": tables["truth"][i],
    }
    for i in annotated
  ]
  annotations += beside.records(rows["beside"], rows["image_id"], len(sigmas))
  detections = [
    {
      "image_id": int(rows["image_id"][i]),
      "keypoints": tables["points"][i],
      "score": float(scores[i]),
    }
    for i in _apart(rows, asked, scores, sigmas)
  ]
  found = keypoint_oks.oks_figures(annotations, detections, sigmas)
  # Without a figure of that size there is no such value.
  return {
    _OF_OKS[name].name: value for name, value in found.items() if value >= 0
  }


def _apart(
  rows: Mapping[str, np.ndarray],
  asked: np.ndarray,
  scores: np.ndarray,
  sigmas: np.ndarray,
) -> list[int]:
  """Of figures found almost at one place of an image, the one of best score."""
  kept = []
  images = rows["image_id"][asked]
  for image in np.unique(images):
    there = asked[images == image]
    arguments = rows["points"][there], scores[there], rows["crop_area"][there]
    kept += there[metrics.suppress(*arguments, _SAME, sigmas)].tolist()
  return sorted(kept)
