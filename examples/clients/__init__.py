"""One client for each protocol. None needs anything of Aperture, but for the messages of tensorflow_grpc."""
