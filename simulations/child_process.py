"""What a process of a pool has to do so that none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process as soon as its parent ends, however that ends.

    A killed parent ends nobody: the processes of its pool would go through what is left in its queue, in folders that
    the next call of the same command writes to as well.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
