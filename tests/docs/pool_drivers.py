"""The pools of pools.py: each as its documentation has it, and as tcpmux's advises where they
differ."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from tests.integration import test_converge_servers as servers
from tests.integration.database_clients import MySQL, Postgres
from tests.others import running
from tests.support import free_port, short_directory

TABLE = "CREATE TABLE ledger (id bigint)"
INSERT = "INSERT INTO ledger VALUES ({})"


class Driver:
    """A pool. server: of SERVERS; protocol: as converge has it. is_async: start, stop and do are
    coroutines."""

    server = protocol = "postgres"
    is_async = False

    def __init__(self, server: int, port: int, size: int) -> None:
        raise NotImplementedError

    def do(self, work: Any, seconds: float) -> Any:
        """A piece of work, in a transaction of so many seconds, or one statement."""
        raise NotImplementedError

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def executed(self) -> Counter[int]:
        """How often each, by its number."""
        raise NotImplementedError


@contextmanager
def postgres() -> Iterator[int]:
    with servers.postgres(("-c", "max_connections=700")) as port:
        with Postgres(port) as client:
            client.ask(TABLE)
        yield port


@contextmanager
def mariadb() -> Iterator[int]:
    # A commit that waits for the disk is not what is looked at.
    more = "--max-connections=700", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"
    with servers.mariadb(more) as port:
        with MySQL(port) as client:
            for text in ("CREATE DATABASE d", TABLE.replace("ledger", "d.ledger")):
                client.ask(text)
        yield port


@contextmanager
def redis() -> Iterator[int]:
    port = free_port()
    with short_directory() as place:
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(place)]
        with running([*command, "--logfile", "log", "--protected-mode", "no"], [port]):
            yield port


SERVERS: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "postgres": postgres,
    "mysql": mariadb,
    "redis": redis,
}


class _OfSQL(Driver):
    """One whose connections have cursors (PEP 249) and transactions of their own accord."""

    def __init__(self, server: int, port: int, size: int) -> None:
        self._server = server
        self._make(port, size)

    def _make(self, port: int, size: int) -> None:
        raise NotImplementedError

    def _connection(self) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def do(self, work: Any, seconds: float) -> None:
        with self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute(INSERT.format(work.number))
            work.stage = "inside"
            if not work.is_single:
                time.sleep(seconds / 2)
                cursor.execute("SELECT 1")
                cursor.fetchall()
                time.sleep(seconds / 2)
            work.stage = "commit"
            connection.commit()
            work.stage = "done"
            cursor.close()

    def executed(self) -> Counter[int]:
        return self.executed_at(self._server)

    @staticmethod
    def executed_at(server: int) -> Counter[int]:
        connect = import_module("psycopg").connect
        with connect(f"host=127.0.0.1 port={server} user=postgres dbname=postgres") as client:
            return Counter(row[0] for row in client.execute("SELECT id FROM ledger"))


class Psycopg(_OfSQL):
    _check: Any = None

    def _make(self, port: int, size: int) -> None:
        kind = import_module("psycopg_pool").ConnectionPool
        self._pool = kind(
            f"host=127.0.0.1 port={port} user=postgres dbname=postgres",
            min_size=size,
            max_size=size,
            open=False,
            num_workers=8,
            check=kind.check_connection if self._check else None,
        )
        self._pool.open(wait=True, timeout=60)

    def _connection(self) -> AbstractContextManager[Any]:
        connection: AbstractContextManager[Any] = self._pool.connection()
        return connection

    def close(self) -> None:
        self._pool.close()


class PsycopgChecked(Psycopg):
    _check = True


class SQLAlchemy(_OfSQL):
    url = "postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    pre_ping = False

    def _make(self, port: int, size: int) -> None:
        self._engine = import_module("sqlalchemy").create_engine(
            self.url.format(port=port), pool_size=size, pool_pre_ping=self.pre_ping
        )

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._engine.raw_connection()
        try:
            yield connection
        except BaseException:
            connection.invalidate()
            raise
        finally:
            connection.close()

    def close(self) -> None:
        self._engine.dispose()


class SQLAlchemyPinged(SQLAlchemy):
    pre_ping = True


class Asyncpg(Driver):
    is_async = True

    def __init__(self, server: int, port: int, size: int) -> None:
        self._server, self._port, self._size = server, port, size

    async def start(self) -> None:
        self._pool = await import_module("asyncpg").create_pool(
            host="127.0.0.1", port=self._port, user="postgres", database="postgres",
            min_size=self._size, max_size=self._size, ssl=False,
            max_inactive_connection_lifetime=0,
        )  # fmt: skip

    async def do(self, work: Any, seconds: float) -> None:
        async with self._pool.acquire() as connection:
            if work.is_single:
                await connection.execute(INSERT.format(work.number))
                work.stage = "done"
                return
            transaction = connection.transaction()
            await transaction.start()
            work.stage = "inside"
            await connection.execute(INSERT.format(work.number))
            await asyncio.sleep(seconds / 2)
            await connection.fetch("SELECT 1")
            await asyncio.sleep(seconds / 2)
            work.stage = "commit"
            await transaction.commit()
            work.stage = "done"

    async def stop(self) -> None:
        await self._pool.close()

    def executed(self) -> Counter[int]:
        return Psycopg.executed_at(self._server)


class _MySQL:
    server = protocol = "mysql"

    _server: int

    def executed(self) -> Counter[int]:
        connect = import_module("pymysql").connect
        with connect(host="127.0.0.1", port=self._server, user="root", database="d") as client:
            cursor = client.cursor()
            cursor.execute("SELECT id FROM ledger")
            return Counter(row[0] for row in cursor.fetchall())


class PyMySQLInDBUtils(_MySQL, _OfSQL):
    ping = 1  # when it is taken from the pool

    def _make(self, port: int, size: int) -> None:
        self._pool = import_module("dbutils.pooled_db").PooledDB(
            import_module("pymysql"), mincached=size, maxcached=size, maxconnections=size,
            blocking=True, ping=self.ping, host="127.0.0.1", port=port, user="root", database="d",
        )  # fmt: skip

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._pool.connection()
        connection.begin()  # else DBUtils does again by itself what has failed
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        self._pool.close()


class PyMySQLInSQLAlchemy(_MySQL, SQLAlchemy):
    url = "mysql+pymysql://root@127.0.0.1:{port}/d"


class PyMySQLInSQLAlchemyPinged(PyMySQLInSQLAlchemy):
    pre_ping = True


class Redis(Driver):
    server = protocol = "redis"

    def __init__(self, server: int, port: int, size: int) -> None:
        redis = import_module("redis")
        self._server = redis.Redis(port=server)
        pool = redis.BlockingConnectionPool(
            port=port, max_connections=size, health_check_interval=0, **self._retries()
        )
        self._client = redis.Redis(connection_pool=pool)
        holders = [threading.Thread(target=self._client.ping) for _ in range(size)]
        for holder in holders:
            holder.start()
        for holder in holders:
            holder.join()

    def _retries(self) -> dict[str, Any]:
        return {}

    def do(self, work: Any, seconds: float) -> None:
        del seconds
        if work.is_single:
            self._client.incr(f"n:{work.number}")
            work.stage = "done"
            return
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.watch("watched")
            work.stage = "inside"
            pipeline.multi()
            pipeline.incr(f"n:{work.number}")
            work.stage = "commit"
            pipeline.execute()
            work.stage = "done"

    def executed(self) -> Counter[int]:
        keys = list(self._server.scan_iter("n:*", count=1000))
        return Counter({int(key[2:]): int(self._server.get(key)) for key in keys})

    def close(self) -> None:
        self._client.connection_pool.disconnect()


class RedisOnce(Redis):
    """Without the retries that it does of its own accord, since version 6."""

    def _retries(self) -> dict[str, Any]:
        none = import_module("redis.backoff").NoBackoff()
        return {"retry": import_module("redis.retry").Retry(none, 0)}


DRIVERS: dict[str, type[Driver]] = {
    "psycopg_pool": Psycopg,
    "psycopg_pool, check": PsycopgChecked,
    "sqlalchemy, psycopg": SQLAlchemy,
    "sqlalchemy, psycopg, pre_ping": SQLAlchemyPinged,
    "asyncpg": Asyncpg,
    "dbutils, pymysql": PyMySQLInDBUtils,
    "sqlalchemy, pymysql": PyMySQLInSQLAlchemy,
    "sqlalchemy, pymysql, pre_ping": PyMySQLInSQLAlchemyPinged,
    "redis": Redis,
    "redis, no retries": RedisOnce,
}
