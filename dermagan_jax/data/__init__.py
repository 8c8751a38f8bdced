"""From raw dermoscopy to seeded batches: the only package that imports TensorFlow."""
