"""csrc/commons.h, as far as Cython code touches it."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "commons.h" nogil:
    enum:
        TM_MAX_SOURCES
        TM_MAX_TICKETS

    cdef struct tm_counted:
        pass

    cdef struct tm_common:
        tm_counted connections
        tm_counted waiting

    cdef struct tm_source:
        tm_counted connections

    cdef struct tm_pinned:
        uint64_t account  # an atomic: for the functions below alone

    uint64_t tm_pinned_epoch(uint64_t now_ms)
    # Accounts, which are atomics.
    uint64_t tm_pinned_sum(const void *account, uint64_t epoch)

    cdef struct tm_ticket:
        pass

    uint64_t tm_ticket_next(const tm_ticket *ticket)
    void tm_ticket_advance(tm_ticket *ticket, uint64_t count)

    cdef struct tm_commons:
        tm_ticket tickets[135168]
        uint64_t secret[2]
        tm_common slots[135168]
        tm_counted listeners[4096]
        tm_source sources[131072]
        tm_pinned pinned

    uint32_t tm_counted_now(const tm_counted *at)
    uint64_t tm_avoided_until(const tm_common *endpoint)
    void tm_note_failure(tm_common *endpoint, uint32_t error, uint64_t now_ms)
    void tm_note_success(tm_common *endpoint)
    void tm_note_suspicion(tm_common *endpoint, uint64_t source_key)
    void tm_note_answer(tm_common *endpoint)
    void tm_note_unanswered(tm_common *endpoint, uint64_t source_key, bint reset)
    uint32_t tm_unanswered(const tm_common *endpoint)
    uint32_t tm_unanswered_resets(const tm_common *endpoint)
    uint32_t tm_unanswered_clients(const tm_common *endpoint)
    uint32_t tm_suspicions(const tm_common *endpoint)
    uint32_t tm_suspicions_all(const tm_common *endpoint)
    uint32_t tm_suspecting(const tm_common *endpoint)
    uint32_t tm_failures(const tm_common *endpoint)
    uint32_t tm_failed_with(const tm_common *endpoint)
    uint64_t tm_failing_since(const tm_common *endpoint)
    uint64_t tm_failed_at(const tm_common *endpoint)
    uint32_t tm_failures_all(const tm_common *endpoint)
    void tm_common_forget(tm_common *slot)
