"""Large images, read and cropped as they go: folders and prepared copies."""

import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from configs import common
from okd_jax import data, train
from okd_jax.data import crops, images
from okd_jax.data.formats import (
  listing,
  prepare,
  tfds as prepared,
  tfrecord as records,
)
from okd_jax.data.info import DataInfo
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import DataError
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze
from okd_jax.weights import predict

# (width, height), as frequent in ImageNet; one smaller than the crop.
SIZES = ((500, 375), (375, 500), (500, 333), (640, 480), (333, 500), (80, 60))
SIZE = 64


def picture(seed, size):
  """Smooth shapes with some noise, as JPEG compresses photographs."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
  image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
  noise = rng.normal(0, 6, (size[1], size[0], 3))
  pixels = np.clip(np.asarray(image) + noise, 0, 255)
  return Image.fromarray(pixels.astype(np.uint8))


def encoded(seed, size, kind="JPEG"):
  buffer = io.BytesIO()
  picture(seed, size).save(buffer, kind)
  return buffer.getvalue()


@pytest.fixture(scope="module", autouse=True)
def tensorflow():
  prepare.import_tfds()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """train/ and val/ with JPEGs of ImageNet's typical sizes."""
  root = tmp_path_factory.mktemp("pictures")
  for split, count in (("train", 6), ("val", 2)):
    for label, name in enumerate(("cat", "dog")):
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        content = encoded(100 * label + i, SIZES[i])
        (root / split / name / f"{i}.JPEG").write_bytes(content)
  return root


def make(path, *, seed=0, mesh=None, num_views=None, **config):
  return data.make(
    {
      "name": f"folder:{path}",
      "source": "stream",
      "image_size": SIZE,
      **config,
    },
    batch_size=4,
    eval_batch_size=4,
    seed=seed,
    num_views=num_views,
    mesh=mesh,
  )


def take(source, count, first_step=0):
  batches = source.batches(first_step)
  return [jax.device_get(next(batches)) for _ in range(count)]


def test_what_is_known(pictures):
  made = make(pictures)
  assert made.info.resized_crop
  assert made.info.image_shape == (SIZE, SIZE, 3)
  assert (made.info.num_train, made.info.num_test) == (12, 4)
  assert made.info.mean == (0.485, 0.456, 0.406)
  assert made.info.class_names == ("cat", "dog")


def test_an_epoch_shows_every_image_once(pictures):
  batches = take(make(pictures), 3)
  assert sorted(np.concatenate([b.index for b in batches])) == list(range(12))
  for batch in batches:
    np.testing.assert_array_equal(batch.target, batch.index // 6)
    assert batch.image.shape == (4, SIZE, SIZE, 3)
    assert batch.image.dtype == np.uint8


def test_a_batch_is_a_function_of_seed_and_step(pictures):
  whole = take(make(pictures), 4)
  resumed = take(make(pictures), 2, first_step=2)
  jax.tree.map(np.testing.assert_array_equal, whole[2:], resumed)
  other = take(make(pictures, seed=1), 1)[0]
  assert not np.array_equal(other.image, whole[0].image)
  # The same picture is another crop in the next epoch.
  again = take(make(pictures), 6)
  shown = {}
  for batch in again:
    for row, image in zip(batch.index, batch.image, strict=True):
      shown.setdefault(int(row), []).append(image)
  assert all(not np.array_equal(*images) for images in shown.values())


@pytest.mark.long
@pytest.mark.parametrize(
  "shape", [(2, 2), pytest.param((1, 4), marks=pytest.mark.slow)]
)
def test_views_differ_and_do_not_depend_on_the_mesh(pictures, shape):
  alone = take(make(pictures, num_views=4), 1)[0]
  assert alone.image.shape == (4, 4, SIZE, SIZE, 3)
  for i in range(1, 4):
    assert not np.array_equal(alone.image[0], alone.image[i])
  # The first view is what a method without views gets.
  np.testing.assert_array_equal(
    alone.image[0], take(make(pictures), 1)[0].image
  )
  batch = next(make(pictures, num_views=4, mesh=make_mesh(*shape)).batches(0))
  assert batch.image.sharding.spec == jax.P("peer", "data")
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(batch), alone)


def as_pillow(content, size):
  """Resize and CenterCrop of torchvision, on Pillow images."""
  image = Image.open(io.BytesIO(content)).convert("RGB")
  width, height = image.size
  short = round(size * 256 / 224)
  if width <= height:
    resized = (short, int(short * height / width))
  else:
    resized = (int(short * width / height), short)
  image = image.resize(resized, Image.Resampling.BILINEAR)
  left, top = ((length - size) / 2 for length in resized)
  left, top = round(left), round(top)
  return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation_is_pillows_to_one_grey_level(kind, size):
  content = encoded(3, size, kind)
  expected = as_pillow(content, 224)
  ours = crops.center_crop(crops.prepare(content), 224).numpy().astype(int)
  # Pillow rounds between its two passes.
  assert np.abs(ours - expected).max() <= 1
  # For `predict`, which does without TensorFlow.
  np.testing.assert_array_equal(
    images.center(content, "RGB", (224, 224)), expected
  )


@pytest.mark.parametrize("size", [(2, 901), (900, 3)])
def test_only_the_middle_of_a_thin_picture_is_resized(monkeypatch, size):
  """All of one took gigabytes, 256 or so times its longer side."""
  rng = np.random.default_rng(0)
  coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
  picture = coarse.resize(size, Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  picture.save(buffer, "PNG")
  content = buffer.getvalue()
  expected = as_pillow(content, 64)
  largest = []

  def resize(image, shape, *args, **kwargs):
    largest.append(max(shape))
    return whole(image, shape, *args, **kwargs)

  whole = Image.Image.resize
  monkeypatch.setattr(Image.Image, "resize", resize)
  ours = images.center(content, "RGB", (64, 64)).astype(int)
  streamed = crops.center_crop(crops.prepare(content), 64).numpy().astype(int)
  assert np.abs(streamed - ours).max() <= 1
  # Half a pixel beside it.
  assert np.abs(ours - expected).max() <= 4
  assert largest and max(largest) <= 9 * 73


def test_evaluation_shows_every_image_once(pictures):
  batches = [jax.device_get(b) for b in make(pictures).evaluation("test")]
  labels = np.concatenate([b.target[b.mask] for b in batches])
  np.testing.assert_array_equal(labels, [0, 0, 1, 1])
  content = (pictures / "val" / "dog" / "0.JPEG").read_bytes()
  difference = batches[0].image[2].astype(int) - as_pillow(content, SIZE)
  assert np.abs(difference).max() <= 1


def draws(step):
  return crops.random_draws(crops.seed_of(0, step, 0, 0))[0]


@pytest.mark.long
def test_windows_are_of_the_right_areas_and_ratios():
  found = np.array(
    [crops.random_window(400, 400, draws(i)) for i in range(200)]
  )
  top, left, height, width = found.T
  assert (top >= 0).all() and (top + height <= 400).all()
  assert (left >= 0).all() and (left + width <= 400).all()
  ratio, area = width / height, width * height / 400**2
  # One pixel of rounding.
  assert 0.73 < ratio.min() and ratio.max() < 1.36
  assert 0.075 < area.min() and area.max() <= 1
  # Log-uniform in a square, so as often wide as high; some large ones do not
  # fit, so the mean area is below 0.54.
  assert abs(np.log(ratio).mean()) < 0.05
  assert 0.4 < area.mean() < 0.54


def test_window_of_an_image_that_nothing_fits():
  for height, width, expected in (
    (10, 1000, [0, 493, 10, 13]),
    (1000, 10, [493, 0, 13, 10]),
  ):
    found = crops.random_window(height, width, draws(0)).numpy()
    assert abs(found - expected).max() <= 1


@pytest.mark.long
def test_crops_of_a_jpeg_are_those_of_its_pixels():
  """Decoding a window alone gives what cropping the whole gives."""
  content = encoded(0, (500, 375))
  picture = crops.prepare(content)
  assert picture == content
  image = Image.open(io.BytesIO(content))
  for i in range(5):
    seed = crops.seed_of(0, i, 0, 0)
    top, left, height, width = crops.random_window(375, 500, draws(i)).numpy()
    box = (left, top, left + width, top + height)
    expected = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    ours = crops.random_crop(picture, SIZE, seed, flip=False).numpy()
    difference = np.abs(ours.astype(int) - np.asarray(expected))
    # Pillow rounds between its two passes.
    assert difference.max() <= 1
    flips = {
      np.array_equal(crops.random_crop(picture, SIZE, s, flip=True), plain)
      for s in (crops.seed_of(1, j, 0, 0) for j in range(8))
      for plain in [crops.random_crop(picture, SIZE, s, flip=False).numpy()]
    }
  assert flips == {True, False}


def write_copy(root, contents, labels, splits):
  """Writes a copy as TensorFlow Datasets does, by TensorFlow's own writer."""
  import tensorflow as tf

  root.mkdir(parents=True)
  name = root.parent.name
  for split, wanted in splits.items():
    for shard, rows in enumerate(wanted):
      file = f"{name}-{split}.tfrecord-{shard:05d}-of-{len(wanted):05d}"
      with tf.io.TFRecordWriter(str(root / file)) as writer:
        for row in rows:
          values = {
            "file_name": tf.train.BytesList(value=[b"n0.JPEG"]),
            "image": tf.train.BytesList(value=[contents[row]]),
          }
          feature = {
            key: tf.train.Feature(bytes_list=value)
            for key, value in values.items()
          }
          label = -1 if split == "test" else labels[row]
          feature["label"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
          )
          example = tf.train.Example(
            features=tf.train.Features(feature=feature)
          )
          writer.write(example.SerializeToString())
  about = {
    "name": name,
    "supervisedKeys": {
      "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}
    },
    "splits": [
      {"name": split, "shardLengths": [str(len(rows)) for rows in wanted]}
      for split, wanted in splits.items()
    ],
  }
  (root / "dataset_info.json").write_text(json.dumps(about))
  shape = {"dimensions": ["-1", "-1", "3"]}
  features = {
    "image": {"image": {"shape": shape}},
    "label": {"classLabel": {"numClasses": "2"}},
  }
  (root / "features.json").write_text(
    json.dumps({"featuresDict": {"features": features}})
  )


@pytest.fixture
def imagenet(tmp_path):
  """A copy with the splits of imagenet2012; its test split has no labels."""
  contents = [encoded(i, SIZES[i % len(SIZES)]) for i in range(10)]
  write_copy(
    tmp_path / "imagenet2012" / "5.1.0",
    contents,
    [i % 2 for i in range(10)],
    {
      "train": [range(3), range(3, 8)],
      "validation": [[8, 9]],
      "test": [[0]],
    },
  )
  return tmp_path, contents


def test_prepared_copy_is_read_image_by_image(imagenet):
  folder, contents = imagenet
  made = data.make(
    {
      "name": "imagenet2012",
      "source": "stream",
      "dir": str(folder),
      "image_size": SIZE,
    },
    batch_size=4,
    eval_batch_size=2,
    seed=0,
  )
  assert (made.info.num_train, made.info.num_test) == (8, 2)
  for batch in take(made, 2):
    np.testing.assert_array_equal(batch.target, batch.index % 2)
  (batch,) = made.evaluation("test")
  for image, content in zip(batch.image, contents[8:], strict=True):
    difference = np.asarray(image).astype(int) - as_pillow(content, SIZE)
    assert np.abs(difference).max() <= 1


def test_locating_finds_what_parsing_finds(imagenet):
  folder, _ = imagenet
  (path,) = folder.rglob("*train.tfrecord-00001*")
  content = path.read_bytes()
  expected = [
    records.parse_example(record) for record in records.split(content)
  ]
  found = [
    (content[offset : offset + length], label)
    for offset, length, label in records.locate(path, "image", "label")
  ]
  assert found == [(e["image"][0], e["label"][0]) for e in expected]


def test_damaged_copies_are_refused(imagenet):
  folder, _ = imagenet
  (path,) = folder.rglob("*train.tfrecord-00001*")
  about = prepared.inspect(path.parent)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(DataError, match="is damaged .*ends in a record"):
    listing.from_copy("imagenet2012", about, SIZE, 0.2)
  path.write_bytes(b"")
  with pytest.raises(DataError, match="holds 0 examples; 5 were"):
    listing.from_copy("imagenet2012", about, SIZE, 0.2)


def test_damaged_image_is_named(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    for i in range(4):
      (tmp_path / name / f"{i}.jpg").write_bytes(encoded(i, (80, 60)))
  path = tmp_path / "dog" / "1.jpg"
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(DataError, match="dog/1.jpg holds an image that"):
    take(make(tmp_path, test_fraction=0.25), 2)


@pytest.mark.long  # imports TensorFlow once more
def test_damage_is_told_once(tmp_path):
  """In a process of its own, as TensorFlow is told once what to print."""
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    picture(0, (8, 8)).save(tmp_path / name / "a.png")
  (tmp_path / "dog" / "b.png").write_bytes(b"none")
  program = f"""
from okd_jax import data
from okd_jax.errors import DataError
config = {{
  "name": "folder:{tmp_path}", "source": "stream", "test_fraction": 0.0
}}
source = data.make(config, batch_size=3, eval_batch_size=1, seed=0)
try:
  next(source.batches(0))
except DataError as error:
  print(error)
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "1"},  # as JAX leaves it
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert f"{tmp_path}/dog/b.png holds an image that cannot" in done.stdout
  assert "Traceback" not in done.stderr
  assert "Undecodable" not in done.stderr


def test_files_read_together_fail_each_at_its_own_place(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    for i in range(12):
      (tmp_path / name / f"{i}.jpg").write_bytes(encoded(i, (80, 60)))
  made = make(tmp_path, test_fraction=0.0)
  sound = [batch.index for batch in take(made, 6)]
  files = listing.from_folder(str(tmp_path), SIZE, 0.0).train
  path = files.path(sound[3][0])
  path.unlink()
  batches = made.batches(0)
  # A batch is handed out when the next one has been read.
  for expected in sound[:2]:
    np.testing.assert_array_equal(next(batches).index, expected)
  with pytest.raises(DataError, match=f"{path.parent.name}/{path.name} holds"):
    next(batches)


@pytest.mark.long
def test_a_group_trains_and_predicts(pictures, tmp_path):
  config = common.base()
  config.method = common.method("pcl")
  config.data.name = f"folder:{pictures}"
  config.data.source = "stream"
  config.data.image_size = SIZE
  config.peers.kind = "branches"
  config.peers.net = "toys:Toy"
  config.peers.num_peers = 2
  config.batch_size, config.eval_batch_size, config.epochs = 6, 4, 1
  config.mesh.data = 2
  workdir = tmp_path / "run"
  state, summary = train.train(freeze(config), workdir)
  assert int(state.step) == 2
  assert 0 <= summary["last"]["test/leader/accuracy"] <= 1
  image = pictures / "val" / "cat" / "0.JPEG"
  (result,) = predict.predict(workdir, [image])
  (exported,) = predict.predict(workdir / "leader", [image])
  assert {p["class"] for p in result["predictions"]} == {"cat", "dog"}
  for one, other in zip(
    result["predictions"], exported["predictions"], strict=True
  ):
    assert one["class"] == other["class"]
    np.testing.assert_allclose(
      one["probability"], other["probability"], rtol=1e-4
    )


def test_the_device_only_normalises():
  info = DataInfo(
    name="some",
    num_classes=2,
    image_shape=(2, 2, 3),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pad=0,
    flip=True,
    num_train=1,
    num_test=1,
    class_names=("a", "b"),
    resized_crop=True,
  )
  views = np.arange(48, dtype=np.uint8).reshape(2, 2, 2, 2, 3)
  got = data.augment(views, jax.random.key(0), info=info, num_views=2)
  expected = (views / 255 - np.array(info.mean)) / np.array(info.std)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.long
def test_recipe_of_imagenet_is_the_specifications():
  from configs import okddip_imagenet

  config = okddip_imagenet.get_config("resnet18,branches")
  assert (config.peers.net, config.peers.kind) == ("resnet18", "branches")
  config = okddip_imagenet.get_config()
  assert (config.peers.net, config.peers.num_peers) == ("resnet34", 4)
  assert (config.epochs, config.batch_size) == (90, 256)
  assert config.rampup_epochs == 24
  info = DataInfo(
    name="imagenet2012",
    num_classes=1000,
    image_shape=(224, 224, 3),
    mean=(0.485,) * 3,
    std=(0.229,) * 3,
    pad=0,
    flip=True,
    num_train=1_281_167,
    num_test=50_000,
    class_names=tuple(map(str, range(1000))),
    resized_crop=True,
  )
  recipe = build.setup(freeze(config), info, info.num_train, make_mesh(1))
  for epoch, rate in ((0, 0.1), (29, 0.1), (30, 0.01), (60, 1e-3), (80, 1e-4)):
    step = jax.numpy.asarray(recipe.clock.first_step(epoch))
    np.testing.assert_allclose(recipe.learning_rate(step), rate, rtol=1e-5)
  build.check_networks(recipe)
