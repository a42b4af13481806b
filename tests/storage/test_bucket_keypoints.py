"""Figures in a bucket, of a real server on this machine."""

import json

import annotated
import bucket_server
import jax
import numpy as np
import pytest
from scipy import io

from okd_jax import __main__, data
from okd_jax.data.keypoints import description
from okd_jax.errors import DataError, UnreachableError
from okd_jax.storage import paths

BUCKET = "gs://okd-keypoints"


@pytest.fixture(scope="module")
def way():
  with bucket_server.serving("okd-keypoints") as way:
    yield way


@pytest.fixture(scope="module")
def places(way, tmp_path_factory):
  """Names and folders of data sets here; the same ones are in the bucket."""
  top = tmp_path_factory.mktemp("sets")
  said = annotated.content()
  # Two figures in one picture.
  said["annotations"].append(said["annotations"][0] | {"id": 99})
  folder = annotated.write(top / "own", said)
  (folder / description.FILE).write_text("sigmas: {nose: 0.1}")
  apart = annotated.write(top / "apart", annotated.content(2))
  (apart / description.FILE).write_text(
    "train: annotations/all.json\nimages: images"
  )
  (top / "coco").mkdir()
  annotated.write_coco2017(top / "coco")
  (top / "mpii").mkdir()
  heads = annotated.heads(*annotated.write_mpii(top / "mpii"))
  io.savemat(top / "mpii" / "annot" / "gt_valid.mat", heads)
  way.upload(top, f"{BUCKET}/sets")
  return {
    "own": ("keypoints:{}/own", ""),
    "file": ("keypoints:{}/own/annotations/all.json", ""),
    "apart": ("keypoints:{}/apart", ""),
    "coco": ("coco_keypoints", "{}"),
    "mpii": ("mpii", "{}/mpii"),
  }, top


def make(place, top, source, **more):
  name, folder = (text.format(top) for text in place)
  config = {"name": name, "dir": folder, "image_size": 16, "source": source}
  return data.make(config | more, batch_size=2, eval_batch_size=2, seed=0)


@pytest.mark.parametrize("source", ["memory", "stream"])
@pytest.mark.parametrize("name", ["own", "file", "apart", "coco", "mpii"])
def test_figures_are_those_of_a_disk(places, name, source):
  sets, top = places
  here = make(sets[name], top, source, test_fraction=0.5)
  there = make(sets[name], f"{BUCKET}/sets", source, test_fraction=0.5)
  assert here.info.of_keypoints == there.info.of_keypoints
  assert here.files == there.files
  pairs = [(next(here.batches(0)), next(there.batches(0)))]
  pairs += zip(here.evaluation("test"), there.evaluation("test"), strict=True)
  assert len(pairs) > 1
  for a, b in pairs:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_command_looks_at_them(places, capsys):
  capsys.readouterr()
  __main__.main(["data", f"keypoints:{BUCKET}/sets/own", "--json"])
  splits = json.loads(capsys.readouterr().out)["splits"]
  assert sum(split["figures"] for split in splits.values()) == 7


def test_a_picture_that_is_gone_or_damaged_is_named(places, way):
  _, top = places
  way.upload(top / "own", f"{BUCKET}/bad")
  place = ("keypoints:{}", "")
  paths.anywhere(f"{BUCKET}/bad/images/2.png").write_bytes(b"no picture")
  with pytest.raises(DataError, match="bad/images/2.png cannot be decoded"):
    make(place, f"{BUCKET}/bad", "memory")
  paths.anywhere(f"{BUCKET}/bad/images/3.png").unlink()
  with pytest.raises(DataError, match="'3.png' of image 21 is in none of"):
    make(place, f"{BUCKET}/bad", "memory")


@pytest.mark.slow  # the client tries for half a minute
def test_a_server_that_stays_away_is_named(places, way):
  sets, _ = places
  made = make(sets["own"], f"{BUCKET}/sets", "stream")
  way.gone = True
  try:
    with pytest.raises(UnreachableError, match="okd-keypoints/.*cannot be"):
      next(made.batches(0))
  finally:
    way.gone = False
