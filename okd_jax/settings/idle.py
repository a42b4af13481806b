"""Settings that change nothing beside others, which users would not notice."""

from collections.abc import Iterator

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


def _value(config: RunConfig, key: str) -> object:
  section, name = key.split(".")
  value: object = getattr(getattr(config, section), name)
  return value
