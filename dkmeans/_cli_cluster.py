"""Where the work of a command is done: threads, processes of this machine, or a cluster."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click

from dkmeans._passes_memory import WORKER

_CONNECT_SECONDS = 10
_LOOK_SECONDS = 2  # between two looks whether all worker processes are there
_LEAST_LOST_AFTER = 11  # what Dask can set connections to

_ADDRESS = re.compile(r"([a-z]+://)?[^\s/]+:\d+")
_TLS = ("tls_ca", "tls_cert", "tls_key")


class Command(Protocol):
    """A function that click makes a command of."""

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...


def add_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options that are shown in the order given."""
    for option in reversed(options):
        command = option(command)
    return command


def cluster_options(command: Command) -> Command:
    """Add the options that say where the work is done."""
    return add_options(
        command,
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Work on the Dask cluster whose scheduler has this address, as tcp://host:8786.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Work in N processes of one thread each, instead of threads.",
        ),
        click.option(
            "--memory-limit",
            metavar="SIZE",
            help="Of each of the N processes, as 2GiB; the memory of the machine shared out by "
            "default.",
        ),
        *(_tls_option(kind, what) for kind, what in _TLS_FILES.items()),
        click.option(
            "--lost-after",
            type=click.IntRange(min=_LEAST_LOST_AFTER),
            metavar="SECONDS",
            help="How long a host may be silent before it counts as lost; 11 at least. It takes up "
            "to half as long again until that is noticed. Dask's defaults, 30 seconds for hosts "
            "cut off and 5 minutes for hosts that hang, if not given. A cluster that runs already "
            "has its own; there this end alone obeys.",
        ),
    )


_TLS_FILES = {
    "ca": "The certificate, in PEM, of the authority that all ends of a cluster trust",
    "cert": "The certificate of this end, signed by it",
    "key": "The key of this certificate",
}


def _tls_option(kind: str, what: str) -> Callable[[Command], Command]:
    return click.option(
        f"--tls-{kind}",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help=f"{what}. The three --tls options belong together.",
    )


@dataclass(frozen=True)
class Workplace:
    """The place where the work is done. The attributes are the options of `cluster_options`."""

    scheduler: str | None = None
    workers: int | None = None
    memory_limit: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    lost_after: int | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any], ctx: click.Context) -> "Workplace":
        """Return the place that options name, and take these out; complain if they contradict."""
        place = cls(**{name: options.pop(name) for name in cls.__match_args__})
        place._check(ctx)
        return place

    @property
    def is_cluster(self) -> bool:
        """Whether the work is done by other processes than this one."""
        return self.scheduler is not None or self.workers is not None

    def _check(self, ctx: click.Context) -> None:
        if self.scheduler is not None and self.workers is not None:
            raise click.UsageError("--scheduler and --workers exclude each other.", ctx)
        if self.scheduler is not None and not _ADDRESS.fullmatch(self.scheduler):
            raise click.BadParameter(
                f"{self.scheduler!r} is no address; expected one such as tcp://10.0.0.5:8786.",
                ctx,
                param_hint="--scheduler",
            )
        if self.memory_limit is not None and self.workers is None:
            raise click.UsageError("--memory-limit needs --workers.", ctx)
        given = [name for name in _TLS if getattr(self, name) is not None]
        if given and len(given) < len(_TLS):
            raise click.UsageError("--tls-ca, --tls-cert and --tls-key belong together.", ctx)
        if not self.is_cluster and (given or self.lost_after is not None):
            option = "--lost-after" if self.lost_after is not None else "--tls-ca"
            raise click.UsageError(f"{option} needs --workers or --scheduler.", ctx)
        if given and "://" in (self.scheduler or "") and not self.address.startswith("tls://"):
            raise click.UsageError(
                f"--tls-ca and --scheduler {self.scheduler} contradict each other; the address of "
                "a scheduler that speaks TLS begins with tls://.",
                ctx,
            )
        if self.memory_limit is not None and self.limit() is None:
            raise click.BadParameter(
                f"{self.memory_limit!r} is no size, or less than the {WORKER >> 20}MiB that a "
                "process takes without any data; expected one such as 2GiB.",
                ctx,
                param_hint="--memory-limit",
            )

    @property
    def address(self) -> str:
        """The address of the scheduler, with its protocol."""
        address = self.scheduler or ""
        return address if "://" in address or self.tls_ca is None else f"tls://{address}"

    def limit(self) -> int | None:
        """Return the memory that each process may use, or None if what was given is no size."""
        from dask.utils import parse_bytes  # noqa: PLC0415 - slow

        try:
            limit = int(parse_bytes(self.memory_limit))
        except ValueError:
            return None
        return limit if limit >= WORKER else None

    def timeouts(self) -> dict[str, str]:
        """Return what Dask is to be configured with, so that lost hosts are noticed in time."""
        # A nanny begins its worker again when it dies. But Dask closes it if the worker is not
        # there 15 s later: as it has just died once more, or begins slowly on a busy machine.
        patience = {"distributed.deploy.lost-worker-timeout": "1h"} if self.workers else {}
        if self.lost_after is None:
            return patience
        # Cut off: sockets are probed, and nothing sent stays unanswered for longer. Hung: workers
        # tell the scheduler that they are there, each half second or so.
        names = ("distributed.comm.timeouts.tcp", "distributed.scheduler.worker-ttl")
        return patience | dict.fromkeys(names, f"{self.lost_after}s")


@contextmanager
def opened(place: Workplace) -> Iterator[None]:
    """Make a place the active Dask scheduler, if it is not this process."""
    if not place.is_cluster:
        yield
        return
    import dask  # noqa: PLC0415 - slow
    from distributed import Client  # noqa: PLC0415 - slow

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(place.timeouts()))
        security = _security(place)
        if place.workers is not None:
            with _sigint_withheld(), _sigterm_withheld():
                cluster = stack.enter_context(_local_cluster(place, security))
            stack.enter_context(_replaced(cluster, place.workers))
            stack.enter_context(Client(cluster, security=security))
        else:
            stack.enter_context(Client(place.address, timeout=_CONNECT_SECONDS, security=security))
        yield


def _security(place: Workplace) -> Any | None:
    if place.tls_ca is None:
        return None
    from distributed import Security  # noqa: PLC0415 - slow

    files = {
        f"tls_{who}_{what}": getattr(place, f"tls_{what}")
        for who in ("client", "scheduler", "worker")
        for what in ("cert", "key")
    }
    return Security(tls_ca_file=place.tls_ca, require_encryption=True, **files)


def _local_cluster(place: Workplace, security: Any | None) -> Any:
    from distributed import LocalCluster  # noqa: PLC0415 - slow
    from distributed.system import MEMORY_LIMIT  # noqa: PLC0415 - slow

    workers = place.workers or 1
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=place.limit() if place.memory_limit else MEMORY_LIMIT // workers,
        host="127.0.0.1",
        security=security,
        protocol="tcp" if security is None else "tls",
        silence_logs="CRITICAL",  # what matters is raised too; an interruption logs much
        dashboard_address=None,
        # Without a dashboard there is still an HTTP server, by default at a fixed port.
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    )


@contextmanager
def _replaced(cluster: Any, n_workers: int) -> Iterator[None]:
    """Put others in the place of nannies that have closed, as their workers could not begin."""
    from distributed import Status  # noqa: PLC0415 - slow
    from tornado.ioloop import PeriodicCallback  # noqa: PLC0415 - slow

    def look() -> None:
        if cluster.status != Status.running:  # it is being closed
            return
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        cluster.scale(n_workers)

    watch = PeriodicCallback(look, _LOOK_SECONDS * 1000)
    cluster.loop.add_callback(watch.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(watch.stop)


@contextmanager
def _sigint_withheld() -> Iterator[None]:
    """Keep Ctrl-C from the threads and processes begun meanwhile: the main thread will see to them.

    Else each worker process would tell of its interruption in many lines.
    """
    from multiprocessing import resource_tracker  # noqa: PLC0415 - slow

    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # begun later, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigterm_withheld() -> Iterator[None]:
    """Let SIGTERM wait, as Dask cannot close a cluster that has only half begun.

    It is not blocked: the processes begun meanwhile have to obey it.
    """
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if caught:
            signal.raise_signal(signal.SIGTERM)
