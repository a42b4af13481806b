r"""OKDDip on ImageNet-2012, four ResNet-34 (Chen et al., AAAI 2020).

Published top-1 error of the leader in %: 25.42 (AAAI 2020, ImageNet table, as
a secondary summary has it; not confirmed against the paper). Epochs, schedule,
weight decay and ramp-up are this project's choice: neither paper nor code
states them. Variants: resnet18, and "branches", which share all but the last
stage, for example configs/okddip_imagenet.py:resnet18,branches.

Read from TensorFlow Datasets' prepared copy of imagenet2012 in
config.data.dir, or with config.data.name=folder:PATH from PATH/train/CLASS/*
and PATH/val/CLASS/*.

    python main.py --config=configs/okddip_imagenet.py \
      --config.precision=bfloat16
"""

from configs import common


def get_config(words: str = ""):
  config = common.base()
  config.data.name = "imagenet2012"
  config.data.source = "stream"
  config.data.image_size = 224
  config.peers.net = "resnet34"
  config.epochs = 90
  config.batch_size = 256
  config.eval_batch_size = 256
  config.optim.learning_rate = 0.1
  config.optim.drops = (1 / 3, 2 / 3, 8 / 9)
  config.optim.weight_decay = 1e-4
  config.method = common.method("okddip")
  return common.variant(config, words)
