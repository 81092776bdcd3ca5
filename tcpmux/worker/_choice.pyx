# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Which endpoint of a destination a connection is given. Runs in a worker, without the GIL.

All that is known is in shared memory: whose turns they are (the image), how many connections
each has in all workers and which has just failed (commons). An endpoint that has failed a moment
ago is passed over while there are others, those of later tiers (backups) among them.

What an endpoint can't take is spread over all others of its tier: its turn is skipped, and not given
to whoever stands next to it; and a client that goes with an endpoint by its address always gets the
same other one.
"""

from libc.stdint cimport uint32_t, uint64_t

from tcpmux.shm._layout cimport (
    tm_avoided, tm_client_hash, tm_common, tm_conn, tm_counted_now, tm_destination, tm_endpoint,
    TM_LEAST_CONNECTIONS, TM_MAGLEV, TM_NONE, TM_RANDOM_TWO, tm_rota, tm_rota_next,
    tm_rota_skip, tm_rota_take, TM_SOURCE_HASH, tm_turn, tm_turn_score,
)
from tcpmux.worker._connection cimport Worker

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX

cdef enum:
    TRIED_BITS = 32  # of tm_conn.tried

# What is asked for in one choice.
cdef struct Choice:
    const tm_conn *conn
    const tm_destination *destination
    Tier tier
    bint all  # those that have just failed, too


cdef inline const tm_turn *turn_of(Worker *w, const tm_destination *destination,
                                   uint32_t turn) noexcept nogil:
    return &w.image.turns[destination.first_turn + turn]


cdef inline const tm_endpoint *endpoint_of(Worker *w, const tm_destination *destination,
                                           uint32_t turn) noexcept nogil:
    return &w.image.endpoints[
        destination.first_endpoint + turn_of(w, destination, turn).endpoint]


cdef inline bint was_tried(Worker *w, const tm_conn *conn, const tm_destination *destination,
                           uint32_t turn) noexcept nogil:
    return conn.tried >> (turn_of(w, destination, turn).endpoint % TRIED_BITS) & 1


cdef inline bint has_just_failed(Worker *w, const tm_destination *destination,
                                 uint32_t turn) noexcept nogil:
    return tm_avoided(&w.commons.slots[endpoint_of(w, destination, turn).slot], w.now_ms)


cdef inline bint is_open(Worker *w, const Choice *choice, uint32_t turn) noexcept nogil:
    return not was_tried(w, choice.conn, choice.destination, turn) and (
        choice.all or not has_just_failed(w, choice.destination, turn))


# --- tiers ------------------------------------------------------------------------------------

cdef inline uint32_t all_turns(const tm_destination *destination) noexcept nogil:
    return destination.turn_count + destination.reserve_count


cdef Tier first_tier(const tm_destination *destination) noexcept nogil:
    return Tier(0, destination.turn_count)


cdef Tier tier_after(Worker *w, const tm_destination *destination, Tier tier) noexcept nogil:
    cdef uint32_t first = tier.first + tier.count
    cdef uint32_t end = first
    cdef uint32_t last = all_turns(destination)
    while end < last and (endpoint_of(w, destination, end).priority
                          == endpoint_of(w, destination, first).priority):
        end += 1
    return Tier(first, end - first)


cdef bint is_untried(Worker *w, const tm_conn *conn, const tm_destination *destination,
                     Tier tier) noexcept nogil:
    cdef uint32_t turn
    for turn in range(tier.first, tier.first + tier.count):
        if was_tried(w, conn, destination, turn):
            return False
    return True


cdef bint is_promising(Worker *w, const tm_destination *destination) noexcept nogil:
    cdef uint32_t turn
    for turn in range(all_turns(destination)):
        if not has_just_failed(w, destination, turn):
            return True
    return False


# --- one of a tier ----------------------------------------------------------------------------

cdef uint32_t in_turn(Worker *w, const Choice *choice) noexcept nogil:
    """Whose turn it is, exactly, over all workers; TM_NONE: nobody is open."""
    cdef const tm_destination *destination = choice.destination
    cdef Tier tier = choice.tier
    cdef tm_rota *rota = (
        &w.commons.tickets[destination.ticket].rota if tier.first == 0
        else &w.commons.slots[endpoint_of(w, destination, tier.first).slot].rota)
    cdef uint64_t number = tm_rota_take(rota)
    cdef uint32_t turn = tier.first + <uint32_t>(number % tier.count)
    cdef uint32_t skipped
    if is_open(w, choice, turn):
        return turn
    # That turn is lost. All up to the next one that is open are taken at once, so that each of the
    # others has its own share of them.
    number = tm_rota_next(rota)
    while True:
        skipped = 0
        turn = tier.first + <uint32_t>(number % tier.count)
        while not is_open(w, choice, turn):
            skipped += 1
            if skipped == tier.count:
                return TM_NONE
            turn = tier.first + <uint32_t>((number + skipped) % tier.count)
        if tm_rota_skip(rota, &number, skipped):
            return turn


cdef inline uint64_t load(Worker *w, const tm_endpoint *endpoint) noexcept nogil:
    """Connections for its weight, with the one that is to come, in thousandths."""
    cdef const tm_common *common = &w.commons.slots[endpoint.slot]
    cdef uint64_t weight = <uint64_t>endpoint.weight * endpoint.ramp
    return (<uint64_t>tm_counted_now(&common.connections) + 1) * 100000 // (weight or 1)


cdef uint32_t least_loaded(Worker *w, const Choice *choice) noexcept nogil:
    """Those that are equal take turns."""
    cdef Tier tier = choice.tier
    cdef uint32_t start = in_turn(w, choice)
    cdef uint32_t best = start
    cdef uint32_t step, at
    cdef uint64_t now, lowest = <uint64_t>-1
    if start == TM_NONE:
        return TM_NONE
    for step in range(tier.count):
        at = start + step
        if at >= tier.first + tier.count:
            at -= tier.count
        if turn_of(w, choice.destination, at).number:  # another turn of one that is looked at
            continue
        if not is_open(w, choice, at):
            continue
        now = load(w, endpoint_of(w, choice.destination, at))
        if now < lowest:
            lowest = now
            best = at
    return best


cdef inline uint64_t random(Worker *w) noexcept nogil:
    """xorshift64*, of each worker's own."""
    w.random ^= w.random >> 12
    w.random ^= w.random << 25
    w.random ^= w.random >> 27
    return w.random * <uint64_t>2685821657736338717


cdef uint32_t nth_open(Worker *w, const Choice *choice, uint32_t number) noexcept nogil:
    cdef uint32_t turn
    for turn in range(choice.tier.first, choice.tier.first + choice.tier.count):
        if is_open(w, choice, turn):
            if number == 0:
                return turn
            number -= 1
    return TM_NONE


cdef uint32_t better_of_two(Worker *w, const Choice *choice) noexcept nogil:
    """Of two turns at random, as a rule without looking at the others."""
    cdef uint64_t number = random(w)
    cdef uint32_t count = choice.tier.count
    cdef uint32_t one = <uint32_t>((number >> 32) % count)
    cdef uint32_t other = <uint32_t>number % (count - 1)
    cdef uint32_t turn
    if other >= one:
        other += 1
    one += choice.tier.first
    other += choice.tier.first
    if not (is_open(w, choice, one) and is_open(w, choice, other)):
        count = 0
        for turn in range(choice.tier.first, choice.tier.first + choice.tier.count):
            count += is_open(w, choice, turn)
        if count < 2:
            return nth_open(w, choice, 0)
        one = <uint32_t>((number >> 32) % count)
        other = <uint32_t>number % (count - 1)
        if other >= one:
            other += 1
        one = nth_open(w, choice, one)
        other = nth_open(w, choice, other)
    if load(w, endpoint_of(w, choice.destination, other)) < load(
            w, endpoint_of(w, choice.destination, one)):
        return other
    return one


cdef uint32_t best_place(Worker *w, const Choice *choice, uint64_t key) noexcept nogil:
    """The turn that goes with `key` best (rendezvous hashing, Thaler and Ravishankar 1998). If one
    is not open, only its own keys go to others, and each always to the same one."""
    cdef uint32_t best = TM_NONE
    cdef uint32_t turn
    cdef uint64_t score, highest = 0
    for turn in range(choice.tier.first, choice.tier.first + choice.tier.count):
        score = tm_turn_score(w.image, choice.destination, turn, key)
        if score >= highest and is_open(w, choice, turn):
            highest = score
            best = turn
    return best


cdef uint32_t one_of(Worker *w, const Choice *choice) noexcept nogil:
    """One of the turns of a tier that are open, as `balance` says; TM_NONE: none is."""
    cdef const tm_conn *conn = choice.conn
    cdef const tm_destination *destination = choice.destination
    cdef uint64_t balance = destination.rules.balance
    cdef uint64_t key
    cdef uint32_t turn
    if choice.tier.count == 1:
        return choice.tier.first if is_open(w, choice, choice.tier.first) else TM_NONE
    if balance == TM_RANDOM_TWO:
        return better_of_two(w, choice)
    if balance == TM_LEAST_CONNECTIONS:
        return least_loaded(w, choice)
    if (balance == TM_SOURCE_HASH or balance == TM_MAGLEV) and conn.client.family != AF_UNIX:
        key = tm_client_hash(conn.client.family, conn.client.ip)
        if balance == TM_MAGLEV and destination.place_count and choice.tier.first == 0:
            turn = w.image.places[destination.first_place + key % destination.place_count]
            if is_open(w, choice, turn):
                return turn
        return best_place(w, choice, key)
    return in_turn(w, choice)


cdef uint32_t endpoint_count(Worker *w, const tm_destination *destination) noexcept nogil:
    """Those that have turns."""
    cdef uint32_t turn, count = 0
    for turn in range(all_turns(destination)):
        count += turn_of(w, destination, turn).number == 0
    return count


cdef uint32_t next_endpoint(Worker *w, tm_conn *conn, const tm_destination *destination,
                            Tier *tier, bint all) noexcept nogil:
    cdef Tier start = tier[0]
    cdef Choice choice
    cdef uint32_t turn
    choice.conn = conn
    choice.destination = destination
    choice.all = all
    while True:
        choice.tier = start
        while choice.tier.count:
            turn = one_of(w, &choice)
            if turn != TM_NONE:
                tier[0] = choice.tier
                return turn_of(w, destination, turn).endpoint
            choice.tier = tier_after(w, destination, choice.tier)
        if (conn.tried == 0 or all_turns(destination) <= TRIED_BITS
                or conn.passed >= endpoint_count(w, destination)):
            return TM_NONE
        conn.tried = 0  # some of the bits were others': those that have failed are known as such
