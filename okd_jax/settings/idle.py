"""Settings that change nothing beside others, which users would not notice."""

from collections.abc import Iterator
import dataclasses

from okd_jax.data.config import Config, Keypoints
from okd_jax.data.info import KNOWN
from okd_jax.errors import ConfigError
from okd_jax.settings.schema import RunConfig

# Which value of which setting each of these belongs to. Recipes set others,
# such as the drops of the rate, that may well not count beside what users set.
_BELONGS = {
  "augment.level": ("augment.policy", ("rand_augment",)),
  "augment.operations": ("augment.policy", ("rand_augment",)),
  "optim.beta1": ("optim.name", ("adam", "adamw", "lamb", "lion", "muon")),
  "optim.beta2": ("optim.name", ("adam", "adamw", "lamb", "lion", "muon")),
  "optim.epsilon": ("optim.name", ("adam", "adamw", "lamb", "muon")),
  "schedule.final": ("schedule.name", ("cosine", "linear")),
}


def check(config: RunConfig) -> None:
  """Refuses settings without any effect that no recipe brings along.

  Raises:
    ConfigError: if there is one.
  """
  if config.augment.mix_per_peer and not config.augment.mixes:
    raise ConfigError(
      "config.augment.mix_per_peer=True, and nothing is mixed; set "
      "config.augment.mixup or config.augment.cutmix, or leave it out."
    )
  if not config.init_from_head and not config.init_from:
    raise ConfigError(
      "config.init_from_head=False, and every classifier is drawn anew without "
      "config.init_from; set that, or leave it out."
    )


def notes(config: RunConfig) -> Iterator[str]:
  """A sentence for every setting that was changed and has no effect."""
  for key, (other, values) in _BELONGS.items():
    value, said = _value(config, key), _value(config, other)
    default = _value(RunConfig(method=config.method), key)
    if value != default and said not in values:
      yield (
        f"config.{key}={value} has no effect with config.{other}={said}; it "
        f"has one with {' or '.join(values)}."
      )
  yield from _of_data(config.data)


def _of_data(data: Config) -> Iterator[str]:
  default, said = Config(), f"has no effect with config.data.name={data.name}"
  if data.image_size != default.image_size and data.name in KNOWN:
    yield (
      f"config.data.image_size={data.image_size} {said}, whose images have one "
      "size."
    )
  if data.of_keypoints:
    return
  for field in dataclasses.fields(Keypoints):
    value = getattr(data.keypoints, field.name)
    if value != getattr(default.keypoints, field.name):
      yield (
        f"config.data.keypoints.{field.name}={value} {said}, which has no "
        "joints."
      )


def _value(config: RunConfig, key: str) -> object:
  section, name = key.split(".")
  value: object = getattr(getattr(config, section), name)
  return value
