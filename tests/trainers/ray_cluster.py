"""A Ray cluster of several nodes on this machine, in a process of its own: Ray's own utility for tests.

``python -m tests.trainers.ray_cluster N``: the head and N more nodes, each with one CPU. Prints the address, and for
every node the pid of its Ray, the head's first. Then kills the node of each pid that it reads, and all at the end.
"""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(nodes):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    by_pid = {cluster.head_node.all_processes["raylet"][0].process.pid: cluster.head_node}
    for _ in range(nodes):
        node = cluster.add_node(num_cpus=1)
        by_pid[node.all_processes["raylet"][0].process.pid] = node
    print(json.dumps([cluster.address, *by_pid]), flush=True)
    for line in sys.stdin:
        cluster.remove_node(by_pid[int(line)], allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()


class RayCluster:
    """A cluster to send sweeps to."""

    def __init__(self, process):
        self._process = process
        self.address, self.head, *self.others = json.loads(process.stdout.readline())

    def kill(self, node):
        """Kill everything on the node whose Ray has the pid ``node``."""
        self._process.stdin.write(f"{node}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "removed\n"


@contextmanager
def cluster_of(nodes):
    command = [sys.executable, "-m", "tests.trainers.ray_cluster", str(nodes)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        yield RayCluster(process)
        process.stdin.close()
        process.wait(timeout=120)


if __name__ == "__main__":
    main(int(sys.argv[1]))
