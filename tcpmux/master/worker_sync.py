"""What workers have to know and may have missed: a worker may die with a message in its hands. Its
region shows what has reached it. Runs in the master."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterable, Sequence

from tcpmux.master.line import Worker
from tcpmux.master.listeners import Listeners
from tcpmux.shm._declared import MAX_SHARDS, ORDER_DRAIN, ORDER_RETIRE
from tcpmux.shm._table import Table
from tcpmux.worker.messages import ADD, DRAIN, REMOVE, REPLACE, RETIRE

REPLACE_ORDERS = 4  # then it is not the message that was lost: the new build can't be started


def repeat_orders(worker: Worker, listeners: Listeners, *, draining: bool) -> None:
    """Those that have not reached it, by its region."""
    orders = worker.live.orders
    if worker.retiring and not orders & ORDER_RETIRE:
        worker.line.post(RETIRE)
    if draining and not orders & ORDER_DRAIN:
        worker.line.post(DRAIN)
    if worker.replaced_from == worker.live.builds and worker.replace_orders < REPLACE_ORDERS:
        worker.replace_orders += 1
        worker.line.post(REPLACE)
    has = worker.live.listening
    current = {listener.id: listener for listener in listeners.by_address.values()}
    for listener in current.values():
        for shard, sock in enumerate(listener.sockets):
            if (listener.id, shard) not in has:
                fds = [sock.fileno()]
                worker.line.post(ADD, listener.id, first=shard, shared=listener.shared, fds=fds)
    for number in {number for number, _ in has} - current.keys():
        worker.line.post(REMOVE, number)


def note_lines(one: Worker, workers: Iterable[Worker]) -> None:
    """Which of the other workers it has a line to, by its region."""
    for other in workers:
        if one.live.has_line(other.id):
            one.lines.add(other.id)
            other.lines.add(one.id)
        else:
            one.lines.discard(other.id)
            other.lines.discard(one.id)


def assign_shards(table: Table, serving: Sequence[Worker], count: int) -> bool:
    """Gives every shard to its own worker, or else to the next in line that is there and has room;
    whether that changes anything. count: of workers there are to be."""
    able = (
        [w for w in serving if w.is_present and not w.full]
        or [w for w in serving if w.is_present]
        or serving
    )
    if not able:
        return False
    ids = {worker.id for worker in able}
    changed = False
    for shard in range(MAX_SHARDS):
        line = ((shard + step) % count for step in range(count))
        owner = next((number for number in line if number in ids), able[0].id)
        if table.shard_owner(shard) != owner:
            table.set_shard_owner(shard, owner)
            changed = True
    return changed


def wait_for_all(
    workers: Sequence[Worker], done: Callable[[Worker], bool], timeout: float
) -> list[Worker]:
    """Until `done` holds for all workers; returns those for which it does not after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        late = [w for w in workers if w.line.socket is not None and not done(w)]
        left = deadline - time.monotonic()
        if not late or left <= 0:
            return late
        with selectors.DefaultSelector() as selector:
            for worker in late:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE * worker.line.waiting)
                assert worker.line.socket is not None
                selector.register(worker.line.socket, events, worker)
            # A line that closes wakes us as well.
            ready = [key.data for key, _ in selector.select(min(left, 0.05))]
        for worker in ready:
            worker.line.flush()
            worker.receive()
