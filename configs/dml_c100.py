"""DML on CIFAR-100, four ResNet-32 networks (Zhang et al., CVPR 2018).

Published top-1 accuracy in %, mean of networks, ResNet-32: 73.68 +- 0.14 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, "branches", and "original":
pairwise, temperature 1, constant targets, one network updated after another
(Zhang et al.).

    python main.py --config=configs/dml_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("dml")
  words, original = common.take(words, "original")
  if original:
    config.method = common.method(
      "dml",
      form="pairwise",
      updates="alternating",
      temperature=1.0,
      stop_gradient=True,
    )
  return common.variant(config, words)
