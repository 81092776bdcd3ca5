# cython: language_level=3
"""Rules of a route in an image: written by the master, read by control and the log process."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from tcpmux.shm.c_table cimport (
    tm_image, TM_MAX_ALL_RULES, TM_MAX_RANGES, TM_MAX_RULE_NAMES, TM_MAX_RULE_NUMBERS,
    TM_MAX_RULE_TEXT, TM_MAX_RULE_VALUES, TM_MAX_SEGMENTS, TM_NONE, tm_pick_rule, tm_route,
    tm_route_rule_set, tm_split_weight, TM_TLS_ANY, TM_TLS_NONE, TM_TLS_ONLY,
)
from tcpmux.shm._contests cimport put_contests, read_contests
from tcpmux.shm._pick cimport plan_split
from tcpmux.shm._row cimport put_name, put_ranges, slice_of
from tcpmux.shm.image import RuleRow
from tcpmux.shm.rule_index import index_of
from tcpmux.shm.rule_rows import rule_of

def ids_by_route(image):
    """{index of a route: [(address, id) of its listeners]}"""
    found = {}
    for row in image.listeners:
        found.setdefault(row.route, []).append((row.address, row.id))
    return found



cdef int put_rule_set(tm_image *out, tm_route_rule_set *rules, row, listening) except -1:
    """listening: (address, id) of the listeners that the route has now."""
    cdef uint32_t ranges, segments, names, numbers, values, text
    cdef tm_pick_rule *rule
    memset(rules, 0, sizeof(tm_route_rule_set))
    rules.first_rule = out.pick_rule_count
    if not row.pick_rules:
        return 0
    index = row.index or index_of([of.rule for of in row.pick_rules])
    ranges, segments, names, numbers, values, text = index.sizes
    assert out.range_count + ranges <= TM_MAX_RANGES
    assert out.segment_count + segments <= TM_MAX_SEGMENTS
    assert out.name_count + names <= TM_MAX_RULE_NAMES
    assert out.number_count + numbers <= TM_MAX_RULE_NUMBERS
    assert out.value_count + values <= TM_MAX_RULE_VALUES
    assert out.text_count + text <= TM_MAX_RULE_TEXT
    rules.segments.first, rules.segments.count = out.segment_count, segments
    rules.names.first, rules.names.count = out.name_count, names
    rules.others.first, rules.others.count = index.others
    rules.first_number, rules.first_value = out.number_count, out.value_count
    rules.first_text = out.text_count
    memcpy(&out.segments[out.segment_count], <const char *>(<bytes>index.segments),
           len(index.segments))
    memcpy(&out.names[out.name_count], <const char *>(<bytes>index.names), len(index.names))
    memcpy(&out.numbers[out.number_count], <const char *>(<bytes>index.numbers),
           len(index.numbers))
    memcpy(&out.values[out.value_count], <const char *>(<bytes>index.values), len(index.values))
    memcpy(&out.text[out.text_count], <const char *>(<bytes>index.text), text)
    out.segment_count += segments
    out.name_count += names
    out.number_count += numbers
    out.value_count += values
    out.text_count += text
    for source, lists in zip(row.pick_rules, index.rules, strict=True):
        assert out.pick_rule_count < TM_MAX_ALL_RULES
        rule = &out.pick_rules[out.pick_rule_count]
        out.pick_rule_count += 1
        rules.rule_count += 1
        put_rule(out, rule, source, lists)
        put_listeners(out, rules, rule, source.rule, listening)
    return 0



cdef int put_rule(tm_image *out, tm_pick_rule *rule, row, lists) except -1:
    cdef uint32_t i
    put_name(rule.name, row.name)
    put_ranges(out, &rule.sources, lists.sources)
    rule.protocols.first, rule.protocols.count = lists.protocols
    rule.tlvs.first, rule.tlvs.count = lists.tlvs
    rule.said.first, rule.said.count = lists.said
    rule.tls = (TM_TLS_ANY if row.rule.tls is None else
                TM_TLS_ONLY if row.rule.tls else TM_TLS_NONE)
    rule.reject = row.rule.reject
    rule.slot = row.slot
    rule.since_generation = row.since_generation
    rule.split.ticket = row.ticket
    plan_split(&rule.split, row.effective_weights)
    put_contests(out, &rule.split, row.contests)
    for i in range(<uint32_t>len(row.weights)):
        rule.weights[i] = row.weights[i]
        rule.file_weights[i] = row.file_weights[i]
    return 0



cdef int put_listeners(tm_image *out, tm_route_rule_set *rules, tm_pick_rule *rule, said,
                       listening) except -1:
    """Of those that the route has now, the ones that the rule asks for."""
    rule.listeners.first = out.number_count - rules.first_number
    rule.listeners.count = TM_NONE
    if not said.ports and not said.listen:
        return 0
    ids = sorted(number for address, number in listening if said.is_for(address))
    assert out.number_count + len(ids) <= TM_MAX_RULE_NUMBERS
    for number in ids:
        out.numbers[out.number_count] = number
        out.number_count += 1
    rule.listeners.count = len(ids)
    return 0



cdef tuple read_pick_rules(const tm_image *image, const tm_route *route):
    """Those of a route, as RuleRows."""
    return tuple([
        read_rule(image, route, &image.pick_rules[<uint32_t>at])
        for at in slice_of(route.rule_set.first_rule, route.rule_set.rule_count, TM_MAX_ALL_RULES)])



cdef object read_rule(const tm_image *image, const tm_route *route, const tm_pick_rule *rule):
    cdef uint32_t i, count = route.destination_count
    text = slice_of(route.rule_set.first_text + rule.said.first, rule.said.count,
                    TM_MAX_RULE_TEXT)
    said = (<const char *>&image.text[text.start])[:len(text)]
    weights = [tm_split_weight(&rule.split, i) for i in range(count)]
    return RuleRow(
        rule_of(said), rule.split.ticket, rule.slot, rule.since_generation,
        tuple([rule.weights[i] for i in range(count)]),
        tuple([rule.file_weights[i] for i in range(count)]), tuple(weights),
        read_contests(image, &rule.split))
