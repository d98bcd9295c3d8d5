"""How torch's threads wait for each other."""

import os


def wait_asleep() -> None:
    """Lets OpenMP's threads sleep at their barriers; to be called before torch is imported.

    By default they spin there. On a box that does other work as well, such as two cores with the daemon on them, a
    spinning thread takes the core from the one that it waits for: training took ten times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
