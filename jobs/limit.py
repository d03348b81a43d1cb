"""How many images may be errors before a run is worth no more."""

from __future__ import annotations

import math

from lib.failures import BadData
from lib.records import ErrorRow

MIN_IMAGES = 20
"""Under so many images an error rate says nothing, and a run is not stopped for it."""


class Limit:
    """Counts the errors of a run, or of as much of it as one process sees.

    The rate is of the whole run, so a folder of bad images in one shard does not stop a run that is
    good on the whole, and the outcome does not depend on the number of shards.

    Args:
        rate: 0 to 1.
        n_images: of the whole run.
    """

    def __init__(self, rate: float, n_images: int) -> None:
        self.rate = rate
        self.n_images = n_images
        self.n_errors = 0

    def add(self, n_errors: int, last: ErrorRow | None = None) -> None:
        """Count more errors.

        Raises:
            BadData: they are too many.
        """
        self.n_errors += n_errors
        allowed = self.rate * self.n_images if self.n_images >= MIN_IMAGES else math.inf
        if self.n_errors > allowed:
            example = f"; the last: {last.error['message']} ({last.uri})" if last else ""
            raise BadData(
                f"at most {self.rate:.0%} of the {self.n_images:,} images may be errors. "
                f"Received: {self.n_errors:,}{example}"
            )
