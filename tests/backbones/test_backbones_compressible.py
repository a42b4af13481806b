"""Students of shrinking width on one trunk, as OEM has them."""

from fractions import Fraction

import layouts
import pytest

from okd_jax import backbones
from okd_jax.backbones import imagenet_resnet, resnet
from okd_jax.errors import ConfigError

IMAGE = (8, 8, 3)
COUNTS = {
  "resnet20": (272_474, 171_536, 97_018, 42_231, 10_773),
  "resnet32": (466_906, 293_560, 165_442, 71_555, 17_745),
}
LARGEST_AND_SMALLEST = {"resnet110_basic": (1_730_714, 63_063)}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_published_table(name):
  students = backbones.students(name, 10, 5, split=0)
  assert tuple(layouts.count(net, IMAGE) for net in students) == COUNTS[name]


@pytest.mark.parametrize("name", LARGEST_AND_SMALLEST)
def test_counts_of_the_deepest(name):
  students = backbones.students(name, 10, 5, split=0)
  counts = tuple(layouts.count(students[i], IMAGE) for i in (0, 4))
  assert counts == LARGEST_AND_SMALLEST[name]


@pytest.mark.parametrize(
  ("count", "widths"),
  [
    (2, [(16, 32, 64), (8, 16, 32)]),
    (3, [(16, 32, 64), (10, 21, 42), (5, 10, 21)]),
    (4, [(16, 32, 64), (12, 24, 48), (8, 16, 32), (4, 8, 16)]),
  ],
)
def test_widths(count, widths):
  students = backbones.students("resnet8", 10, count, split=0)
  assert [
    tuple(m.shape[3] for m in layouts.outputs_of(net, IMAGE).maps)
    for net in students
  ] == widths


@pytest.mark.long
def test_students_of_densenet():
  students = backbones.students("densenetbc100_12", 10, 5, split=0)
  for i, count, widths in (
    (1, 446_170, [84, 114, 258]),
    (4, 33_002, [28, 30, 62]),
  ):
    assert layouts.count(students[i], IMAGE) == count
    maps = layouts.outputs_of(students[i], IMAGE).maps
    assert [m.shape[3] for m in maps] == widths


@pytest.mark.parametrize("split", [0, 1, 2])
def test_tails_of_all_widths_fit_on_one_trunk(split):
  students = backbones.students("resnet8", 10, 5, split=split)
  trunks = [net.clone(part="trunk") for net in students]
  first = layouts.names_of(layouts.shapes_of(trunks[0], IMAGE))
  hidden = layouts.outputs_of(trunks[0], IMAGE).shape[1:]
  for trunk, net in zip(trunks, students, strict=True):
    assert layouts.names_of(layouts.shapes_of(trunk, IMAGE)) == first
    tail = layouts.shapes_of(net.clone(part="tail"), hidden)
    # What is exported is a whole network of trunk and tail.
    whole = layouts.shapes_of(net, IMAGE)
    assert layouts.names_of(whole["params"]) == layouts.names_of(
      {**layouts.shapes_of(trunk, IMAGE)["params"], **tail["params"]}
    )


def test_a_compressed_student_projects_in_its_first_block():
  first, second = (
    layouts.shapes_of(net, IMAGE)["params"]["stage1_block0"]
    for net in backbones.students("resnet8", 10, 2, split=0)
  )
  assert "proj" not in first
  assert second["proj"]["kernel"].shape == (1, 1, 16, 8)


def test_networks_of_imagenet_keep_their_trunk():
  net = imagenet_resnet.ImageNetResNet(
    5,
    blocks=(1, 1),
    widths=(16, 32),
    inner_widths=(4, 8),
    split=1,
    tail_width=Fraction(1, 2),
  )
  maps = layouts.outputs_of(net, (32, 32, 3)).maps
  assert [m.shape[3] for m in maps] == [16, 16]


def test_names_say_the_fraction():
  assert backbones.make("resnet20@3/5", 10, split=0) == resnet.ResNet(
    10,
    blocks=(3, 3, 3),
    widths=(16, 32, 64),
    inner_widths=None,
    split=0,
    tail_width=Fraction(3, 5),
  )


def test_the_page_says_which_networks_have_a_fraction():
  def has_fraction(name):
    try:
      backbones.make(f"{name}@1/2", 10)
    except ValueError:
      return False
    return True

  named = ("resnet", "densenet", "wrn20_8")
  for name in backbones.names():
    assert has_fraction(name) == name.startswith(named), name


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("resnet20@", "'resnet20@' must end in a fraction such as resnet20@4/5"),
    ("resnet20@1/0", "'resnet20@1/0' must end in a fraction"),
    ("resnet20@half", "must end in a fraction"),
    ("resnet20@6/5", "tail_width=6/5 must be from 1/16 to 1"),
    ("resnet20@0", "tail_width=0 must be"),
    ("resnet20@1/17", "tail_width=1/17.*16 channels"),
    ("resnet110@1/17", "16 channels"),
    ("wrn20_8@1/65", "64 channels"),
    ("densenet40_12@1/13", "from 1/12 to 1"),
    ("vgg16@4/5", "'vgg16' cannot be made narrower.* can are .*resnet110"),
    ("resnet21@4/5", "'resnet21' is unknown.*did you mean"),
  ],
)
def test_wrong_fractions_are_refused(name, message):
  with pytest.raises(ValueError, match=message):
    backbones.make(name, 10)


def test_a_width_is_given_once():
  with pytest.raises(ConfigError, match="tail_width=1/2 .* 'resnet20@3/5'"):
    backbones.make("resnet20@3/5", 10, tail_width=Fraction(1, 2))
