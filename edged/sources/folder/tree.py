"""The tree of a watched folder: which of its files are meant, and what is skipped."""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from edged.results import display_path
from edged.sources.contract import Observer

_MOST_REMEMBERED: Final = 10_000


class Tree:
    """Files under a folder whose names match; of everything that is skipped, each is named and counted once."""

    def __init__(
        self, root: bytes, patterns: Sequence[str], *, recursive: bool, source: str, observer: Observer
    ) -> None:
        """Prepares it; nothing is read.

        Args:
            root: absolute.
            patterns: of file names, as the shell has them; case does not matter.
            recursive: whether subfolders count.
            source: whose folder it is, for the log and the counts.
            observer: is told what is skipped.
        """
        self._root, self._recursive, self._source, self._observer = root, recursive, source, observer
        lowered = [pattern.lower() for pattern in patterns]
        # A million names a scan: where all that a pattern asks for is an ending, that is compared.
        endings = {pattern for pattern in lowered if re.fullmatch(r"\*[^*?\[]+", pattern)}
        self._endings = tuple(pattern[1:] for pattern in endings)
        others = [fnmatch.translate(pattern) for pattern in lowered if pattern not in endings]
        self._pattern = re.compile("|".join(others)) if others else None
        self._log = structlog.get_logger().bind(source=source)
        self._skipped: set[bytes] = set()

    def matches(self, name: bytes) -> bool:
        """Whether a file of this name is meant."""
        lowered = os.fsdecode(name).lower()
        return lowered.endswith(self._endings) or (
            self._pattern is not None and self._pattern.match(lowered) is not None
        )

    def files(self, enter: Callable[[bytes], None]) -> Iterator[tuple[bytes, os.stat_result]]:
        """Every regular file that matches, with its status.

        Args:
            enter: called with every folder before it is read.

        Raises:
            OSError: the root itself cannot be read.
        """
        folders = [self._root]
        skipped: set[bytes] = set()
        while folders:
            folder = folders.pop()
            enter(folder)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if self._recursive:
                                folders.append(entry.path)
                        elif self.matches(entry.name):
                            try:
                                status = entry.stat(follow_symlinks=False)
                            except OSError as error:  # one that cannot be looked at is no reason to pass over the rest
                                if error.errno == errno.ENAMETOOLONG:
                                    self._skip_folder(folder, error, skipped)
                                continue
                            if self._is_regular(entry.path, status, skipped):
                                yield entry.path, status
            except OSError as error:
                if folder == self._root:
                    raise
                self._skip_folder(folder, error, skipped)
        self._skipped = skipped

    def look(self, path: bytes) -> os.stat_result | None:
        """The status of one path that matches; None unless a regular file stands there."""
        try:
            status = os.lstat(path)
        except OSError:
            return None
        return status if self._is_regular(path, status, self._skipped) else None

    def _is_regular(self, path: bytes, status: os.stat_result, skipped: set[bytes]) -> bool:
        if stat.S_ISREG(status.st_mode):
            return True
        if path not in self._skipped and path not in skipped:
            reason = "symlink" if stat.S_ISLNK(status.st_mode) else "not_a_file"
            self._log.info("skipped", path=display_path(path), reason=reason)
            self._observer.skipped(self._source, reason)
        if len(skipped) < _MOST_REMEMBERED:
            skipped.add(path)
        return False

    def _skip_folder(self, folder: bytes, error: OSError, skipped: set[bytes]) -> None:
        if error.errno != errno.ENOENT and folder not in self._skipped and folder not in skipped:
            self._log.warning("folder skipped", path=display_path(folder), error=error.strerror)
            self._observer.skipped(self._source, "unreadable_folder")
        skipped.add(folder)
