"""Sources of batches: the device's memory, tf.data, or a stream."""
