r"""KD on CIFAR-100, a ResNet-32 student (Hinton et al., 2015).

The teacher is the pre-trained ResNet-110 of
configs/independent_c100.py:resnet110 or a PyTorch state dict. Reproduces no
published figure: none could be traced. Variants: any network of
okd_jax.backbones.

    python main.py --config=configs/kd_c100.py \
        --config.teacher=RUN
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("kd")
  config.peers.num_peers = 1
  return common.variant(config, words)
