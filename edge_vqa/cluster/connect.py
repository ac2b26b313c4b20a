"""A connection to a Ray cluster: found or started when something is first asked of it, and looked over."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_vqa.border import streams
from edge_vqa.cluster.worker import SAME, Versions
from edge_vqa.device.profile import cores
from edge_vqa.errors import EdgeVqaError

OBJECTS = 100 * 2**20  # bytes of Ray's object store on this machine: rows are places of parts, 200 bytes each
CONNECT_S = 5.0


class Cluster:
    """address: `local` starts workers on this machine, `auto` finds the cluster that this machine is of, else HOST:PORT.

    For a `with` block, in which it is connected by `connect`. Ray says much on both outputs, which its own logs have too: in
    the block what goes to standard output is lost, and to standard error what is not written by Python.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._held = ExitStack()
        self._connected = False

    def __enter__(self) -> Cluster:
        self._held.enter_context(streams.undisturbed())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connected = False
        self._held.close()

    def connect(self) -> None:
        """Raises EdgeVqaError where there is no cluster."""
        if self._connected:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        host, colon, port = self.address.rpartition(":")
        if colon and "://" not in self.address:
            try:
                socket.create_connection((host, int(port)), CONNECT_S).close()
            except (OSError, ValueError, OverflowError):
                raise self._none() from None
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": False}
        if self.address == "local":
            how |= {"num_cpus": cores(), "object_store_memory": OBJECTS, "include_dashboard": False}
        import ray
        import ray.data

        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            ray.init(address=self.address, **how)
        except Exception as error:  # ConnectionError, RuntimeError for other versions, ValueError for what is no address
            raise self._none(" ".join(str(error).split())[:200]) from None
        self._held.callback(ray.shutdown)
        self._connected = True

    def _none(self, reason: str = "") -> EdgeVqaError:
        why = f" ({reason})" if reason else ""
        todo = "start one with ray start --head, or use --ray local"
        if reason.startswith("Failed to connect") and not os.environ.get("RAY_AUTH_MODE"):
            todo = "if it asks for a token, set RAY_AUTH_MODE=token, and have the ~/.ray/auth_token of its head"
        return EdgeVqaError(f"no cluster answers at {self.address}{why}", todo)

    def look_over(self, versions: Versions, bundle: str | None, threads: int) -> int:
        """Ask every node that can have a worker what it has installed. Returns how many workers find room in the cluster at
        once. Raises EdgeVqaError that names a node that has something else, or says that there is none."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def installed(bundle: str | None, cwd: str) -> tuple[str, dict[str, str], str]:
            """Runs on a node, and is sent there as it is: whatever edge-vqa is, or is not, on it."""
            import contextlib
            import dataclasses
            import os
            import socket

            with contextlib.suppress(OSError):  # what paths of the driver are relative to
                os.chdir(cwd)
            try:
                from edge_vqa.cluster.worker import Versions

                return socket.gethostname(), dataclasses.asdict(Versions.here(bundle)), ""
            except Exception as error:
                return socket.gethostname(), {}, str(getattr(error, "what", "")) or f"no such edge-vqa ({error})"

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        rooms = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) // threads for node in nodes if node["Alive"]}
        if not sum(rooms.values()):
            raise EdgeVqaError(f"no node of the cluster has {threads} CPUs", "give --threads with fewer")
        task = ray.remote(installed)
        asked = []
        for node, room in rooms.items():
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            if room:
                how = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                asked.append(how.remote(bundle, str(Path.cwd())))
        for one in asked:
            try:
                name, found, fault = ray.get(one)
            except ray.exceptions.RayError:
                continue  # it has gone: its room is another's now
            fault = fault or versions.difference(found)
            if fault:
                raise EdgeVqaError(f"node {name}: {fault}", SAME)
        return sum(rooms.values())


def gave_up(error: Exception) -> EdgeVqaError:
    """What Ray raised, in one line."""
    return EdgeVqaError(f"the cluster gave up ({' '.join(str(error).split())[:200]})", "start again: it goes on")
