"""TensorFlow Serving's API."""
