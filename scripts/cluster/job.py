"""The same job on any kind of cluster: which one is one line of this file.

    python scripts/cluster/job.py /shared/scan.tif /shared/scan-64.tif

The scheduler and all workers need dkmeans, and the paths have to mean the same to all of them.
"""

import argparse
import os
from typing import Any

import dkmeans

WORKERS = 8
IMAGE = "example.org/dkmeans:0.1"  # for Kubernetes: an image of yours in which dkmeans is installed


def by_hand() -> Any:
    """Connect to a scheduler that runs already, as one begun by `scripts/cluster/ssh`."""
    from distributed import Client

    return Client(os.environ["DKMEANS_SCHEDULER"])


def slurm() -> Any:
    """Let Slurm start the workers. Needs dask-jobqueue."""
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=1, processes=1, memory="4GiB", walltime="02:00:00")
    cluster.scale(WORKERS)
    return cluster.get_client()


def kubernetes() -> Any:
    """Let the Dask operator of a Kubernetes cluster start the workers. Needs dask-kubernetes."""
    from dask_kubernetes.operator import KubeCluster

    resources = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    cluster = KubeCluster(name="dkmeans", image=IMAGE, n_workers=WORKERS, resources=resources)
    return cluster.get_client()


def gateway() -> Any:
    """Ask a dask-gateway server for a cluster. Needs dask-gateway and its configuration."""
    from dask_gateway import Gateway

    cluster = Gateway().new_cluster()
    cluster.scale(WORKERS)
    return cluster.get_client()


connect = by_hand  # the line to change: by_hand, slurm, kubernetes or gateway


def main() -> None:
    """Reduce one picture to a palette."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--colors", type=int, default=64)
    arguments = parser.parse_args()
    with connect() as client:
        client.wait_for_workers(1)
        found = dkmeans.quantize(arguments.source, arguments.output, n_colors=arguments.colors)
        print(f"{found.n_pixels:,} pixels, PSNR {found.psnr:.2f} dB, on {client.scheduler.address}")


if __name__ == "__main__":
    main()
