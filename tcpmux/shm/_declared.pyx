# cython: language_level=3
"""What csrc/ declares, as Python values: limits, names, counters, and the layout that two builds
have to have in common.
"""

try:
    from _blake2 import blake2b  # hashlib loads OpenSSL, for which connections would wait as well
except ImportError:
    from hashlib import blake2b

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from tcpmux.shm.c_live cimport (
    TM_LIVE_FORMAT, TM_LOG_ENDS, TM_LOG_ENTRIES, tm_log_entry, TM_LOG_STARTS, TM_ORDER_DRAIN,
    TM_ORDER_RETIRE, TM_REFUSALS, TM_TLVS_MAX,
)
from tcpmux.shm.c_table cimport (
    TM_CONTROL, tm_destination_rules, tm_endpoint_rules, TM_LOGGER, TM_MAX_ALL_RULES,
    TM_MAX_CONTENDERS, TM_MAX_CONTESTS, TM_MAX_LISTENERS, TM_MAX_RANGES, TM_MAX_RULE_NAMES,
    TM_MAX_RULE_NUMBERS, TM_MAX_RULE_TEXT, TM_MAX_RULE_VALUES, TM_MAX_SEGMENTS, TM_MAX_SHARDS,
    TM_MAX_SLOTS, TM_MAX_TICKETS, TM_MAX_TURNS, tm_program_id, tm_route_rules, TM_TABLE_FORMAT,
)

cdef extern from *:
    """
    #include "live.h"
    struct tm_counter_row { const char *kind, *scope, *name, *unit, *help; };
    static const struct tm_counter_row tm_counter_rows[] = {
    #define TM_SLOT(name, unit, help) {"slot", "", #name, unit, help},
    #define TM_SLOT_ROUTE(name, unit, help) {"slot", "route", #name, unit, help},
    #define TM_SLOT_MIRROR(name, unit, help) {"slot", "mirror", #name, unit, help},
    #define TM_SLOT_BASE(name, unit, help) {"slot", "base", #name, unit, help},
    #define TM_CLOSE(name, flag, help) {"close", "", #name, flag, help},
    #define TM_CLOSE_REJECTED(name, flag, help) {"close", "rejected", #name, flag, help},
    #define TM_PICK(name, help) {"pick", "", #name, "", help},
    #define TM_TIME(name, bounds, help) {"time", "", #name, #bounds, help},
    #define TM_WORKER(name, unit, help) {"worker", "", #name, unit, help},
    #include "counters.def"
    };
    static const unsigned tm_counter_row_count =
        sizeof(tm_counter_rows) / sizeof(tm_counter_rows[0]);
    struct tm_rule_row { const char *kind, *name; };
    static const struct tm_rule_row tm_rule_rows[] = {
    #define TM_ROUTE_RULE(name, unit, help) {"RouteRules", #name},
    #define TM_DESTINATION_RULE(name, unit, help) {"DestinationRules", #name},
    #define TM_ENDPOINT_RULE(name, unit, help) {"EndpointRules", #name},
    #include "rules.def"
    };
    static const unsigned tm_rule_row_count = sizeof(tm_rule_rows) / sizeof(tm_rule_rows[0]);
    #include "handoff_message.h"
    #include "channel.h"
    struct tm_field_row { const char *owner, *declaration, *name; size_t offset, size; };
    static const struct tm_field_row tm_field_rows[] = {
    #include "fields.rows"
    };
    static const unsigned tm_field_row_count = sizeof(tm_field_rows) / sizeof(tm_field_rows[0]);
    """
    struct tm_field_row:
        const char *owner
        const char *declaration
        const char *name
        size_t offset
        size_t size
    const tm_field_row tm_field_rows[]
    const unsigned tm_field_row_count

    struct tm_counter_row:
        const char *kind
        const char *scope
        const char *name
        const char *unit
        const char *help
    const tm_counter_row tm_counter_rows[]
    const unsigned tm_counter_row_count

    struct tm_rule_row:
        const char *kind
        const char *name
    const tm_rule_row tm_rule_rows[]
    const unsigned tm_rule_row_count



def field_rows():
    """(struct, declaration, name, offset, size) of every field that processes share, and the text
    of every enum: csrc/fields.py."""
    return [(row.owner.decode(), row.declaration.decode(), row.name.decode(), row.offset, row.size)
            for row in tm_field_rows[:tm_field_row_count]]



def fields_of(owner):
    """{name: (offset, size)} of the fields of a struct."""
    return {name: (offset, size) for struct, _, name, offset, size in field_rows()
            if struct == owner}



def layout_of(rows, protocol):
    """What two builds have to have in common, as 16 characters."""
    return blake2b(repr((rows, protocol)).encode(), digest_size=8).hexdigest()


# Two builds with the same layout can work on the same memory, and speak on the same lines. The
# number is for what changes without a field: in what order is written, what a message means.
LAYOUT = layout_of(field_rows(), (TM_TABLE_FORMAT, TM_LIVE_FORMAT, 2))
UPGRADE_STATES = ("idle", "running", "failed")  # enum tm_upgrade
PRESENCES = ("absent", "present", "stopped", "hanging")  # enum tm_presence
ABSENT, PRESENT, STOPPED, HANGING = range(4)
PROGRAMS = ("control", "log")  # enum tm_program_id
CONTROL, LOGGER = TM_CONTROL, TM_LOGGER
OVER, REPLACED = 1, 2  # enum tm_ending
ORDER_DRAIN, ORDER_RETIRE = TM_ORDER_DRAIN, TM_ORDER_RETIRE
MAX_LISTENERS = TM_MAX_LISTENERS
MAX_SHARDS = TM_MAX_SHARDS
MAX_SLOTS = TM_MAX_SLOTS
MAX_TICKETS = TM_MAX_TICKETS
MAX_TURNS = TM_MAX_TURNS
MAX_RANGES = TM_MAX_RANGES
MAX_ALL_RULES = TM_MAX_ALL_RULES
MAX_SEGMENTS = TM_MAX_SEGMENTS
MAX_RULE_NAMES = TM_MAX_RULE_NAMES
MAX_RULE_VALUES = TM_MAX_RULE_VALUES
MAX_RULE_NUMBERS = TM_MAX_RULE_NUMBERS
MAX_RULE_TEXT = TM_MAX_RULE_TEXT
TLVS_MAX = TM_TLVS_MAX
MAX_CONTESTS, MAX_CONTENDERS = TM_MAX_CONTESTS, TM_MAX_CONTENDERS
LOG_ENTRIES = TM_LOG_ENTRIES
LOG_ENTRY_SIZE = sizeof(tm_log_entry)
REFUSAL_COUNT = TM_REFUSALS - 1  # enum tm_refusal, without the first
LOG_ENDS, LOG_STARTS = TM_LOG_ENDS, TM_LOG_STARTS



def counter_rows():
    """(kind, scope, name, unit, help) of every counter, in order: tcpmux/shm/counters.py."""
    return [(row.kind.decode(), row.scope.decode(), row.name.decode(), row.unit.decode(),
             row.help.decode()) for row in tm_counter_rows[:tm_counter_row_count]]



def _names(wanted):
    return tuple(name for kind, _, name, _, _ in counter_rows() if kind == wanted)



def _rules(str kind, size_t size):
    """Names of the rules, in the order of the C layout; those of the type `kind` of rules.py."""
    cdef size_t i
    names = tuple(tm_rule_rows[i].name.decode() for i in range(tm_rule_row_count)
                  if (<bytes>tm_rule_rows[i].kind).decode() == kind)
    assert len(names) * sizeof(uint64_t) == size, f"{kind} and rules.def"
    return names


ROUTE_RULES = _rules("RouteRules", sizeof(tm_route_rules))
DESTINATION_RULES = _rules("DestinationRules", sizeof(tm_destination_rules))
ENDPOINT_RULES = _rules("EndpointRules", sizeof(tm_endpoint_rules))
CLOSE_REASONS = _names("close")
PICK_REASONS = _names("pick")
WORKER_COUNTERS = _names("worker")
SLOT_COUNTERS = _names("slot")
TIMES = _names("time")
