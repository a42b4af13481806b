"""Data sets of keypoints as people and publishers write them, for tests."""

import json

import numpy as np
from PIL import Image

NAMES = ["nose", "left_hip", "right_shoulder", "left_eye", "right_eye"]


def content(count=6, size=(40, 30)):
  """A file of `count` pictures with one figure each, as COCO writes it."""
  keypoints = [20, 10, 2, 15, 20, 2, 25, 12, 1, 0, 0, 0, 22, 9, 2]
  return {
    "images": [
      {
        "id": 7 * i,
        "file_name": f"{i}.png",
        "width": size[0],
        "height": size[1],
      }
      for i in range(1, count + 1)
    ],
    "annotations": [
      {
        "id": i,
        "image_id": 7 * i,
        "category_id": 1,
        "bbox": [10, 5, 20, 20],
        "area": 200,
        "keypoints": list(keypoints),
      }
      for i in range(1, count + 1)
    ],
    "categories": [
      {"id": 1, "name": "x", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
    ],
  }


def write(folder, said, size=(40, 30), name="all.json"):
  (folder / "images").mkdir(parents=True, exist_ok=True)
  (folder / "annotations").mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  for image in said["images"]:
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / image["file_name"])
  path = folder / "annotations" / name
  path.write_text(json.dumps(said))
  return folder


def write_coco2017(folder):
  """Writes a folder as COCO's publisher has it."""
  said = content(2)
  said["annotations"] += [
    said["annotations"][0] | {"id": 30, "iscrowd": 1},
    said["annotations"][0] | {"id": 31, "keypoints": [0] * 15},
    said["annotations"][0] | {"id": 32, "bbox": [-5, 2, 30, 40]},
    said["annotations"][0] | {"id": 33, "area": 0},
  ]
  names = [f"joint{i}" for i in range(17)]
  for entry in said["annotations"]:
    entry["keypoints"] = entry["keypoints"][:3] * 17
  said["categories"][0] |= {"keypoints": names}
  for split in ("train2017", "val2017"):
    pictures = folder / "images" / split
    pictures.mkdir(parents=True)
    for image in said["images"]:
      Image.new("RGB", (40, 30)).save(pictures / image["file_name"])
    place = folder / "annotations"
    place.mkdir(exist_ok=True)
    path = place / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(said))


def write_mpii(folder):
  """Writes what MPII's publisher has but for heads; joints, who lacks some."""
  (folder / "images").mkdir()
  (folder / "annot").mkdir()
  Image.new("RGB", (60, 50)).save(folder / "images" / "a.jpg")
  joints = np.arange(32.0).reshape(16, 2) + 1
  person = {
    "image": "a.jpg",
    "center": [30.0, 20.0],
    "scale": 0.2,
    "joints": joints.tolist(),
    "joints_vis": [0] + [1] * 15,
  }
  for name in ("train", "valid"):
    text = json.dumps([person, person])
    (folder / "annot" / f"{name}.json").write_text(text)
  missing = np.zeros((16, 2), np.uint8)
  missing[3, 1] = 1
  return joints, missing


def heads(joints, missing):
  """What is in `gt_valid.mat`."""
  return {
    "jnt_missing": missing,
    "pos_gt_src": np.stack([joints + 5] * 2, -1),
    "headboxes_src": np.ones((2, 2, 2)) * [[[1]], [[4]]],
  }
