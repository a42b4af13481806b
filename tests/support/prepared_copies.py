"""Copies of data sets as TensorFlow Datasets prepares them."""

import itertools
import json

import numpy as np

from okd_jax.data.formats import prepare


def write_copy(
  root, images, labels, *, shape, splits=("train",), shards=1, hidden=()
):
  """Writes a copy as TensorFlow Datasets does, by TensorFlow's own writer.

  Every split has all images, one after another in so many record files. Splits
  in `hidden` have no labels.
  """
  prepare.import_tfds()
  import tensorflow as tf

  root.mkdir(parents=True)
  name = root.parent.name
  rows = np.array_split(np.arange(len(images)), shards)
  for split, shard in itertools.product(splits, range(shards)):
    file = root / f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
    with tf.io.TFRecordWriter(str(file)) as writer:
      for row in rows[shard]:
        feature = {
          "image": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[images[row]])
          ),
          "label": tf.train.Feature(
            int64_list=tf.train.Int64List(
              value=[-1 if split in hidden else labels[row]]
            )
          ),
        }
        message = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(message.SerializeToString())
  (root / "label.labels.txt").write_text("cat\ndog\nowl\n")
  items = [{"featureKey": "image"}, {"featureKey": "label"}]
  about = {
    "name": name,
    "version": root.name,
    "fileFormat": "tfrecord",
    "supervisedKeys": {"tuple": {"items": items}},
    "splits": [
      {
        "name": split,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(part)) for part in rows],
        "numBytes": "1",
      }
      for split in splits
    ],
  }
  (root / "dataset_info.json").write_text(json.dumps(about))
  package = "tensorflow_datasets.core.features"
  features = {
    "pythonClassName": f"{package}.features_dict.FeaturesDict",
    "featuresDict": {
      "features": {
        "image": {
          "pythonClassName": f"{package}.image_feature.Image",
          "image": {
            "shape": {"dimensions": [str(size) for size in shape]},
            "dtype": "uint8",
          },
        },
        "label": {
          "pythonClassName": f"{package}.class_label_feature.ClassLabel",
          "classLabel": {"numClasses": "3"},
        },
      }
    },
  }
  (root / "features.json").write_text(json.dumps(features))
