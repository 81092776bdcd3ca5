/* How connections of a route are divided: by a split, which it has, and so has each of its rules.
 * Part of the route table: route_table.h says who writes and who reads it.
 */
#ifndef TM_SPLIT_H
#define TM_SPLIT_H

#include <stdint.h>

#define TM_NAME_SIZE 64           /* with its NUL */
#define TM_MAX_DESTINATIONS 64    /* of one route */
#define TM_NONE UINT32_MAX        /* "no index" */
#define TM_MAX_RANGES (1u << 18)  /* of addresses, of all routes together */
#define TM_MAX_RULES 1024         /* of one route */
#define TM_MAX_ALL_RULES 65536
#define TM_MAX_SEGMENTS (1u << 19)     /* of all rules together, as the next four */
#define TM_MAX_RULE_NAMES (1u << 18)
#define TM_MAX_RULE_VALUES (1u << 18)
#define TM_MAX_RULE_NUMBERS (1u << 22)
#define TM_MAX_RULE_TEXT (1u << 26)    /* bytes */

/* A range of client addresses, both ends included; IPv4 as ::ffff:a.b.c.d, clients of UNIX sockets
 * as ::. */
struct tm_range {
    unsigned char first[16], last[16];
};

/* Some of image.ranges, sorted, that do not overlap. */
struct tm_ranges {
    uint32_t first; /* index */
    uint32_t count; /* 0 = nobody, TM_NONE = everybody */
};

/* How connections are divided among the destinations of a route: pick.h. */
struct tm_split {
    uint32_t ticket;
    uint32_t period; /* S; 0 = nothing to pick, reject */
    uint32_t stride;
    uint32_t first_contest; /* index into image.contests */
    uint32_t contest_count; /* 0 = the route is not sticky */
    uint32_t cumulative[TM_MAX_DESTINATIONS]; /* of each destination's effective weight / gcd */
};

/* --- rules: pick_rules.h --- */

/* Some of a route's numbers, values, ... by their place behind the route's first. */
struct tm_list {
    uint32_t first;
    uint32_t count;
};

/* Client addresses from `first` up to where the next segment begins: the rules that name them. */
struct tm_segment {
    uint64_t first[2]; /* the address as a number, its high half first: as of a tm_range */
    struct tm_list rules;
};

/* A name, or with is_suffix the end of names, of a TLS client: the rules that have it. */
struct tm_rule_name {
    uint64_t hash; /* these are sorted by it: tm_name_hash() */
    uint32_t at;   /* in the route's text, without "*." */
    uint16_t size;
    uint16_t is_suffix;
    struct tm_list rules;
};

/* An ALPN protocol, or the value of a TLV. */
struct tm_rule_value {
    uint32_t at; /* in the route's text */
    uint16_t size;
    uint16_t type; /* of a TLV */
};

enum tm_rule_tls { TM_TLS_ANY = 0, TM_TLS_ONLY, TM_TLS_NONE };

struct tm_pick_rule {
    struct tm_ranges sources;  /* in the image, not in the route */
    struct tm_list listeners;  /* numbers: ids, sorted. count TM_NONE = any */
    struct tm_list protocols;  /* values: one of them. count 0 = any */
    struct tm_list tlvs;       /* values: of each type one of those that stand side by side */
    uint8_t tls;               /* enum tm_rule_tls */
    uint8_t reject;            /* its connections are reset */
    uint32_t slot;
    uint64_t since_generation;
    struct tm_split split;     /* by its weights */
    struct tm_list said;       /* text: its conditions, for readers. shm/rule_rows.py */
    char name[TM_NAME_SIZE];
    uint32_t weights[TM_MAX_DESTINATIONS];      /* asked for, now, of each destination */
    uint32_t file_weights[TM_MAX_DESTINATIONS]; /* asked for by the configuration file */
};

/* The rules of a route, and what finds the first that a connection meets. Lists have numbers of
 * rules, in order; a rule is in those of its names or, without any, of its sources or, without
 * either, in `others`. */
struct tm_route_rule_set {
    uint32_t first_rule; /* index into image.pick_rules */
    uint32_t rule_count;
    struct tm_list segments; /* of the image's, as the next one */
    struct tm_list names;
    struct tm_list others;   /* numbers */
    uint32_t first_number, first_value, first_text; /* of the route */
};

#endif
