"""Which data set to train on, and its checks, before anything is read."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from okd_jax import rules
from okd_jax.data.info import KNOWN
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.errors import closest, ConfigError

FOLDER = "folder:"
KEYPOINTS = "keypoints:"
# Data sets of keypoints by name.
OF_KEYPOINTS = ("stickfolk/easy", "stickfolk/normal", "mpii", "coco_keypoints")

_PER_CLASS = rules.Rule(
  lambda v: v == 0 or 2 <= v < 2**31, "0 or at least 2", (-1, 1, 2**31)
)


@dataclasses.dataclass(frozen=True)
class Keypoints:
  """How figures with joints are cropped; only for data of keypoints.

  Attributes:
    width: width of the crops; 0 makes it equal to their height,
      config.data.image_size.
    scale: standard deviation of the random zoom around 1, clipped at one
      deviation.
    rotation: standard deviation of the random angle in degrees, clipped at two
      deviations.
    sigma: standard deviation of the Gaussian around a joint, in pixels of a
      heat map.
    boxes: a file of the boxes that a detector found in the test pictures of
      coco_keypoints, for AP; "" takes the annotated boxes.
  """

  width: int = rules.between(0, 0, 2**31, added=True)
  scale: float = rules.between(KeypointInfo.scale, 0, 1, added=True)
  rotation: float = rules.between(KeypointInfo.rotation, 0, 181, added=True)
  sigma: float = rules.positive(KeypointInfo.sigma, added=True)
  boxes: str = rules.text("", "a file, or empty", added=True)


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train on.

  Attributes:
    name: digits, fashion_mnist, cifar10, cifar100, any image-classification
      name of TensorFlow Datasets (`name` or `name/config`), or "folder:PATH";
      for keypoints stickfolk/easy, stickfolk/normal, mpii, coco_keypoints or
      "keypoints:PATH".
    source: where images are kept: "memory" on the device; "tfds" in host
      memory, read through `tf.data`; "stream" on disk, decoded and cropped as
      they are read, for large images.
    dir: folder of the prepared copies or of the publisher's files; "" is the
      folder of TensorFlow Datasets (TFDS_DATA_DIR, or ~/tensorflow_datasets).
      For "folder:PATH" and "keypoints:PATH" it is where the data are now, if
      they have moved from PATH. It may be in gs://BUCKET/PATH.
    train_examples: size of a fixed subset to train on, with each class in
      proportion; 0 for all examples.
    validation: fraction of the training split that is held out for validation,
      the same examples in every run.
    test_fraction: fraction that is held out for testing if the data set has no
      test split; 0 trains on everything and tests on nothing.
    per_class: number of images of each class in a training batch. The batch
      holds as many classes as fit, and each batch is drawn independently. 0
      shows every image once an epoch instead.
    image_size: size that images of varying size are resized to; with "stream"
      the size of the crops.
    download: whether a missing data set may be downloaded.
    flip: whether images may be mirrored at random. Those of data sets that are
      known to forbid it, such as characters, never are.
    exif: whether pictures are turned as their EXIF data say. A run that is
      resumed keeps its own value; earlier releases did not turn them.
    keypoints: how figures with joints are cropped.
  """

  name: str = rules.text("digits", "the name of a data set")
  source: str = rules.one_of("memory", "memory", "tfds", "stream")
  dir: str = rules.text("", "a folder, or empty", free_on_resume=True)
  train_examples: int = rules.between(0, 0, 2**31)
  validation: float = rules.between(0.0, 0, 1)
  test_fraction: float = rules.between(0.2, 0, 1)
  image_size: int = rules.between(32, 1, 2**31)
  download: bool = rules.flag(True, free_on_resume=True)
  flip: bool = rules.flag(True, added=True)
  per_class: int = rules.field(0, _PER_CLASS, added=True)
  exif: bool = rules.flag(True, free_on_resume=True)
  keypoints: Keypoints = Keypoints()

  @property
  def of_keypoints(self) -> bool:
    """Whether the data are figures with joints."""
    return self.name in OF_KEYPOINTS or self.name.startswith(KEYPOINTS)

  @property
  def task(self) -> str:
    """What the data are for, a name of `okd_jax.tasks`."""
    return "keypoints" if self.of_keypoints else "classification"


def check(config_data: Config | Mapping[str, Any]) -> Config:
  """Checks a configuration without reading data or importing TensorFlow.

  Args:
    config_data: a `Config`, or any mapping with some of its keys.

  Returns:
    The configuration, completed by defaults.

  Raises:
    ConfigError: naming the value, what was expected, and the remedy.
  """
  config = config_data
  if not isinstance(config, Config):
    given = dict(config)
    _check_keys("config.data", given, Config)
    if isinstance(joints := given.get("keypoints"), Mapping):
      _check_keys("config.data.keypoints", joints, Keypoints)
      given["keypoints"] = Keypoints(**joints)
    config = Config(**given)
  rules.check(config, "config.data")
  if config.name in (FOLDER, KEYPOINTS):
    raise ConfigError(
      f"config.data.name={config.name!r} must go on with the path of a folder."
    )
  if config.keypoints.boxes and config.name != "coco_keypoints":
    raise ConfigError(
      f"config.data.keypoints.boxes={config.keypoints.boxes!r} must be empty "
      f"for {config.name}: coco_keypoints alone is measured with the boxes of "
      "a detector; change it."
    )
  if config.name == "digits":
    if config.source != "memory":
      raise ConfigError(
        f"config.data.source={config.source!r} must be 'memory' for digits, "
        "which are part of scikit-learn; change it."
      )
  elif config.of_keypoints:
    _check_keypoints(config)
  elif config.name not in KNOWN and not config.name.startswith(FOLDER):
    _check_name(config)
  return config


def _check_keys(section: str, given: Mapping[str, Any], kind: type) -> None:
  keys = [field.name for field in dataclasses.fields(kind)]
  if unknown := sorted(set(given) - set(keys), key=str):
    raise ConfigError(
      f"{section} has no key '{unknown[0]}'{closest(unknown[0], keys)} The "
      f"keys are {', '.join(keys)}."
    )


def _check_keypoints(config: Config) -> None:
  if config.source == "tfds":
    raise ConfigError(
      f"config.data.source={config.source!r} must be 'memory' or 'stream' for "
      "keypoints; change it."
    )
  if config.per_class:
    raise ConfigError(
      f"config.data.per_class={config.per_class} must be 0 for keypoints, "
      "which have no classes; change it."
    )
  for key, value in (
    ("image_size", config.image_size),
    ("keypoints.width", config.keypoints.width),
  ):
    if value % 4:
      raise ConfigError(
        f"config.data.{key}={value} must be a multiple of 4, as heat maps are "
        "a quarter as large; change it."
      )


def _check_name(config: Config) -> None:
  # Pillow, which readers need, is not part of the base install.
  from okd_jax.data.formats import prepare, tfds as prepared

  if prepared.find(config.name, prepared.data_dir(config.dir)):
    return
  catalogue = prepare.known_names()
  base = config.name.split("/")[0]
  if base in catalogue:
    return
  names = sorted({*KNOWN, *OF_KEYPOINTS, *catalogue})
  raise ConfigError(
    f"config.data.name={config.name!r} is unknown{closest(base, names)} "
    f"{', '.join((*KNOWN, *OF_KEYPOINTS))}, folder:PATH, keypoints:PATH or a "
    "name of TensorFlow Datasets"
    f"{'' if catalogue else ' (not installed)'} was expected."
  )
