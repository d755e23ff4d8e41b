"""What is counted of the batches of one version in one Classifier replica."""

from deployments.metrics import BATCH_DURATION, BATCH_FILL, BATCH_IMAGES, BISECTIONS, PADDING, observe_queue


class BatchMetrics:
    def __init__(self, model: str, version: int) -> None:
        self._model = model
        self._labels = (model, str(version))
        for counter in (PADDING, BISECTIONS):
            counter.add(0, *self._labels)

    def ran(self, size: int, max_batch_size: int, duration_s: float) -> None:
        """A batch of `size` images, when it may have had `max_batch_size`."""
        BATCH_IMAGES.observe(size, *self._labels)
        # A batch that was taken before the setting was lowered may be larger than it.
        BATCH_FILL.observe(min(1.0, size / max_batch_size), *self._labels)
        BATCH_DURATION.observe(duration_s, *self._labels)

    def waited(self, waited_s: float) -> None:
        """An image, until its batch began."""
        observe_queue("classifier", self._model, waited_s)

    def padded(self, images: int) -> None:
        """The engine has computed so many images that nobody asked for."""
        if images:
            PADDING.add(images, *self._labels)

    def halved(self) -> None:
        """A batch has failed, and is run in halves."""
        BISECTIONS.add(1, *self._labels)
