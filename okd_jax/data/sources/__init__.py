"""How batches come: from the device, through tf.data, or as a stream."""
