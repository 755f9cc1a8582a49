"""The process of a worker or ps of a `LocalCluster`: a server that ends with its parent."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn


def main() -> NoReturn:
    """Serves as TF_CONFIG says, with as many threads as the two arguments say.

    Standard input is a pipe from the parent. It closes with the parent however that ends,
    SIGKILL included.
    """
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    # Imported late: TensorFlow takes seconds, in which the parent may end.
    from tf_backup.cluster.server import serve

    serve(
        intra_op_threads=int(sys.argv[1]), inter_op_threads=int(sys.argv[2]), chief_timeout_s=None
    )


def _end_with_parent(pipe: int) -> None:
    """Ends this process when the other end of `pipe` closes."""
    os.read(pipe, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
