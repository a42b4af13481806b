"""Average precision of keypoints by OKS, exactly as pycocotools has it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from okd_jax.tasks.keypoint_metrics import COCO_SIGMAS, similarity, TINY

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# Both ends belong to the range.
AREAS = {"all": (0.0, 1e10), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}
MAX_DETECTIONS = 20

Record = Mapping[str, Any]


class Matches(NamedTuple):
  """Of the detections of one image.

  Attributes:
    scores: [D].
    hit: bool [T, D], for every threshold.
    ignored: bool [T, D].
    num_truths: how many annotations count.
  """

  scores: np.ndarray
  hit: np.ndarray
  ignored: np.ndarray
  num_truths: int


def oks(
  detections: Sequence[Record],
  annotations: Sequence[Record],
  sigmas: np.ndarray = COCO_SIGMAS,
) -> np.ndarray:
  """Similarity of detections (rows) and annotations of one image, [D, G].

  An annotation without a labelled joint is compared by its box, three times
  as large: distances are zero inside.
  """
  result = np.zeros((len(detections), len(annotations)))
  for j, annotation in enumerate(annotations):
    truth = _points(annotation)
    labelled = truth[:, 2] > 0
    x, y, width, height = annotation["bbox"]
    low = np.array([x - width, y - height])
    high = np.array([x + 2 * width, y + 2 * height])
    for i, detection in enumerate(detections):
      points = _points(detection)[:, :2]
      nearest = truth[:, :2] if labelled.any() else np.clip(points, low, high)
      values = similarity(points, nearest, annotation["area"], sigmas)
      result[i, j] = (
        values[labelled].mean() if labelled.any() else values.mean()
      )
  return result


def oks_figures(
  annotations: Sequence[Record],
  detections: Sequence[Record],
  sigmas: np.ndarray = COCO_SIGMAS,
) -> dict[str, float]:
  """AP, AP50, AP75, APM, APL and the same of AR, as fractions.

  Args:
    annotations: as COCO has them: "image_id", "bbox", "area", "iscrowd",
      "num_keypoints", "keypoints" (3 J numbers).
    detections: "image_id", "keypoints" and "score".
    sigmas: of the joints, [J].

  Returns:
    The ten figures in the order of pycocotools; -1 where there is no
    annotation of such a size.
  """
  curves = {
    name: precision_and_recall(annotations, detections, sigmas, area)
    for name, area in AREAS.items()
  }
  figures = {}
  for title, which in (("AP", 0), ("AR", 1)):
    values = {name: curve[which] for name, curve in curves.items()}
    figures[title] = float(np.mean(values["all"]))
    figures[f"{title}50"] = float(np.mean(values["all"][0]))
    figures[f"{title}75"] = float(np.mean(values["all"][5]))
    for size in ("M", "L"):
      figures[f"{title}{size}"] = float(np.mean(values[size]))
  return figures


def precision_and_recall(
  annotations: Sequence[Record],
  detections: Sequence[Record],
  sigmas: np.ndarray,
  area: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
  """Precision at 101 recalls, [T, 101], and the last recall, [T]."""
  found, truths = _by_image(detections), _by_image(annotations)
  matches = [
    _match(found.get(image, []), truths.get(image, []), sigmas, area)
    for image in sorted(found.keys() | truths.keys())
  ]
  num_truths = sum(match.num_truths for match in matches)
  if not num_truths:
    return np.full((len(THRESHOLDS), 101), -1.0), np.full(len(THRESHOLDS), -1.0)
  order = np.argsort(
    -np.concatenate([match.scores for match in matches]), kind="stable"
  )
  hit = np.concatenate([match.hit for match in matches], axis=1)[:, order]
  ignored = np.concatenate([m.ignored for m in matches], axis=1)[:, order]
  true = np.cumsum(hit & ~ignored, axis=1, dtype=float)
  false = np.cumsum(~hit & ~ignored, axis=1, dtype=float)
  recall = true / num_truths
  precision = true / (true + false + TINY)
  precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
  # One more, for the recalls that are never reached.
  precision = np.pad(precision, ((0, 0), (0, 1)))
  at = [np.searchsorted(row, RECALLS, side="left") for row in recall]
  last = recall[:, -1] if recall.shape[1] else np.zeros(len(THRESHOLDS))
  return np.take_along_axis(precision, np.array(at), axis=1), last


def _by_image(records: Sequence[Record]) -> dict[Any, list[Record]]:
  """Records by their image, in the order that they have."""
  groups: dict[Any, list[Record]] = {}
  for record in records:
    groups.setdefault(record["image_id"], []).append(record)
  return groups


def _match(detections, annotations, sigmas, area) -> Matches:
  """Detections, best score first, take the best annotation that is left."""
  detections = sorted(detections, key=lambda d: -d["score"])[:MAX_DETECTIONS]
  ignore = np.array(
    [
      bool(a.get("iscrowd"))
      or not a["num_keypoints"]
      or _outside(a["area"], area)
      for a in annotations
    ],
    bool,
  )
  order = np.argsort(ignore, kind="stable")
  similar = oks(detections, annotations, sigmas)[:, order]
  ignore = ignore[order]
  crowd = np.array([bool(annotations[k].get("iscrowd")) for k in order], bool)
  shape = len(THRESHOLDS), len(detections)
  hit, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
  outside = np.array([_outside(_box_area(d), area) for d in detections], bool)
  for t, threshold in enumerate(THRESHOLDS):
    free = np.ones(len(order), bool)
    for i, row in enumerate(similar):
      best = _best(row, min(threshold, 1 - 1e-10), free | crowd, ignore)
      if best is not None:
        hit[t, i], ignored[t, i], free[best] = True, ignore[best], False
      else:
        ignored[t, i] = outside[i]
  scores = np.array([d["score"] for d in detections], float)
  return Matches(scores, hit, ignored, int(np.sum(~ignore)))


def _best(row, least, available, ignore) -> int | None:
  """The last of the most similar; an ignored one only if no other will do."""
  for kind in (~ignore, ignore):
    candidates = np.flatnonzero(available & kind & (row >= least))
    if candidates.size:
      values = row[candidates]
      return int(candidates[np.flatnonzero(values == values.max())[-1]])
  return None


def _points(record):
  return np.asarray(record["keypoints"], float).reshape(-1, 3)


def _box_area(detection):
  points = _points(detection)[:, :2]
  return np.prod(points.max(axis=0) - points.min(axis=0))


def _outside(area, limits):
  return area < limits[0] or area > limits[1]
