"""The list of networks."""

import json

import pytest

from okd_jax import __main__, backbones
from okd_jax.errors import ConfigError


def test_networks_are_listed_with_published_counts(capsys):
  __main__.main(["nets", "resnet32", "resnet50", "--classes=10", "--json"])
  small, large = json.loads(capsys.readouterr().out)
  assert small["network"] == "resnet32"
  assert small["parameters"] == 466_906 and small["input"] == [32, 32, 3]
  assert (small["split"], small["stages"]) == (2, 3)
  # He et al.: 25.56 million with 1,000 classes, 2,048 features each.
  assert large["parameters"] == 25_557_032 - 990 * 2049
  assert large["input"] == [224, 224, 3]
  # Radosavovic et al., table 5: 11.1 million activations.
  assert abs(large["activations"] / 1e6 - 11.1) < 0.1


def test_the_table_says_what_branches_share(capsys):
  __main__.main(["nets", "vgg8"])
  said = " ".join(capsys.readouterr().out.split())
  assert "vgg8" in said and "4 of 5 stages" in said


def test_unknown_networks_are_refused(capsys):
  with pytest.raises(SystemExit) as left:
    __main__.main(["nets", "resnet33"])
  assert left.value.code == ConfigError.exit_code
  assert "did you mean" in capsys.readouterr().err


def test_every_network_has_an_input_that_it_takes():
  for name in backbones.names():
    assert len(backbones.make(name, 10).image_shape) == 3


@pytest.mark.parametrize(
  ("name", "size"), [("mobilenet_v2_10", 224), ("mobilenet_v2_05", 32)]
)
def test_mobilenets_are_counted_at_the_size_they_are_for(name, size):
  assert backbones.make(name, 10).image_shape == (size, size, 3)
