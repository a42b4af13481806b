"""Every mode and format is read alike, wherever pictures are read."""

import io
import itertools
import zlib

import jax
import numpy as np
import pictures
from PIL import Image
import pytest

from okd_jax import data
from okd_jax.data import crops, headers, images, picture, png
from okd_jax.data.formats import folder
from okd_jax.errors import DataError

SIDE = 16
EVERY = list(pictures.every())
NAMES = [name for name, *_ in EVERY]


def resized(rgb, size):
  """Pillow's resizing to (width, height), as float [H, W, 3]."""
  image = Image.fromarray(np.round(rgb).astype(np.uint8))
  return np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(float)


def center(rgb, side):
  """Resize and CenterCrop of torchvision."""
  height, width = rgb.shape[:2]
  short = round(side * 256 / 224)
  shorter = min(height, width)
  high, wide = short * height // shorter, short * width // shorter
  top, left = round((high - side) / 2), round((wide - side) / 2)
  return resized(rgb, (wide, high))[top : top + side, left : left + side]


def off_by(found, expected):
  assert found.shape == expected.shape
  return np.abs(np.asarray(found).astype(float) - expected).max()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """All of them in one class, and some of them in another."""
  root = tmp_path_factory.mktemp("kinds")
  for split in ("train", "test"):
    for name, content, _ in EVERY:
      path = root / split / "all" / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    (root / split / "few").mkdir()
    (root / split / "few" / "a.png").write_bytes(EVERY[4][1])
  return root


def make(root, source, **config):
  about = {"name": f"folder:{root}", "source": source, "image_size": SIDE}
  return data.make(about | config, batch_size=4, eval_batch_size=8, seed=0)


@pytest.mark.parametrize(
  ("content", "expected"), [case[1:] for case in EVERY], ids=NAMES
)
def test_a_reading_is_pillows(content, expected):
  assert off_by(images.decode(content), expected) <= 1


def test_both_decoders_are_at_work():
  fast = {name for name, content, _ in EVERY if headers.is_plain(content)}
  assert fast == {
    *("L.png", "RGB.png", "L.jpg", "RGB.jpg", "YCbCr.jpg", "turned1.jpg"),
    *("sampled0.jpg", "sampled1.jpg", "sampled2.jpg"),
  }


@pytest.mark.parametrize("source", ["memory", "tfds", "stream"])
def test_every_source_sees_the_same(root, source):
  made = make(root, source)
  expect = center if made.info.resized_crop else lambda x, s: resized(x, (s, s))
  seen = [jax.device_get(batch) for batch in made.evaluation("test")]
  seen = np.concatenate([batch.image[batch.mask] for batch in seen])
  assert len(seen) == len(EVERY) + 1
  by_name = {name: rgb for name, _, rgb in EVERY}
  for image, name in zip(seen[:-1], sorted(by_name), strict=True):
    assert off_by(image, expect(by_name[name], SIDE)) <= 1, name


@pytest.mark.long
def test_training_crops_are_of_the_same_pixels():
  for i, (name, content, rgb) in enumerate(EVERY):
    seed = crops.seed_of(7, i, 0, 0)
    draws = crops.random_draws(seed)[0]
    window = crops.random_window(*rgb.shape[:2], draws).numpy()
    top, left, height, width = window
    part = rgb[top : top + height, left : left + width]
    found = crops.random_crop(crops.prepare(content), SIDE, seed, flip=False)
    assert off_by(found.numpy(), resized(part, (SIDE, SIDE))) <= 1, name


@pytest.mark.parametrize("resized_crop", [False, True])
def test_predict_sees_the_same(root, resized_crop):
  card = {"image_shape": (SIDE, SIDE, 3), "resized_crop": resized_crop}
  card["exif"] = True
  for name, _, rgb in EVERY:
    found = picture.resized(root / "test" / "all" / name, card)
    expected = center(rgb, SIDE) if resized_crop else resized(rgb, (SIDE, SIDE))
    assert off_by(found, expected) <= 1, name


def test_data_sees_the_same(root):
  report = folder.check_folder(str(root))
  assert report.damaged == {}
  wide, high = pictures.SIZE
  assert set(report.sizes) == {(wide, high), (high, wide)}


def test_runs_that_began_without_exif_go_on_so():
  content = pictures.write(pictures.colours(), "JPEG", exif=pictures.turned(6))
  as_stored = np.asarray(Image.open(io.BytesIO(content))).astype(float)
  assert off_by(images.decode(content, exif=False), as_stored) == 0
  assert headers.is_plain(content, exif=False)
  ours = crops.center_crop(crops.prepare(content, exif=False), SIDE).numpy()
  assert off_by(ours, center(as_stored, SIDE)) <= 1


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_as_stored_without_exif(orientation, compression):
  """Pillow turns them itself."""
  shorts = Image.fromarray(pictures.shorts())
  for image in (pictures.colours(), shorts):
    plain = pictures.write(image, "TIFF", compression=compression)
    turned = pictures.write(
      image,
      "TIFF",
      compression=compression,
      exif=pictures.turned(orientation),
    )
    found = images.decode(turned, exif=False)
    assert off_by(found, images.decode(plain).astype(float)) == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing():
  exif = pictures.turned(6).tobytes()[:-9]
  content = pictures.write(pictures.colours(), "JPEG", exif=exif)
  assert not headers.is_plain(content)
  without = images.decode(pictures.write(pictures.colours(), "JPEG"))
  assert off_by(images.decode(content), without) == 0


def test_what_is_no_picture_is_told_in_words():
  for content, words in ((b"", "it is empty"), (b"text", "it is no picture")):
    with pytest.raises(images.Undecodable, match=words):
      images.decode(content)


@pytest.mark.parametrize(
  ("mode", "values", "message"),
  [
    ("I", [[0, 70_000]], "from 0 to 70000"),
    ("I", [[-3, 100]], "from -3 to 100"),
    ("F", [[0.0, 0.5]], "from 0 to 0.5"),
    ("F", [[0.0, float("nan")]], "from nan to nan"),
  ],
)
def test_grey_of_unknown_range_is_refused(mode, values, message):
  image = Image.fromarray(
    np.array(values, np.int32 if mode == "I" else np.float32)
  )
  with pytest.raises(images.Undecodable, match=f"{message}.*8 or 16 bits"):
    images.decode(pictures.write(image, "TIFF"))


@pytest.fixture
def limit(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
  return lambda n: monkeypatch.setenv("OKD_JAX_MAX_PIXELS", str(n))


@pytest.mark.parametrize("name", ["RGB.png", "RGB.jpg", "P.gif"])
def test_very_large_pictures_are_refused_with_the_limit(limit, name):
  (content,) = (content for n, content, _ in EVERY if n == name)
  limit(200)
  assert not headers.is_plain(content)
  with pytest.raises(
    images.Undecodable, match="more pixels than 200,.*OKD_JAX_MAX_PIXELS"
  ):
    images.decode(content)
  limit(10_000)
  assert images.decode(content).shape == (20, 26, 3)
  limit("many")
  with pytest.raises(images.Undecodable, match="'many' must be a number"):
    images.decode(content)


@pytest.mark.parametrize("wrong", pictures.damaged())
def test_both_decoders_refuse_the_same(wrong):
  content = pictures.damaged()[wrong]
  try:
    expected = images.decode(content)
  except images.Undecodable:
    expected = None
  taken = set()
  for number in range(8):
    seed = crops.seed_of(number, 0, 0, 0)
    try:
      file = crops.prepare(content)
      crops.random_crop(file, SIDE, seed, flip=False)
      found = crops.center_crop(file, SIDE).numpy()
    # TensorFlow's errors have no common base below Exception.
    except Exception:
      taken.add(False)
    else:
      taken.add(True)
      assert off_by(found, center(expected, SIDE)) <= 1
  assert taken == {expected is not None}


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("few rows", "its pixels end after 1,422 of 1,580 bytes"),
    ("no checksum", "the checksum of its pixels is missing"),
  ],
)
def test_a_png_without_all_its_pixels_is_refused(wrong, message):
  with pytest.raises(images.Undecodable, match=message):
    images.decode(pictures.damaged()[wrong])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
  ("bits", "colour_type", "channels"),
  [(1, 0, 1), (2, 0, 1), (4, 0, 1), (8, 0, 1), (8, 2, 3), (8, 6, 4)],
)
def test_all_pixels_of_a_png_are_counted(
  bits, colour_type, channels, interlaced
):
  for width, height in itertools.product((1, 2, 5, 8, 9), repeat=2):
    values = np.full((height, width, channels), 1, np.uint8)
    rows = pictures.png_rows(values, bits, interlaced=interlaced)
    start = pictures.png_header((width, height), bits, colour_type, interlaced)

    def file(rows, start=start):
      data = pictures.chunk(b"IDAT", zlib.compress(rows))
      return start + data + pictures.chunk(b"IEND", b"")

    found = images.decode(file(rows))
    assert found.shape == (height, width, 3) and np.ptp(found) == 0
    png.require_all_pixels(file(rows))
    with pytest.raises(ValueError, match=f"of {len(rows)} bytes"):
      png.require_all_pixels(file(rows[:-1]))


@pytest.mark.parametrize("source", ["memory", "stream"])
@pytest.mark.parametrize("name", ["L.bmp", "RGB.tiff", "RGB.webp", "P.png"])
def test_damaged_files_of_every_format_are_named(tmp_path, source, name):
  (content,) = (content for n, content, _ in EVERY if n == name)
  for label in ("a", "b"):
    (tmp_path / label).mkdir()
    (tmp_path / label / f"fine_{name}").write_bytes(content)
  (tmp_path / "b" / f"bad_{name}").write_bytes(content[: len(content) // 2])
  with pytest.raises(DataError, match=f"b/bad_{name} "):
    made = make(tmp_path, source, test_fraction=0.0)
    made.batch_size = 3
    next(made.batches(0))
  assert len(folder.check_folder(str(tmp_path)).damaged) == 1
