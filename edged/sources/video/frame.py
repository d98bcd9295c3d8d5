"""One frame of a video on its way through the pipeline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edged.errors import PictureError
from edged.journal.journal import Statement
from edged.media.imaging import Decoded
from edged.results import Record, new_id
from edged.sources.contract import Scored, Settlement, Step, StreamDelivery
from edged.sources.events import Moment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edged.sources.video.source import VideoSource


class FrameDelivery(StreamDelivery):
    """A frame, or a note to the source in its place among the frames (`sources.contract.StreamDelivery`).

    Attributes:
        number: its place among what the source hands over.
        moment: when it was taken.
        is_end: whether it says that the file has ended; a note that does not says that nothing has changed.
    """

    def __init__(
        self,
        video: "VideoSource",
        number: int,
        moment: Moment,
        *,
        path: str,
        found_at: float,
        stored: bool,
        pixels: "NDArray[np.uint8] | None" = None,
        size: tuple[int, int] = (0, 0),
        is_end: bool = False,
    ) -> None:
        """The source hands over what was captured."""
        self.id, self.source, self.path, self.found_at = new_id(), video.name, path, found_at
        self.number, self.moment, self.stored, self.is_end = number, moment, stored, is_end
        self._video, self._pixels, self._size = video, pixels, size

    @property
    def captured_at(self) -> float:
        """When it was taken, seconds since 1970."""
        return self.moment.at

    @property
    def has_picture(self) -> bool:
        """False of a note."""
        return self._pixels is not None

    def open(self) -> Decoded | None:
        """The pixels."""
        if self._pixels is None:
            return None
        self._video.taken(self)
        return Decoded(self._pixels, *self._size, "RGB", 1)

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:  # noqa: ARG002
        """Every frame is scored."""
        return Settlement.RECORD

    def statements(self, record: Record | None) -> Sequence[Statement]:  # noqa: ARG002
        """None: see `follow`."""
        return ()

    def follow(self, scored: Scored | None) -> Sequence[Step]:
        """What the video makes of it, and of those that came after it and were scored before."""
        return self._video.follow(self, scored)

    def acknowledge(self, record: Record | None) -> None:  # noqa: ARG002
        """It is done."""
        self._video.finish(self)

    def give_back(self) -> None:
        """A frame of a file comes again; one of a live stream is lost."""
        self._video.take_back(self)
