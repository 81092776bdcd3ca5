from tcpmux.shm.c_table cimport tm_image, tm_route, tm_route_rule_set

cdef int put_rule_set(tm_image *out, tm_route_rule_set *rules, row, listening) except -1
cdef tuple read_pick_rules(const tm_image *image, const tm_route *route)
