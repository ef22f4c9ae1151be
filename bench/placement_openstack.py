"""openstack-placement in this process, without HTTP and Keystone: `python placement_openstack.py DIR URL HOSTS`.

Runs in an environment of its own (no part of CloudOps is there). Reads orders as JSON lines and answers in kind.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import placement_shape as shape

del sys.path[0]  # this directory, where our own benchmark has the peer's name

VERSION = "placement 1.39"
CLASSES = {"VCPU": 0, "MEMORY_MB": 1, "DISK_GB": 2}


def application(folder: Path, url: str) -> Any:
    """Placement's WSGI application on the database, its tables made and its standard classes and traits there."""
    folder.mkdir(exist_ok=True)
    quiet = "[DEFAULT]\ndefault_log_levels = placement=WARNING\n"
    sync = quiet + "[placement_database]\nconnection = %s\nsync_on_startup = True\n[api]\nauth_strategy = noauth2\n"
    (folder / "placement.conf").write_text(sync % url)
    os.environ["OS_PLACEMENT_CONFIG_DIR"] = str(folder)
    from placement import wsgi

    return wsgi.init_application()


def fill(url: str, count: int) -> None:
    """Providers, inventories, traits and allocations, written as the API would have, by COPY."""
    import psycopg2

    with (
        psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT count(*) FROM resource_providers")
        if cursor.fetchone()[0]:
            return
        cursor.execute("INSERT INTO projects (external_id) VALUES ('bench') RETURNING id")
        project = cursor.fetchone()[0]
        cursor.execute("INSERT INTO users (external_id) VALUES ('bench') RETURNING id")
        user = cursor.fetchone()[0]
        traits = {}
        for tag in range(shape.TAGS):
            cursor.execute("INSERT INTO traits (name) VALUES (%s) RETURNING id", [f"CUSTOM_TAG_{tag:02}"])
            traits[tag] = cursor.fetchone()[0]
        tables = rows(count, traits, project, user)
        for table, (columns, lines) in tables.items():
            copy(cursor, table, columns, lines)
            if "id" in columns:
                cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")  # noqa: S608
    with psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql")) as connection:
        connection.autocommit = True
        connection.cursor().execute("ANALYZE")


def rows(count: int, traits: dict[int, int], project: int, user: int) -> dict[str, tuple[list[str], list[Any]]]:
    """Table to columns and rows, in an order that foreign keys allow."""
    totals = {0: (shape.THREADS, shape.CPU_RATIO), 1: (shape.MEMORY_MIB, 1.0), 2: (shape.DISK_GB, 1.0)}
    providers, inventories, carried, consumers, allocations = [], [], [], [], []
    for number, host in enumerate(shape.hosts(count), 1):
        providers.append((number, host.uuid, host.name, 1, number))
        carried += [(traits[tag], number) for tag in host.tags]
        for kind, (total, ratio) in totals.items():
            inventories.append((number, kind, total, 0, 1, total, 1, ratio))
        for vm, size in host.vms:
            consumers.append((vm, project, user, 1))
            allocations += [(number, vm, kind, size[kind]) for kind in totals]
    many = ["resource_provider_id", "resource_class_id", "total", "reserved", "min_unit", "max_unit", "step_size"]
    return {
        "resource_providers": (["id", "uuid", "name", "generation", "root_provider_id"], providers),
        "resource_provider_traits": (["trait_id", "resource_provider_id"], carried),
        "inventories": ([*many, "allocation_ratio"], inventories),
        "consumers": (["uuid", "project_id", "user_id", "generation"], consumers),
        "allocations": (["resource_provider_id", "consumer_id", "resource_class_id", "used"], allocations),
    }


def copy(cursor: Any, table: str, columns: list[str], lines: list[Any]) -> None:
    import io

    text = io.StringIO("".join("\t".join(map(str, line)) + "\n" for line in lines))
    cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", text)


class Client:
    """GET allocation_candidates, take the first, PUT its allocations: how nova claims."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.conflicts = 0
        self.numbers = itertools.count(os.getpid() << 32)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        import webob

        headers = {"X-Auth-Token": "admin", "OpenStack-API-Version": VERSION, "Accept": "application/json"}
        request = webob.Request.blank(path, method=method, headers=headers)
        if body is not None:
            request.body, request.content_type = json.dumps(body).encode(), "application/json"
        response = request.get_response(self.app)
        return response.status_int, (json.loads(response.body) if response.body else None)

    def claim(self, size: tuple[int, int, int], tag: int) -> bool:
        resources = ",".join(f"{name}:{size[kind]}" for name, kind in CLASSES.items())
        query = f"/allocation_candidates?resources={resources}&required=CUSTOM_TAG_{tag:02}&limit=1000"
        status, found = self.ask("GET", query)
        if status != 200 or not found["allocation_requests"]:
            raise SystemExit(f"placement found nothing: {status} {found}")
        from uuid import UUID

        body = found["allocation_requests"][0] | {
            "project_id": "bench",
            "user_id": "bench",
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
        }
        status, answer = self.ask("PUT", f"/allocations/{UUID(int=next(self.numbers))}", body)
        if status == 409:
            self.conflicts += 1
            return False
        if status != 204:
            raise SystemExit(f"placement refused: {status} {answer}")
        return True


def main() -> None:
    """Prepares, says so, and obeys: ``{"do": "decide", "count"}`` or ``{"do": "race", "at", "seconds", "seed"}``."""
    folder, url, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    app = application(folder, url)
    fill(url, count)
    client = Client(app)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        asked = shape.requests(order["seed"])
        taken = []
        until = order.get("at", 0) + order.get("seconds", 0)
        time.sleep(max(0.0, order.get("at", 0) - time.time()))
        client.conflicts = 0
        while len(taken) < order.get("count", 10**9) and (not until or time.time() < until):
            size, tag = next(asked)
            started = time.perf_counter()
            while not client.claim(size, tag):
                pass
            taken.append((time.perf_counter() - started) * 1e3)
        print(json.dumps({"ms": taken, "conflicts": client.conflicts}), flush=True)


if __name__ == "__main__":
    main()
