"""All methods on CIFAR-100, ResNet-32, three seeds.

Published figures are in configs/published.json. OKDDip and MCL train whole
networks here; --config.kinds.okddip=branches and --config.kinds.mcl=branches
train branches, as OKDDip's Table 2 and MCL's figures of four networks have it.
All branches share the first two of three stages; the authors of MCL and MCL-OKD
share one. Behind a colon come other networks:
configs/compare_c100.py:resnet32,vgg16.

VGG-16 has no dropout here, in branches neither, so that it is the same in all
rows; config.base.peers.dropout changes that.

OEM narrows ResNets and DenseNets; other networks are not narrowed. CTKD's
student shares its first convolution with config.teacher_net, so the row fails
unless both are of one family.

    python -m okd_jax compare --config=configs/compare_c100.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.cifar(common.base(), "cifar100")
  config = comparison.grid(base, "resnet32", "resnet110")
  return comparison.variant(config, words)
