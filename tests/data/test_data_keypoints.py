"""Data of keypoints: COCO JSON of one's own, MPII, COCO, drawn figures."""

import json
import shutil

import annotated
import numpy as np
from PIL import Image
import pytest
from scipy import io

from okd_jax import __main__, data
from okd_jax.data.formats import tfds
from okd_jax.data.keypoints import (
  coco,
  description,
  found,
  mpii,
  own,
  pictures,
  stickfolk,
)
from okd_jax.errors import ConfigError, DataError

ASPECT = 1.0


def config(folder, **changes):
  return {
    "name": f"keypoints:{folder}",
    "image_size": 16,
    "test_fraction": 0.5,
  } | changes


def make(folder, **changes):
  return data.make(
    config(folder, **changes), batch_size=2, eval_batch_size=2, seed=0
  )


@pytest.mark.parametrize("source", ["memory", "stream"])
def test_own_data_are_read_and_divided_by_picture(tmp_path, source):
  said = annotated.content()
  # Two figures in one picture never come apart.
  said["annotations"].append(said["annotations"][0] | {"id": 99})
  made = make(annotated.write(tmp_path, said), source=source)
  info = made.info
  assert (info.num_train + info.num_test, info.num_classes) == (7, 5)
  assert info.class_names == tuple(annotated.NAMES) and info.task == "keypoints"
  known = info.of_keypoints
  assert known.pairs == ((3, 4),) and known.torso == (1, 2)
  assert known.bones == ((0, 1), (0, 2)) and set(known.sigmas) == {
    description.SIGMA
  }
  assert any("not that of COCO" in note for note in made.notes)
  batches = list(made.evaluation("test"))
  batch = batches[0]
  across, down = known.margin
  assert batch.image.shape == (2, 16 + 2 * down, 16 + 2 * across, 3)
  # The box, padded by a tenth and by a quarter, is the crop.
  joints = batch.target
  np.testing.assert_allclose(joints.scale, 24 * 1.25 / 200, rtol=1e-6)
  zoom = 16 / 30
  np.testing.assert_allclose(
    joints.points[0, 0], [8, (10 - 15) * zoom + 8], rtol=1e-5
  )
  np.testing.assert_array_equal(joints.visible[0], [2, 2, 1, 0, 2])
  np.testing.assert_allclose(joints.torso, np.hypot(10, 8), rtol=1e-6)
  assert np.isnan(joints.head).all()


@pytest.mark.parametrize("source", ["memory", "stream"])
def test_figures_of_one_picture_are_validated_together(tmp_path, source):
  said = annotated.content(10)
  # Three figures a picture, those of one picture far apart in the file.
  first = said["annotations"]
  said["annotations"] = [
    figure | {"id": figure["id"] + 100 * k}
    for k in range(3)
    for figure in first
  ]
  folder = annotated.write(tmp_path, said)
  # The pictures of a second file are others, whatever their numbers.
  annotated.write(folder, annotated.content(2), name="test.json")
  (folder / "annotations" / "all.json").rename(
    folder / "annotations" / "train.json"
  )
  made = make(folder, source=source, validation=0.3)
  pictures_of = {
    split: {
      int(i)
      for batch in made.evaluation(split)
      for i in np.asarray(batch.target.image_id)[np.asarray(batch.mask)]
    }
    for split in ("train", "validation")
  }
  sizes = {split: len(made.positions[split]) for split in pictures_of}
  assert sizes == {"train": 21, "validation": 9}
  assert len(pictures_of["validation"]) == 3
  assert not pictures_of["train"] & pictures_of["validation"]


def test_moved_data_are_found_again(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  annotated.write(tmp_path / "b", annotated.content())
  for name, place in (("~/b", ""), ("/nowhere/at/all", "~/b")):
    made = make(name, dir=place)
    assert made.info.num_train and made.info.name == f"keypoints:{name}"


def test_sources_agree(tmp_path):
  folder = annotated.write(tmp_path, annotated.content())
  one, other = (make(folder, source=s) for s in ("memory", "stream"))
  for a, b, _ in zip(one.batches(1), other.batches(1), range(4), strict=False):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.target.points, b.target.points)
    np.testing.assert_array_equal(a.index, b.index)


def test_too_many_figures_for_memory_are_for_a_stream(tmp_path, monkeypatch):
  folder = annotated.write(tmp_path, annotated.content(2))
  monkeypatch.setattr(tfds, "MAX_BYTES", 1000)
  with pytest.raises(DataError, match=r"config\.data\.source=stream"):
    make(folder)
  assert make(folder, source="stream").info.num_train


def test_cvat(tmp_path):
  """Tight boxes without area or outline, single points, empty tracks."""
  said = annotated.content()
  for entry in said["annotations"]:
    entry |= {
      "bbox": [15, 9, 10, 11],
      "area": 0,
      "segmentation": [],
      "iscrowd": 0,
      "attributes": {"occluded": False},
    }
  point = [20, 10, 2] + [0, 0, 0] * 4
  empty = {"bbox": [0, 0, 0, 0], "area": 0}
  said["annotations"] += [
    {"id": 50, "image_id": 7, "keypoints": point, "bbox": [20, 10, 0, 0]},
    {"id": 51, "image_id": 7, "keypoints": [], **empty},
    {"id": 52, "image_id": 7, "keypoints": [0] * 15, **empty},
  ]
  made = make(
    annotated.write(tmp_path, said, name="person_keypoints_default.json"),
    test_fraction=0.0,
  )
  assert made.info.num_train == 6
  text = " ".join(made.notes)
  for note in ("2 annotations without", "1 figures with one", "6 figures have"):
    assert note in text
  batch = next(made.batches(0))
  box = np.asarray(batch.target.box)[0]
  # As annotated; padding is for the crop alone.
  np.testing.assert_allclose(box, [15, 9, 10, 11], rtol=1e-6)
  np.testing.assert_allclose(batch.target.area, 0.53 * 10 * 11, rtol=1e-6)
  np.testing.assert_allclose(batch.target.scale, 13.2 * 1.25 / 200, rtol=1e-6)


def test_figures_that_are_lines_have_an_area(tmp_path):
  said = annotated.content(2)
  for entry in said["annotations"]:
    entry |= {
      "bbox": [10, 15, 20, 0],
      "area": 0,
      "keypoints": [10, 15, 2, 30, 15, 2] + [0] * 9,
    }
  made = make(annotated.write(tmp_path, said), test_fraction=0.0)
  target = next(made.batches(0)).target
  np.testing.assert_allclose(target.area, 0.53 * 24 * 4, rtol=1e-6)
  np.testing.assert_array_equal(target.torso, 20)


def test_people_without_a_label_and_groups_are_beside_figures(tmp_path):
  """In the file's order: the first of the first figure, then of the next."""
  said = annotated.content(2)
  first = said["annotations"][0]
  said["categories"].append({"id": 2, "name": "a chair"})
  nobody = first | {"keypoints": [0] * 15}
  said["annotations"] += [
    first | {"id": 20},
    nobody | {"id": 21, "bbox": [1, 2, 3, 4], "area": 7},
    first | {"id": 22, "iscrowd": 1, "bbox": [5, 6, 7, 8], "area": 9},
    nobody | {"id": 23, "bbox": [2, 2, 10, 10], "area": -1},
    # Neither of people nor anywhere.
    nobody | {"id": 24, "category_id": 2},
    nobody | {"id": 25, "bbox": [0, 0, 0, 0]},
    {"id": 26, "image_id": 7, "keypoints": []},
  ]
  made, streamed = (
    data.make(
      config(annotated.write(tmp_path, said), test_fraction=0.0, source=source),
      batch_size=3,
      eval_batch_size=1,
      seed=0,
    )
    for source in ("memory", "stream")
  )
  assert made.info.num_train == 3
  assert any("5 annotations without a labelled" in note for note in made.notes)
  for target in (next(source.batches(0)).target for source in (made, streamed)):
    assert target.beside.shape == (3, 2, 6)
    rows = {
      tuple(one[:4]): (one[4], one[5], slot)
      for row in np.asarray(target.beside, float)
      for slot, one in enumerate(row)
      if not np.isnan(one).any()
    }
    assert rows == {
      (1, 2, 3, 4): (7, 0, 0),
      (5, 6, 7, 8): (9, 1, 0),
      (2, 2, 10, 10): (pytest.approx(53), 0, 1),
    }
    # All are in the first picture.
    there = ~np.isnan(target.beside[..., 0]).all(1)
    np.testing.assert_array_equal(target.image_id[there], [1, 1])


def test_label_studio(tmp_path):
  """No boxes, names of files with folders, more than one category."""
  said = annotated.content()
  for image in said["images"]:
    image["file_name"] = f"..\\data\\images\\{image['file_name']}"
  for entry in said["annotations"]:
    del entry["bbox"], entry["area"]
  said["categories"].append({"id": 2, "name": "a rectangle"})
  plain = annotated.content()
  folder = annotated.write(tmp_path, plain)
  (folder / "annotations" / "all.json").unlink()
  (folder / "result.json").write_text(json.dumps(said))
  made = make(folder)
  assert made.info.num_train == 3
  box = np.asarray(next(made.batches(0)).target.box)[0]
  np.testing.assert_allclose(box, [15, 9, 10, 11], rtol=1e-6)


def test_pictures_are_turned_as_annotators_saw_them(tmp_path):
  folder = annotated.write(tmp_path, annotated.content())
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by a quarter
  for path in (folder / "images").iterdir():
    upright = Image.open(path)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(path.with_suffix(".jpg"), exif=exif, quality=100)
    path.unlink()
  said = annotated.content()
  for image in said["images"]:
    image["file_name"] = image["file_name"].replace("png", "jpg")
  (folder / "annotations" / "all.json").write_text(json.dumps(said))
  assert make(folder).info.num_train == 3
  with pytest.raises(DataError, match=r"is 30 x 40, .* config.data.exif"):
    make(folder, exif=False)


def test_the_mean_pose_is_of_labelled_joints(tmp_path):
  said = annotated.content(2)
  first, second = (entry["keypoints"] for entry in said["annotations"])
  second[:2] = 26, 16
  first[3:6] = 0, 0, 0
  folder = annotated.write(tmp_path, said)
  known = make(folder, test_fraction=0.0).info.of_keypoints
  # The crop is 30 pixels around (20, 15), 16 in the crop.
  expected = (np.array([[23, 13], [15, 20]]) - [20, 15]) * 16 / 30 + 8
  np.testing.assert_allclose(known.mean_pose[:2], expected, rtol=1e-5)
  assert known.mean_pose[3] == (0, 0)


def test_description_overrides(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(), name="a.json")
  annotated.write(folder, annotated.content(), name="b.json")
  (folder / description.FILE).write_text(
    "train: annotations/a.json\ntest: annotations/b.json\nimages: images\n"
    "flip_pairs: []\nsigmas: {nose: 0.1}\nskeleton: [[nose, left_eye]]\n"
    "torso: [left_eye, right_eye]\n"
  )
  made = make(folder)
  known = made.info.of_keypoints
  assert (made.info.num_train, made.info.num_test) == (6, 6)
  assert known.pairs == () and made.info.flip
  assert known.sigmas == (0.1, *[description.SIGMA] * 4)
  assert known.bones == ((0, 3),) and known.torso == (3, 4)
  assert any("of 4 of 5 joints is 0.05" in note for note in made.notes)


def test_the_file_that_is_named_is_trained_on(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(4), name="a.json")
  annotated.write(folder, annotated.content(6), name="b.json")
  file = folder / "annotations" / "a.json"
  about = file.with_name(description.FILE)
  about.write_text("test: b.json\nimages: ../images\n")
  assert (make(file).info.num_train, make(file).info.num_test) == (4, 6)
  about.write_text("train: a.json\nimages: ../images\n")
  assert make(file, test_fraction=0.0).info.num_train == 4
  with pytest.raises(DataError, match="a.json for 'train', and the .*b.json"):
    make(file.with_name("b.json"))


@pytest.mark.parametrize("which", ["folder", "file"])
def test_files_beside_those_that_are_named_are_told(tmp_path, which):
  folder = annotated.write(tmp_path, annotated.content(4), name="a.json")
  annotated.write(folder, annotated.content(6), name="test.json")
  path = folder / "annotations" / "a.json" if which == "file" else folder
  about = folder / description.FILE
  about.write_text("train: annotations/a.json\n")
  found = own.read(str(path), ASPECT, 0.25)
  assert {s: len(f) for s, f in found.splits.items()} == {"train": 3, "test": 1}
  assert any("test.json: not used" in note for note in found.notes)
  about.write_text("train: annotations/a.json\ntest: annotations/test.json\n")
  found = own.read(str(path), ASPECT, 0.25)
  assert {s: len(f) for s, f in found.splits.items()} == {"train": 4, "test": 6}
  assert not any("not used" in note for note in found.notes)


def test_a_file_is_described_beside_its_folder(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(4), name="a.json")
  file = folder / "annotations" / "a.json"
  about = folder / description.FILE
  about.write_text("flip_pairs: []\ntrain: annotations/a.json\n")
  assert make(folder).info.of_keypoints.pairs == ()
  assert make(file).info.of_keypoints == make(folder).info.of_keypoints
  # What is beside the file comes first.
  file.with_name(description.FILE).write_text("train: a.json\n")
  assert make(file).info.of_keypoints.pairs == ((3, 4),)


def test_a_path_that_is_not_there_is_refused(tmp_path):
  """Not read from the folder above it."""
  folder = annotated.write(tmp_path, annotated.content())
  with pytest.raises(DataError, match="misspelt is not there"):
    make(folder / "misspelt")


@pytest.mark.parametrize("source", ["memory", "stream"])
def test_a_run_finds_its_annotations_and_pictures_again(tmp_path, source):
  folder = annotated.write(tmp_path / "set", annotated.content())
  (folder / description.FILE).write_text("sigmas: {nose: 0.1}")
  said = make(folder, source=source).files
  names = [json.loads(line)[0] for line in said]
  assert names == [
    description.FILE,
    "annotations/all.json",
    *(f"images/{i}.png" for i in range(1, 7)),
  ]
  moved = folder.rename(tmp_path / "moved")
  assert make(folder, source=source, dir=str(moved)).files == said
  # As long as before, and another joint.
  path = moved / "annotations" / "all.json"
  text = path.read_text()
  path.write_text(text.replace("20, 10, 2", "20, 11, 2", 1))
  now = make(moved, source=source).files
  assert [a for a, b in zip(said, now, strict=True) if a != b] == [said[1]]


def cut_off(said):
  return json.dumps(said)[:-20]


def change(path, value):
  def damage(said):
    *way, last = path
    inner = said
    for key in way:
      inner = inner[key]
    inner[last] = value
    return json.dumps(said)

  return damage


FIRST = ("annotations", 0)
NAN, CROWD = float("nan"), {"iscrowd": 1}


@pytest.mark.parametrize(
  "damage, message",
  [
    (cut_off, "cannot be read as JSON"),
    (change((*FIRST, "keypoints"), [1, 2, 2]), "has 3 numbers; 15 were"),
    (change((*FIRST, "keypoints"), [1, 2, 3] * 5), "visibility 0, 1 or 2"),
    (change((*FIRST, "id"), 2), "id 2 twice in annotations"),
    (change(("images", 0, "id"), 14), "id 14 twice in images"),
    (change((*FIRST, "image_id"), 8), "image_id 8 is of no image"),
    (change(("images", 0, "file_name"), "no.png"), "'no.png' of image 7"),
    (change((*FIRST, "bbox"), [50, 5, 9, 9]), "lies outside the picture"),
    (change((*FIRST, "bbox"), [5, 5, -9, 9]), "x, y, width, height"),
    (change(("annotations",), []), "has no labelled joint"),
    (change(("categories",), []), "0 lists of joint names"),
    (change(("images",), {}), "has no list 'images'"),
    (change((*FIRST, "keypoints"), ["a", "b", 2] * 5), "annotation 1: a value"),
    (change((*FIRST, "keypoints"), 7), "annotation 1: a value"),
    (change((*FIRST, "bbox"), "all of it"), "annotation 1: a value"),
    (change((*FIRST, "head_box"), [1, 2]), "head_box .* x, y, width, height"),
    (change((*FIRST, "head_box"), [1, 2, 0, 0]), "head_box .* not empty"),
    (change((*FIRST, "head_box"), [1, 2, NAN, 3]), "head_box .* not empty"),
    (change((*FIRST, "area"), -4), "area -4 must be above 0"),
    (change((*FIRST, "area"), NAN), "area nan must be above 0"),
    (change((*FIRST, "category_id"), 9), "1: category_id 9 is of no category"),
    (change((*FIRST, "category_id"), [1]), r"category_id \[1\] is of no"),
    (change((*FIRST, "keypoints"), [1, 2, 1.5] * 5), "visibility 0, 1 or 2"),
    (
      change(("annotations",), [annotated.content()["annotations"][0] | CROWD]),
      "no labelled joint to learn in 1 .* 1 groups .iscrowd. are left out",
    ),
    (change((*FIRST, "area"), "large"), "annotation 1: a value"),
    (
      change((*FIRST, "iscrowd"), 2),
      "annotation 1: .*iscrowd 2 must be 0 or 1",
    ),
    (change((*FIRST, "iscrowd"), "2"), "iscrowd '2' must be 0 or 1"),
    (change((*FIRST, "iscrowd"), NAN), "iscrowd nan must be 0 or 1"),
    (change((*FIRST, "iscrowd"), "no"), "annotation 1: a value"),
    (change((*FIRST, "image_id"), "7"), "image_id '7' is of no image"),
    (change((*FIRST, "image_id"), [7]), r"image_id \[7\] is of no image"),
    (change(("images", 0, "id"), [7]), "entry of images without an 'id'"),
    (change(("images", 0, "id"), 7.0), r"whole number or a text: .* has 7\.0"),
    (change(("images", 0, "width"), None), "has width and height"),
    (change(("categories", 0, "skeleton"), [[1, 2, 3]]), "pairs of numbers"),
    (change(("categories", 0, "skeleton"), [["nose", 2]]), "pairs of numbers"),
    (change(("categories", 0, "skeleton"), 3), "pairs of numbers"),
    (change(("categories", 0, "keypoints"), "nose"), "a list of names"),
  ],
)
def test_damaged_annotations_are_refused(tmp_path, damage, message):
  folder = annotated.write(tmp_path, annotated.content())
  path = folder / "annotations" / "all.json"
  path.write_text(damage(annotated.content()))
  with pytest.raises(DataError, match=message) as error:
    make(folder)
  assert str(path) in str(error.value)


@pytest.mark.parametrize("official", [False, True])
def test_numbers_may_be_texts(tmp_path, official):
  said = annotated.content(2)
  said["annotations"][0] |= {
    "iscrowd": "0",
    "area": "300",
    "bbox": ["10", "5", "20", "20"],
    "keypoints": ["20", "10", "2"] * 5,
  }
  said["annotations"][1] |= {"iscrowd": "1", "area": "0"}
  path = annotated.write(tmp_path, said) / "annotations" / "all.json"
  (figure,) = coco.read(path, None, ASPECT, official=official).figures
  assert figure.area == 300
  by_picture = found.ByPicture(path)
  assert len(by_picture.of(tmp_path / "images" / "1.png")) == 1
  with pytest.raises(DataError, match="has no box"):
    by_picture.of(tmp_path / "images" / "2.png")
  said["annotations"][1] |= {"iscrowd": "0"}
  path.write_text(json.dumps(said))
  read = coco.read(path, None, ASPECT, official=official)
  # An area of 0 is one that is not known, and COCO leaves such figures out.
  assert len(read.figures) == (1 if official else 2)


def figures_of(folder):
  found = own.read(str(folder), ASPECT, 0.5)
  return found, [f for figures in found.splits.values() for f in figures]


@pytest.mark.parametrize("empty", [None, [0, 0, 0, 0], [10, 10, 0, 0]])
def test_joints_make_the_box_that_nobody_drew(tmp_path, empty):
  said = annotated.content(2)
  said["annotations"][0]["bbox"] = empty
  # Joints in a line on the border of the picture are in it.
  said["annotations"][1] |= {
    "bbox": empty,
    "keypoints": [0, 5, 2, 0, 15, 2] + [0] * 9,
  }
  folder = annotated.write(tmp_path, said)
  found, figures = figures_of(folder)
  boxes = {f.image_id: f.box for f in figures}
  np.testing.assert_allclose(boxes[1], [15, 9, 10, 11])
  np.testing.assert_allclose(boxes[2], [0, 5, 0, 10])
  assert not any("left out" in note for note in found.notes)


def test_boxes_away_from_their_joints_are_said(tmp_path):
  said = annotated.content()
  # In shares of the picture, as others write them.
  said["annotations"][0]["bbox"] = [0.25, 0.17, 0.5, 0.67]
  found, _ = figures_of(annotated.write(tmp_path, said))
  (note,) = [n for n in found.notes if "crop around their box" in n]
  assert note.startswith("all.json: 1 figures have no labelled joint")


def test_joints_outside_of_their_pictures_are_said(tmp_path):
  said = annotated.content()
  fine, _ = figures_of(annotated.write(tmp_path / "fine", said))
  assert not any("outside of their pictures" in note for note in fine.notes)
  keypoints = said["annotations"][0]["keypoints"]
  # Of a larger copy of the picture; the second is not labelled.
  keypoints[:6] = [9000, keypoints[1], 2, -9000, 1, 0]
  found, _ = figures_of(annotated.write(tmp_path / "far", said))
  (note,) = [n for n in found.notes if "outside of their pictures" in n]
  assert note.startswith("all.json: 1 labelled joints lie outside")


@pytest.mark.parametrize(
  ("names", "ids"),
  [
    (("1.png",) * 3, [1, 1, 1, 4]),
    # From Windows.
    (("s/1.png", "s\\1.png"), [1, 1, 3, 4]),
  ],
)
def test_images_of_one_file_are_one_picture(tmp_path, names, ids):
  said = annotated.content(4)
  for image, name in zip(said["images"], names, strict=False):
    image["file_name"] = name
  (tmp_path / "images" / "s").mkdir(parents=True)
  found, figures = figures_of(annotated.write(tmp_path, said))
  assert sorted(f.image_id for f in figures) == ids
  train, test = (
    {f.picture for f in found.splits[split]} for split in ("train", "test")
  )
  assert train and test and not train & test


def test_hidden_files_are_no_annotations(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(2))
  (folder / "annotations" / "._all.json").write_bytes(b"of a Mac")
  assert len(figures_of(folder)[1]) == 2


def test_one_file_is_not_taken_for_two_pictures(tmp_path):
  """Two folders had a picture of this name, and neither was kept."""
  said = annotated.content(3)
  for image, name in zip(said["images"], ("a/1.png", "b/1.png"), strict=False):
    image["file_name"] = name
  folder = annotated.write(tmp_path, annotated.content(3))
  file = folder / "annotations" / "all.json"
  file.write_text(json.dumps(said))
  with pytest.raises(DataError, match="'a/1.png' and 'b/1.png' are both found"):
    figures_of(folder)
  for inside in ("a", "b"):
    kept = folder / "images" / inside
    kept.mkdir()
    shutil.copy(folder / "images" / "2.png", kept / "1.png")
  _, figures = figures_of(folder)
  assert len({figure.picture for figure in figures}) == 3


def test_pictures_in_two_splits_and_heads_of_a_few_are_said(tmp_path):
  said = annotated.content()
  said["annotations"][0]["head_box"] = [15, 6, 8, 8]
  folder = annotated.write(tmp_path, said)
  (folder / description.FILE).write_text(
    "train: annotations/all.json\ntest: annotations/all.json"
  )
  found, _ = figures_of(folder)
  assert not found.info.head_boxes
  assert any("6 pictures of the test split are" in n for n in found.notes)
  assert any("10 of 12 figures have no head_box" in n for n in found.notes)


@pytest.mark.parametrize(
  "text, message",
  [
    ("sigmas: {nos: 0.1}", "'nos', .* did you mean 'nose'"),
    ("flip_pairs: [[nose, tail]]", "names the joint 'tail'"),
    ("flip_pairs: [nose]", "list of pairs"),
    ("sigmas: {nose: -1}", "above 0"),
    ("sigmas: {nose: .inf}", "finite numbers above 0"),
    ("sigmas: {nose: true}", "finite numbers above 0"),
    ("torso: [nose, nose]", "two joint names that differ"),
    ("flips: []", "did you mean 'flip_pairs'"),
    ("[1]", "must hold keys"),
    ("a: [", "cannot be read as YAML"),
    ("test: a.json", "names no file for 'train'"),
    ("train: b.json", "names b.json for 'train', which is not there"),
    ("train: 7", "'train' must be a path"),
    ("train: 0", "'train' must be a path"),
    ("torso: [nose]", "two joint names"),
    (
      "flip_pairs: [[nose, left_eye], [nose, right_eye]]",
      "every joint once at most",
    ),
  ],
)
def test_wrong_descriptions_are_refused(tmp_path, text, message):
  folder = annotated.write(tmp_path, annotated.content())
  (folder / description.FILE).write_text(text)
  with pytest.raises(DataError, match=message):
    make(folder)


def test_a_description_of_another_name_is_refused(tmp_path):
  folder = annotated.write(tmp_path, annotated.content())
  (folder / "keypoints.yml").write_text("flip_pairs: []")
  with pytest.raises(DataError, match=r"yml is not read.* keypoints\.yaml"):
    make(folder)


@pytest.mark.parametrize("last", ["test", "valid"])
def test_it_is_said_that_validation_data_are_the_tests(tmp_path, last):
  for split in ("train", last):
    annotated.write(tmp_path, annotated.content(2), name=f"{split}.json")
  found = own.read(str(tmp_path), ASPECT, 0.0)
  assert set(found.splits) == {"train", "test"}
  said = any("valid.json is the test split" in note for note in found.notes)
  assert said is (last == "valid")


def test_keys_without_a_value_say_nothing(tmp_path):
  folder = annotated.write(tmp_path, annotated.content())
  (folder / description.FILE).write_text(
    "train:\nflip_pairs:\nsigmas:\nskeleton:\ntorso:\n"
  )
  known = make(folder).info.of_keypoints
  assert known.pairs == ((3, 4),) and known.torso == (1, 2)
  assert known.bones == ((0, 1), (0, 2))


def test_joints_may_have_numbers_as_names(tmp_path):
  said = annotated.content()
  said["categories"][0] |= {
    "keypoints": ["1", "2", "3", "4", "5"],
    "skeleton": [[1.0, 2.0]],
  }
  folder = annotated.write(tmp_path, said)
  (folder / description.FILE).write_text(
    "flip_pairs: [[4, 5]]\nsigmas: {1: 0.1}\ntorso: [2, 3]"
  )
  known = make(folder).info.of_keypoints
  assert known.pairs == ((3, 4),) and known.torso == (1, 2)
  assert known.sigmas[0] == 0.1
  assert str(known.bones) == "((0, 1),)"


def test_a_fraction_of_no_picture_is_refused(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(2))
  with pytest.raises(ConfigError, match="test_fraction=0.2 of 2 .* to 0.5 or"):
    make(folder, test_fraction=0.2)
  assert make(folder, test_fraction=0.5).info.num_test == 1
  assert make(folder, test_fraction=0.0).info.num_test == 0


def test_a_picture_must_be_left_to_train_on(tmp_path):
  folder = annotated.write(tmp_path, annotated.content(2))
  with pytest.raises(ConfigError, match=r"test_fraction=0\.9 leaves none of 2"):
    make(folder, test_fraction=0.9)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"image_size": 18}, "multiple of 4"),
    ({"source": "tfds"}, "'memory' or 'stream'"),
    ({"keypoints": {"width": 6}}, "keypoints.width=6"),
    ({"keypoints": {"boxes": "a.json"}}, "must be empty for keypoints:"),
    ({"keypoints": {"sigma": 0.0}}, "keypoints.sigma=0.0"),
    (
      {"keypoints": {"widht": 8}},
      r"config\.data\.keypoints has no key 'widht'; did you mean 'width'\?",
    ),
  ],
)
def test_wrong_settings_are_refused(tmp_path, changes, message):
  with pytest.raises(ConfigError, match=message):
    make(tmp_path, **changes)


def test_the_category_is_that_of_the_file(tmp_path):
  said = annotated.content()
  said["categories"] = [
    {"id": 1, "name": "cage"},
    said["categories"][0] | {"id": 5},
  ]
  for entry in said["annotations"]:
    entry["category_id"] = 5
  made = make(annotated.write(tmp_path, said))
  assert made.info.of_keypoints.category_id == 5


@pytest.mark.parametrize(
  "names, alone",
  [
    (["left_eye", "right_eye", "left_knee", "rigth_knee"], "left_knee"),
    (["eye.L", "eye.R", "toe.R", "leg"], "toe.R"),
    (["left_eye", "right_eye", "lip"], None),
    (["left_eye", "nose"], None),
  ],
)
def test_joints_without_another_side_are_said(tmp_path, names, alone):
  _, notes = description.describe(tmp_path, tuple(names), (), {})
  said = [note for note in notes if "of one side" in note]
  assert said == [] if alone is None else said[0].startswith(f"{alone} of one")


def test_joints_with_a_side_beside_pairs_of_ones_own_are_said(tmp_path):
  names = ("left_eye", "right_eye", "left_ear", "right_ear", "nose")
  _, notes = description.describe(
    tmp_path, names, (), {"flip_pairs": [["left_eye", "right_eye"]]}
  )
  (said,) = [note for note in notes if "keep their names" in note]
  assert said.startswith(
    "left_ear, right_ear have a side by name and are in no"
  )


def test_pairs_that_are_none_are_shown(tmp_path):
  given = {"flip_pairs": [["a", "b", "c"]]}
  expected = r"as \[\[one, other\], ...\], not \[\['a', 'b', 'c'\]\]"
  with pytest.raises(DataError, match=expected):
    description.describe(tmp_path, ("a", "b", "c"), (), given)


@pytest.mark.parametrize(
  "names, pairs",
  [
    (["left_eye", "right_eye"], ((0, 1),)),
    (["rightEar", "leftEar", "leg"], ((1, 0),)),
    (["eye.L", "eye.R", "Lip"], ((0, 1),)),
    (["l_hip", "r_hip", "tail"], ((0, 1),)),
    (["left", "middle"], ()),
  ],
)
def test_pairs_follow_from_names(names, pairs):
  assert description.mirrored(names) == pairs


def test_the_window_is_the_crop_with_a_margin():
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (50, 60, 3), np.uint8)
  center, scale = np.array([21.3, 30.6]), 37 / 200
  window = pictures.crop(picture, center, scale, (16, 20), (3, 5))
  assert window.shape == (30, 22, 3)
  # By hand: output (x, y) shows the picture at center + step * (x - w / 2).
  step = 37 / 16
  for x, y in ((0, 0), (4, 9), (15, 17), (-1, 3)):
    u, v = center + step * (np.array([x, y]) - [8, 10])
    left, top = int(u), int(v)
    a, b = u - left, v - top
    corners = picture[top : top + 2, left : left + 2].astype(float)
    expected = np.einsum("i,j,ijc->c", [1 - b, b], [1 - a, a], corners)
    np.testing.assert_allclose(window[y + 5, x + 3], expected, atol=1.5)


def test_mpii(tmp_path):
  joints, missing = annotated.write_mpii(tmp_path)
  mat = annotated.heads(joints, missing)
  found = mpii.read(tmp_path)
  assert not found.info.head_boxes and not found.exif
  assert any("no PCKh" in note for note in found.notes)
  io.savemat(tmp_path / "annot" / "gt_valid.mat", mat)
  source = data.make(
    {"name": "mpii", "dir": str(tmp_path), "image_size": 16},
    batch_size=2,
    eval_batch_size=2,
    seed=0,
  )
  assert source.info.of_keypoints.head_boxes
  target = next(source.evaluation("test")).target
  np.testing.assert_allclose(target.center[0], [29, 22])
  np.testing.assert_allclose(target.scale[0], 0.25)
  # 0.6 of the diagonal of a box of 3 by 3.
  np.testing.assert_allclose(target.head, 0.6 * 3 * 2**0.5, rtol=1e-6)
  assert target.visible[1, 3] == 0 and target.visible[0].all()
  zoom = 16 / 50
  np.testing.assert_allclose(
    target.points[0, 2], (np.array([9, 10]) - [29, 22]) * zoom + 8, rtol=1e-5
  )
  trained = next(source.batches(0)).target
  assert trained.visible[0, 0] == 0 and np.isnan(trained.head).all()
  # Those have no PCKh to validate by.
  with pytest.raises(ConfigError, match="have no PCKh. Change it"):
    data.make(
      {"name": "mpii", "dir": str(tmp_path), "validation": 0.5},
      batch_size=1,
      eval_batch_size=1,
      seed=0,
    )
  io.savemat(
    tmp_path / "annot" / "gt_valid.mat", mat | {"jnt_missing": missing[:, :1]}
  )
  with pytest.raises(DataError, match="for 1 people, and valid.json has 2"):
    mpii.read(tmp_path)
  path = tmp_path / "annot" / "gt_valid.mat"
  io.savemat(path, mat, do_compression=True)
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  with pytest.raises(DataError, match="gt_valid.mat cannot be read as a MAT"):
    mpii.read(tmp_path)


@pytest.fixture
def coco2017(tmp_path):
  """A folder as COCO's publisher has it."""
  annotated.write_coco2017(tmp_path)
  return tmp_path


def coco_source(folder, **keypoints):
  return data.make(
    {
      "name": "coco_keypoints",
      "dir": str(folder),
      "image_size": 32,
      "keypoints": {"width": 24} | keypoints,
    },
    batch_size=1,
    eval_batch_size=5,
    seed=0,
  )


def test_coco(coco2017):
  source = coco_source(coco2017)
  assert source.info.num_test == 3 and source.info.image_shape == (32, 24, 3)
  assert source.info.of_keypoints.official_sigmas
  target = next(source.evaluation("test")).target
  # Cleaned, not padded: 10..29 and 5..24, then made 3 : 4 and a quarter larger.
  np.testing.assert_allclose(target.box[0], [10, 5, 19, 19])
  np.testing.assert_allclose(target.scale[0], 19 * 1.25 / 200, rtol=1e-6)
  np.testing.assert_allclose(target.box[2], [0, 2, 29, 27])
  # One of nobody's joints and a group; the third figure is of their picture.
  others = [[10, 5, 20, 20, 200, crowd] for crowd in (1, 0)]
  np.testing.assert_array_equal(target.beside[[0, 2], 0], others)
  assert np.isnan(target.beside[1]).all()


def test_a_box_of_one_pixel_is_empty(coco2017):
  """It had a crop of no size, and no figure had a mean pose."""
  file = coco2017 / "annotations" / "person_keypoints_train2017.json"
  said = json.loads(file.read_text())
  said["annotations"][0]["bbox"] = [10, 5, 1, 1]
  file.write_text(json.dumps(said))
  source = coco_source(coco2017)
  assert source.train_size == 2
  assert np.isfinite(source.info.of_keypoints.mean_pose).all()
  assert any("1 figures whose box is empty" in note for note in source.notes)


@pytest.mark.parametrize("name", ["train2017", "val2017"])
def test_other_joints_than_those_of_coco_are_refused(coco2017, name):
  """Their sigmas are not known, and evaluation failed."""
  file = coco2017 / "annotations" / f"person_keypoints_{name}.json"
  said = json.loads(file.read_text())
  said["categories"][0] |= {"keypoints": ["a", "b"], "skeleton": []}
  for entry in said["annotations"]:
    entry["keypoints"] = entry["keypoints"][:6]
  file.write_text(json.dumps(said))
  message = rf"{file} has 2 joints .a, b.; the 17 of COCO, .*name=keypoints:"
  with pytest.raises(DataError, match=message):
    coco_source(coco2017)


DETECTED = {"image_id": 7, "category_id": 1, "bbox": [2, 3, 9, 8], "score": 0.3}


def test_boxes_of_a_detector(coco2017):
  path = coco2017 / "COCO_val2017_detections_AP_H_56_person.json"
  cat = DETECTED | {"category_id": 17}
  path.write_text(json.dumps([DETECTED, cat, DETECTED | {"image_id": 14}]))
  source = coco_source(coco2017, boxes=str(path))
  assert source.info.num_test == 5 and source.train_size == 3
  (batch,) = source.evaluation("test")
  target = batch.target
  np.testing.assert_allclose(target.score, [*[np.nan] * 3, 0.3, 0.3])
  np.testing.assert_array_equal(target.image_id[3:], [1, 2])
  assert not np.any(target.visible[3:])
  # Neither cleaned nor padded: 9 by 8 is made 3 : 4 and a quarter larger.
  np.testing.assert_allclose(target.center[3], [6.5, 7])
  np.testing.assert_allclose(target.scale[3], 9 * 1.25 / 200, rtol=1e-6)
  assert target.beside.shape == (5, 1, 6)


def test_a_detector_finds_people_without_a_label(coco2017):
  """In a picture where nobody has one, they are beside what it found."""
  file = coco2017 / "annotations" / "person_keypoints_val2017.json"
  said = json.loads(file.read_text())
  said["annotations"][1]["keypoints"] = [0] * 51
  file.write_text(json.dumps(said))
  path = coco2017 / "found.json"
  path.write_text(json.dumps([DETECTED, DETECTED | {"image_id": 14}]))
  (batch,) = coco_source(coco2017, boxes=str(path)).evaluation("test")
  target = batch.target
  np.testing.assert_array_equal(target.image_id[batch.mask], [1, 1, 1, 2])
  np.testing.assert_array_equal(target.beside[3], [[10, 5, 20, 20, 200, 0]])


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ([DETECTED | {"image_id": 99}], "box in image 99, which is not in"),
    ([DETECTED | {"bbox": [1, 2, 3]}], "entry 0 of its boxes"),
    ({"annotations": []}, "must hold what a detector found"),
    # AP would be of the annotators' boxes.
    ([DETECTED | {"category_id": 0}], "no box of a person among 1"),
    ([], "no box of a person among 0"),
  ],
)
def test_damaged_boxes_of_a_detector_are_refused(coco2017, content, message):
  path = coco2017 / "found.json"
  path.write_text(json.dumps(content))
  with pytest.raises(DataError, match=rf"found\.json.* {message}"):
    coco_source(coco2017, boxes=str(path))


def test_drawn_figures_are_written_as_coco(tmp_path, monkeypatch):
  monkeypatch.setattr(stickfolk, "COUNTS", {"train": 6, "test": 4})
  source = data.make(
    {"name": "stickfolk/normal", "dir": str(tmp_path), "image_size": 32},
    batch_size=2,
    eval_batch_size=4,
    seed=0,
  )
  info = source.info
  assert info.num_train == 6 and info.of_keypoints.head_boxes
  assert info.of_keypoints.mpii and info.class_names == mpii.NAMES
  target = next(source.evaluation("test")).target
  # Heads have about five pixels.
  assert (np.asarray(target.head) > 2).all()
  assert (np.asarray(target.head) < 9).all()
  again = stickfolk.prepare(tmp_path, "normal")
  assert len(list((again / "images").iterdir())) == 10


def test_two_runs_may_draw_at_the_same_time(tmp_path, monkeypatch):
  monkeypatch.setattr(stickfolk, "COUNTS", {"train": 2, "test": 1})
  whole, begun = stickfolk.write, []

  def write(*args):
    if not begun:
      begun.append(args)
      # Another run draws all of it meanwhile.
      stickfolk.prepare(tmp_path, "easy")
    whole(*args)

  monkeypatch.setattr(stickfolk, "write", write)
  place = stickfolk.prepare(tmp_path, "easy")
  assert len(list((place / "images").iterdir())) == 3
  assert [path.name for path in place.parent.iterdir()] == ["easy"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "stickfolk").write_text("a file")
  with pytest.raises(DataError, match="set config.data.dir to a folder"):
    stickfolk.prepare(tmp_path, "easy")


def test_a_drawn_figure_is_where_its_joints_are():
  rng = np.random.default_rng(5)
  for level in stickfolk.LEVELS:
    drawn = [stickfolk.sample(rng, level=level) for _ in range(30)]
    for figure in drawn:
      assert figure.image.shape == (96, 96, 3)
      seen = figure.joints[figure.visible > 0]
      x, y, width, height = figure.box
      assert (seen >= [x, y]).all() and (seen <= [x + width, y + height]).all()
      top = figure.joints[mpii.NAMES.index("head_top")]
      x, y, width, height = figure.head_box
      assert x - 1 <= top[0] <= x + width + 1 and abs(top[1] - y) < height
    left = mpii.NAMES.index("left_hip"), mpii.NAMES.index("right_hip")
    # Their own left is on our right, unless they turn their back on us.
    sides = [f.joints[left[0], 0] > f.joints[left[1], 0] for f in drawn]
    assert all(sides) if level == "easy" else not all(sides)


def test_the_command_counts_a_split_without_pictures(tmp_path, capsys):
  said = annotated.content()
  for annotation in said["annotations"]:
    annotation["image_id"] = said["images"][0]["id"]
  folder = annotated.write(tmp_path, said)
  command = ["data", f"keypoints:{folder}"]
  with pytest.raises(SystemExit):
    __main__.main(command)
  assert "0.2 of 1 pictures is none; add some" in capsys.readouterr().err
  command.append("--config.data.test_fraction=0")
  __main__.main(command)
  assert "nose" in capsys.readouterr().out
  __main__.main([*command, "--json"])
  splits = json.loads(capsys.readouterr().out)["splits"]
  assert {split["figures"] for split in splits.values()} == {0, 6}
  assert {split["joints"]["nose"] for split in splits.values()} == {0, 6}


@pytest.mark.parametrize(
  ("flip", "said"),
  [("true", "left_eye - right_eye"), ("false", "never")],
)
def test_the_command_says_what_is_mirrored(tmp_path, capsys, flip, said):
  folder = annotated.write(tmp_path, annotated.content())
  command = ["data", f"keypoints:{folder}", f"--config.data.flip={flip}"]
  __main__.main(command)
  assert f"mirrored  {said}" in capsys.readouterr().out
  __main__.main([*command, "--json"])
  assert json.loads(capsys.readouterr().out)["flip"] is (flip == "true")


def test_the_command_counts_what_is_validated(tmp_path, capsys):
  folder = annotated.write(tmp_path, annotated.content(10))
  command = ["data", f"keypoints:{folder}", "--config.data.validation=0.25"]
  __main__.main(command)
  said = capsys.readouterr().out
  assert "6 for train, 2 for validation, 2 for test" in said
  __main__.main([*command, "--json"])
  used = json.loads(capsys.readouterr().out)["used"]
  assert used == {"train": 6, "validation": 2, "test": 2}


@pytest.mark.parametrize(
  ("key", "message"),
  [
    ("data.validation=0.25", "has a validation split of its own"),
    ("augment.mixup=0.2", "which config.augment"),
    ("augment.mixup=-1", "config.augment.mixup=-1"),
  ],
)
def test_the_command_refuses_what_training_would(
  tmp_path, capsys, key, message
):
  folder = tmp_path / "set"
  for split in ("train", "val", "test"):
    annotated.write(folder, annotated.content(2), name=f"{split}.json")
  with pytest.raises(SystemExit) as left:
    __main__.main(["data", f"keypoints:{folder}", f"--config.{key}"])
  assert left.value.code == 2
  assert message in capsys.readouterr().err


def test_the_command_refuses_too_many_figures(tmp_path, capsys, monkeypatch):
  folder = annotated.write(tmp_path, annotated.content())
  monkeypatch.setattr(tfds, "MAX_BYTES", 1000)
  command = ["data", f"keypoints:{folder}"]
  with pytest.raises(SystemExit) as left:
    __main__.main(command)
  assert left.value.code == 3
  assert "config.data.source=stream" in capsys.readouterr().err
  __main__.main([*command, "--config.data.source=stream"])


@pytest.mark.long
def test_the_command_counts_and_draws(tmp_path, capsys):
  folder = annotated.write(tmp_path / "set", annotated.content())
  sheet = tmp_path / "sheet.png"
  command = ["data", f"keypoints:{folder}", f"--show={sheet}"]
  __main__.main([*command, "--json", "--config.data.image_size=32"])
  said = json.loads(capsys.readouterr().out)
  train = said["splits"]["train"]
  assert train["figures"] == 5 and train["joints"]["nose"] == 5
  assert train["joints"]["left_eye"] == 0
  with Image.open(sheet) as drawn:
    assert drawn.size == (8 * 128, 128)
  shape = ["--config.data.image_size=32", "--config.data.keypoints.width=16"]
  still = [f"--config.data.keypoints.{key}=0" for key in ("scale", "rotation")]
  drawn = []
  for flags in (shape, [*shape, *still]):
    __main__.main([*command, *flags])
    with Image.open(sheet) as picture:
      assert picture.size == (8 * 64, 128)
      drawn.append(picture.tobytes())
  assert drawn[0] != drawn[1]
  (folder / "images" / "1.png").write_bytes(b"no picture")
  with pytest.raises(SystemExit) as left:
    __main__.main([*command, "--config.data.image_size=32"])
  assert left.value.code == 3
