"""Do the nodes of a cluster see the same folder? The driver writes a token into it, and parts elsewhere read it back."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass

from esper.distributed.executor import ClusterError
from esper.distributed.run_dir import RunDir

PATIENCE_SEC = 5.0
"""Longest wait for a file that another node has just written."""


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A run's folder as the driver sees it.

        folder = SharedFolder.mark(paths, token)    # the driver
        folder.require("learner")                   # on whatever node the learner is

    Can be sent to other processes.
    """

    paths: RunDir
    token: str
    host: str
    """The driver's."""

    @classmethod
    def mark(cls, paths: RunDir, token: str) -> SharedFolder:
        """Write the token."""
        paths.token.write_text(token)
        return cls(paths, token, platform.node())

    def unmark(self) -> None:
        """Remove it."""
        self.paths.token.unlink(missing_ok=True)

    def require(self, part: str) -> None:
        """Look for the token.

        Args:
            part: Who looks; its node must be another one if this fails.

        Raises:
            ClusterError: If it is not here.
        """
        until = time.monotonic() + PATIENCE_SEC
        while not self._is_seen():
            if time.monotonic() > until:
                raise ClusterError(
                    f"the {part} on {platform.node()} does not see the run's folder {self.paths.root} that the driver on {self.host} "
                    "writes to; put --run-dir on storage that all nodes share, at the same path"
                )
            time.sleep(0.1)

    def _is_seen(self) -> bool:
        try:
            return self.paths.token.read_text() == self.token
        except OSError:
            return False
