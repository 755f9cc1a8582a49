"""Process of a worker or ps of a `LocalCluster`, which ends with its parent."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn


def main() -> NoReturn:
    """Serve as the task in TF_CONFIG; the two arguments are numbers of threads.

    Standard input is a pipe from the parent. It closes when the parent ends, also by SIGKILL.
    """
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    # Imported late, because TensorFlow takes seconds to import and the parent may end meanwhile.
    from tf_backup.cluster.server import serve

    serve(
        intra_op_threads=int(sys.argv[1]), inter_op_threads=int(sys.argv[2]), chief_timeout_s=None
    )


def _end_with_parent(pipe: int) -> None:
    """End this process when the other end of `pipe` closes."""
    os.read(pipe, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
