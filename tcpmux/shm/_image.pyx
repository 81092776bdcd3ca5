# cython: language_level=3
"""Images of the route table: written by the master, read by control and the log process."""

import os
from dataclasses import fields

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tcpmux.shm.c_table cimport (
    tm_convergence, tm_destination, tm_endpoint, tm_image, TM_LABEL_SIZE, tm_listener, TM_MAGLEV,
    tm_maglev_fill, tm_maglev_size, TM_MAX_ALL_DESTINATIONS, TM_MAX_ENDPOINTS, TM_MAX_LISTENERS,
    TM_MAX_MAGLEV, TM_MAX_ROUTES, TM_MAX_SLOTS, TM_MAX_TURNS, tm_route, tm_table,
    tm_table_generation, tm_table_idle_image, tm_table_image, tm_table_is_still,
    tm_table_publish, tm_turn, tm_turn_hash,
)
from tcpmux.shm._address cimport address_text, put_address
from tcpmux.shm._contests cimport put_contests, read_contests
from tcpmux.shm._pick cimport plan_split
from tcpmux.shm._rule_set cimport put_rule_set, read_pick_rules
from tcpmux.shm._row cimport name_text, put_name, put_ranges, read_ranges, slice_of
from tcpmux.shm._table cimport Table
from tcpmux.shm._address import address_hash
from tcpmux.shm._rule_set import ids_by_route
from tcpmux.shm._declared import DESTINATION_RULES, ENDPOINT_RULES, ROUTE_RULES
from tcpmux.shm.image import (
    Convergence, DestinationRow, EndpointRow, Image, ListenerRow, RouteRow,
)
from tcpmux.shm.rules import DestinationRules, EndpointRules, RouteRules

# What is built of settings.py and what is imported of it are the same.
assert tuple(field.name for field in fields(RouteRules)) == ROUTE_RULES
assert tuple(field.name for field in fields(DestinationRules)) == DESTINATION_RULES
assert tuple(field.name for field in fields(EndpointRules)) == ENDPOINT_RULES
CONVERGENCE = tuple(field.name for field in fields(Convergence))
assert len(CONVERGENCE) * sizeof(uint64_t) == sizeof(tm_convergence)



def publish_image(Table table not None, image not None):
    """Puts an Image in force; returns its generation.

    Precondition: every worker has seen the generation before it. The image is within
    the limits: tcpmux.shm.build makes no other.
    """
    cdef tm_image *out = tm_table_idle_image(table.table())
    cdef tm_route *route
    cdef uint32_t at
    # Before anybody counts in their slots.
    put_new_labels(table.table(), image, tm_table_generation(table.table()))
    listening = ids_by_route(image)
    for row in image.routes:
        assert out.route_count < TM_MAX_ROUTES
        route = &out.routes[out.route_count]
        out.route_count += 1
        put_route(out, route, row)
        put_rule_set(out, &route.rule_set, row, listening.get(out.route_count - 1, ()))
    for row in image.listeners:
        at = out.listener_count
        assert at < TM_MAX_LISTENERS and row.id < TM_MAX_LISTENERS
        put_address(&out.listeners[at].address, row.address)
        out.listeners[at].id = row.id
        out.listeners[at].route = row.route
        out.route_of_listener[<uint32_t>row.id] = row.route
        out.listener_count += 1
    return tm_table_publish(table.table())



def read_image(Table table not None):
    """(generation, Image) in force: copied, and whole even while the master publishes."""
    cdef uint64_t generation
    while True:
        generation = tm_table_generation(table.table())
        if generation == 0:
            return 0, Image((), ())
        try:
            image = whole_image(tm_table_image(table.table(), generation))
        except (UnicodeDecodeError, ValueError, IndexError):
            # Torn: two generations came out while reading. If not, it is corrupt.
            if tm_table_is_still(table.table(), generation):
                raise
            continue
        if tm_table_is_still(table.table(), generation):
            return generation, image



cdef void put_label(tm_table *table, uint32_t slot, str label):
    cdef bytes encoded = os.fsencode(label)[:TM_LABEL_SIZE - 1]
    assert slot < TM_MAX_SLOTS
    memset(table.labels[slot], 0, TM_LABEL_SIZE)
    memcpy(table.labels[slot], <char *>encoded, len(encoded))



cdef int put_new_labels(tm_table *table, image, uint64_t before) except -1:
    """Of names that have been given their slots since that generation."""
    for route in image.routes:
        if route.since_generation > before:
            put_label(table, route.slot, route.name)
        for rule in route.pick_rules:
            if rule.since_generation > before:
                put_label(table, rule.slot, rule.name)
        for destination in route.destinations:
            if destination.since_generation > before:
                put_label(table, destination.slot, destination.name)
            for endpoint in destination.endpoints:
                if endpoint.since_generation > before:
                    put_label(table, endpoint.slot, str(endpoint.address))
    return 0



cdef int put_route(tm_image *out, tm_route *route, row) except -1:
    cdef tm_destination *destination
    put_name(route.name, row.name)
    route.first_destination = out.destination_count
    route.destination_count = len(row.destinations)
    route.slot = row.slot
    route.since_generation = row.since_generation
    route.split.ticket = row.ticket
    plan_split(&route.split, [d.effective_weight for d in row.destinations])
    put_rules(<uint64_t *>&route.rules, row.rules, ROUTE_RULES)
    memset(&route.convergence, 0, sizeof(route.convergence))  # of an older generation
    if row.convergence is not None:
        put_rules(<uint64_t *>&route.convergence, row.convergence, CONVERGENCE)
    put_ranges(out, &route.admitted, row.admitted)
    put_ranges(out, &route.senders, row.senders)
    put_contests(out, &route.split, row.contests)
    for source in row.destinations:
        assert out.destination_count < TM_MAX_ALL_DESTINATIONS
        destination = &out.destinations[out.destination_count]
        out.destination_count += 1
        destination.route = out.route_count - 1
        put_destination(out, destination, source)
    return 0



cdef int put_destination(tm_image *out, tm_destination *destination, row) except -1:
    put_name(destination.name, row.name)
    destination.weight = row.weight
    destination.file_weight = row.file_weight
    destination.effective_weight = row.effective_weight
    destination.ticket = row.ticket
    destination.slot = row.slot
    destination.since_generation = row.since_generation
    destination.admin_state = row.state
    destination.state_since = row.state_since
    destination.slow_start_percent = row.slow_start_percent
    destination.panic = row.panic
    destination.unresolved = row.unresolved
    put_rules(<uint64_t *>&destination.rules, row.rules, DESTINATION_RULES)
    put_endpoints(out, destination, row)
    put_turns(out, destination, row.turns, row.reserves)
    return 0



cdef int put_rules(uint64_t *words, rules, tuple names) except -1:
    for i, name in enumerate(names):
        words[<size_t>i] = getattr(rules, name)
    return 0



cdef int put_endpoints(tm_image *out, tm_destination *destination, row) except -1:
    cdef tm_endpoint *endpoint
    destination.first_endpoint = out.endpoint_count
    destination.endpoint_count = len(row.endpoints)
    for source in row.endpoints:
        assert out.endpoint_count < TM_MAX_ENDPOINTS
        endpoint = &out.endpoints[out.endpoint_count]
        out.endpoint_count += 1
        put_address(&endpoint.address, source.address)
        endpoint.slot = source.slot
        endpoint.since_generation = source.since_generation
        endpoint.admin_state = source.state
        endpoint.weight = source.weight
        endpoint.health = source.health
        endpoint.slow_start_percent = source.slow_start_percent
        put_rules(<uint64_t *>&endpoint.rules, source.rules, ENDPOINT_RULES)
        endpoint.state_until = source.until
        endpoint.state_since = source.state_since
        endpoint.health_since = source.health_since
        endpoint.hash = address_hash(source.address)
    return 0



cdef int put_turns(tm_image *out, tm_destination *destination, tuple turns,
                   tuple reserves) except -1:
    cdef tm_turn *turn
    cdef dict taken = {}
    assert out.turn_count + len(turns) + len(reserves) <= TM_MAX_TURNS
    destination.first_turn = out.turn_count
    destination.turn_count = len(turns)
    destination.reserve_count = len(reserves)
    destination.first_maglev = out.maglev_count
    destination.maglev_count = 0
    for index in turns + reserves:
        turn = &out.turns[out.turn_count]
        out.turn_count += 1
        turn.endpoint = index
        turn.number = taken.get(index, 0)
        taken[index] = turn.number + 1
    if destination.rules.balance == TM_MAGLEV and turns:
        put_maglev(out, destination)
    return 0



cdef int put_maglev(tm_image *out, tm_destination *destination) except -1:
    """The table of maglev. With too many of them it is looked for without: as source_hash."""
    cdef uint32_t size = tm_maglev_size(destination.turn_count)
    cdef uint32_t count = destination.turn_count
    cdef uint64_t *hashes
    cdef uint32_t turn
    if size < count or out.maglev_count + size > TM_MAX_MAGLEV:
        return 0
    hashes = <uint64_t *>calloc(count, 2 * sizeof(uint64_t) + sizeof(uint32_t))
    if hashes == NULL:
        raise MemoryError
    for turn in range(count):
        hashes[turn] = tm_turn_hash(out, destination, turn)
    tm_maglev_fill(&out.maglev[out.maglev_count], size, hashes, count,
                   <uint32_t *>(hashes + 2 * count), hashes + count)
    free(hashes)
    destination.maglev_count = size
    out.maglev_count += size
    return 0



cdef object read_rules(const uint64_t *words, object kind, tuple names):
    cdef size_t i
    return kind(*[words[i] for i in range(<size_t>len(names))])  # in order: asserted above



cdef object read_endpoint(const tm_endpoint *endpoint):
    return EndpointRow(
        address_text(&endpoint.address), endpoint.slot, endpoint.since_generation,
        endpoint.admin_state, endpoint.weight, endpoint.health, endpoint.slow_start_percent,
        read_rules(<const uint64_t *>&endpoint.rules, EndpointRules, ENDPOINT_RULES),
        endpoint.state_until, endpoint.state_since, endpoint.health_since)



cdef object read_destination(const tm_image *image, const tm_destination *destination):
    endpoints = [
        read_endpoint(&image.endpoints[<uint32_t>e])
        for e in slice_of(destination.first_endpoint, destination.endpoint_count,
                          TM_MAX_ENDPOINTS)]
    turns = [
        image.turns[<uint32_t>t].endpoint
        for t in slice_of(destination.first_turn,
                          destination.turn_count + destination.reserve_count, TM_MAX_TURNS)]
    return DestinationRow(
        name_text(destination.name), destination.weight, destination.file_weight,
        destination.effective_weight, destination.ticket, destination.slot,
        destination.since_generation,
        tuple(endpoints), destination.admin_state, destination.slow_start_percent,
        read_rules(<const uint64_t *>&destination.rules, DestinationRules, DESTINATION_RULES),
        tuple(turns[:destination.turn_count]), tuple(turns[destination.turn_count:]),
        bool(destination.panic), destination.unresolved, destination.state_since)



cdef object read_route(const tm_image *image, const tm_route *route):
    destinations = [
        read_destination(image, &image.destinations[<uint32_t>d])
        for d in slice_of(route.first_destination, route.destination_count,
                          TM_MAX_ALL_DESTINATIONS)]
    return RouteRow(
        name_text(route.name), route.split.ticket, route.slot, route.since_generation,
        tuple(destinations),
        read_rules(<const uint64_t *>&route.rules, RouteRules, ROUTE_RULES),
        read_ranges(image, &route.admitted), read_ranges(image, &route.senders) or b"",
        read_pick_rules(image, route), None, read_contests(image, &route.split),
        read_rules(<const uint64_t *>&route.convergence, Convergence, CONVERGENCE)
        if route.convergence.began_ms else None)



cdef object whole_image(const tm_image *image):
    cdef const tm_listener *listener
    routes = [read_route(image, &image.routes[<uint32_t>r])
              for r in slice_of(0, image.route_count, TM_MAX_ROUTES)]
    listeners = []
    for at in slice_of(0, image.listener_count, TM_MAX_LISTENERS):
        listener = &image.listeners[<uint32_t>at]
        listeners.append(ListenerRow(address_text(&listener.address), listener.id,
                                           listener.route))
    return Image(tuple(routes), tuple(listeners))
