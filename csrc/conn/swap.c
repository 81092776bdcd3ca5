/* Exchanging endpoints. Runs in a worker. */
#include "conn/swap.h"

#include <string.h>

#include "conn/moves.h"
#include "conn/record.h"
#include "sock.h"
#include "trust.h"

enum { MOVING, SCOUT };

/* In the buffer: two records as they are to be. */
struct swap {
    uint64_t sum; /* of all that follows */
    uint32_t index[2];
    struct tm_copy after[2];
};

_Static_assert(sizeof(struct swap) <= TM_BUFFER_SIZE, "room for it");
_Static_assert(sizeof(struct swap) % sizeof(uint64_t) == 0, "whole words");

static uint64_t sum_of(const struct swap *swap)
{
    uint64_t sum = 0, word;
    for (size_t at = sizeof(sum); at < sizeof(*swap); at += sizeof(word)) {
        memcpy(&word, (const unsigned char *)swap + at, sizeof(word));
        sum = tm_mix(sum + word + at);
    }
    return sum;
}

/* --- what they are to be -------------------------------------------------------------------- */

/* Whose counts the kernel does not keep, with another endpoint: conn/record.h. */
static void uncount(struct tm_conn *conn, const struct tm_cold *cold)
{
    bool is_unix = cold->endpoint.family == AF_UNIX;
    struct tm_half *to = &conn->half[TM_CLIENT], *from = &conn->half[TM_ENDPOINT];
    to->uncounted &= TM_UNCOUNTED_SOURCE;
    from->uncounted &= TM_UNCOUNTED_DESTINATION;
    if (is_unix) {
        to->uncounted |= TM_UNCOUNTED_DESTINATION;
        from->uncounted |= TM_UNCOUNTED_SOURCE;
    }
}

/* What is the endpoint's, of two records. */
static void give_endpoint(struct tm_copy *to, const struct tm_copy *from)
{
    enum { COUNTS = TM_HOLDS_DESTINATION | TM_HOLDS_ENDPOINT };
    to->conn.fd[TM_ENDPOINT] = from->conn.fd[TM_ENDPOINT];
    to->conn.side_flags[TM_ENDPOINT] = from->conn.side_flags[TM_ENDPOINT];
    to->conn.destination_slot = from->conn.destination_slot;
    to->cold.sealed[TM_ENDPOINT] = from->cold.sealed[TM_ENDPOINT];
    to->cold.endpoint_slot = from->cold.endpoint_slot;
    to->cold.endpoint = from->cold.endpoint;
    to->cold.destination = from->cold.destination;
    to->cold.holds = (uint8_t)((to->cold.holds & ~COUNTS) | (from->cold.holds & COUNTS));
}

/* The connection, at its new endpoint: all that its halves have passed on, other sockets have
 * seen. */
static void arrive(struct tm_copy *it, const struct tm_copy *scout)
{
    struct tm_half *half = it->conn.half;
    give_endpoint(it, scout);
    it->conn.side_flags[TM_CLIENT] &= (uint8_t)~TM_KEPT_ALIVE; /* for the new socket as well */
    half[TM_CLIENT].base = tm_base_with_prepended(
        half[TM_CLIENT].base, tm_base_prepended(scout->conn.half[TM_CLIENT].base));
    half[TM_ENDPOINT].base = tm_base_make(tm_base_consumed(scout->conn.half[TM_ENDPOINT].base),
                                          tm_base_prepended(half[TM_ENDPOINT].base));
    half[TM_ENDPOINT].bound = 0;
    for (int side = 0; side < 2; side++)
        it->moves.elsewhere[side] = tm_elsewhere_seal(half[side].bytes);
    uncount(&it->conn, &it->cold);
    it->cold.idle_timeout_ms = scout->cold.idle_timeout_ms;
    it->cold.connect_timeout_ms = scout->cold.connect_timeout_ms;
    it->cold.connect_started_us = scout->cold.connect_started_us;
    it->cold.connect_us = scout->cold.connect_us;
    it->cold.local_port[TM_ENDPOINT] = scout->cold.local_port[TM_ENDPOINT];
    it->cold.table_generation = scout->cold.table_generation;
    it->cold.pick_reason = scout->cold.pick_reason;
    it->cold.tried = it->cold.passed = 0;
    it->moves.partner = it->moves.partner_generation = 0;
    it->moves.rehomed++;
}

/* --- both at once --------------------------------------------------------------------------- */

/* May be done again. Neither generation nor state changes. */
static void carry_out(struct tm_worker *w, const struct swap *swap)
{
    for (int i = 0; i < 2; i++) {
        struct tm_conn *conn = &w->records[swap->index[i]];
        const struct tm_copy *after = &swap->after[i];
        tm_words_store(conn, &after->conn, 1, TM_CONN_WORDS);
        tm_words_store(&w->colds[swap->index[i]], &after->cold, 0, TM_COLD_WORDS);
        tm_words_store(&w->moves[swap->index[i]], &after->moves, 0, TM_MOVES_WORDS);
        for (int side = 0; side < 2; side++)
            __atomic_store_n(&conn->side_flags[side], after->conn.side_flags[side],
                             __ATOMIC_RELAXED);
    }
}

void tm_swap(struct tm_worker *w, uint32_t index, uint32_t scout)
{
    struct swap swap = {.index = {index, scout}};
    for (int i = 0; i < 2; i++) {
        swap.after[i].moves = *tm_moves_take(w, swap.index[i]);
        swap.after[i].conn = w->records[swap.index[i]];
        swap.after[i].cold = w->colds[swap.index[i]];
    }
    struct tm_copy before = swap.after[MOVING];
    arrive(&swap.after[MOVING], &swap.after[SCOUT]);
    give_endpoint(&swap.after[SCOUT], &before);
    swap.after[SCOUT].cold.close_reason = TM_CLOSED_rehomed;
    swap.sum = sum_of(&swap);
    memcpy(w->pump.buffer, &swap, sizeof(swap));
    w->pump.journal->current = index;
    tm_journal_note(w->pump.journal, TM_SWAP);
    carry_out(w, &swap);
    tm_journal_note(w->pump.journal, TM_NOTHING);
}

static bool is_possible(const struct tm_worker *w, const struct swap *swap)
{
    if (swap->sum != sum_of(swap))
        return false;
    for (int i = 0; i < 2; i++) {
        uint32_t index = swap->index[i];
        if (index >= w->live->records_used ||
            w->records[index].generation != swap->after[i].conn.generation ||
            w->records[index].state != (i == SCOUT ? TM_SCOUTING : TM_RELAYING))
            return false;
    }
    return swap->index[MOVING] != swap->index[SCOUT];
}

void tm_swap_recover(struct tm_worker *w)
{
    struct swap swap;
    if (tm_journal_operation(w->pump.journal) != TM_SWAP)
        return;
    memcpy(&swap, w->pump.buffer, sizeof(swap));
    if (is_possible(w, &swap)) /* else each record has to be true by itself */
        carry_out(w, &swap);
    tm_journal_note(w->pump.journal, TM_NOTHING);
}
