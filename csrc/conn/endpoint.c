/* Which endpoint. Runs in a worker. */
#include "conn/endpoint.h"

#include <assert.h>

enum {
    AVOID_MS = 1000, /* an endpoint that has just failed is passed over for so long */
};

/* What is asked for in one choice. */
struct choice {
    struct tm_worker *w;
    const struct tm_cold *cold;
    const struct tm_destination *destination;
    struct tm_tier tier;
    bool all; /* those that have just failed, too */
};

static const struct tm_turn *turn_of(const struct tm_worker *w,
                                     const struct tm_destination *destination, uint32_t turn)
{
    return &w->image->turns[destination->first_turn + turn];
}

static const struct tm_endpoint *endpoint_of(const struct tm_worker *w,
                                             const struct tm_destination *destination,
                                             uint32_t turn)
{
    uint32_t at = destination->first_endpoint + turn_of(w, destination, turn)->endpoint;
    return &w->image->endpoints[at];
}

static bool was_tried(const struct tm_worker *w, const struct tm_cold *cold,
                      const struct tm_destination *destination, uint32_t turn)
{
    return cold->tried >> (turn_of(w, destination, turn)->endpoint % TM_TRIED_BITS) & 1;
}

static bool has_just_failed(const struct tm_worker *w, const struct tm_destination *destination,
                            uint32_t turn)
{
    return tm_avoided(&w->commons->slots[endpoint_of(w, destination, turn)->slot], w->now_ms);
}

static bool is_open(const struct choice *choice, uint32_t turn)
{
    return !was_tried(choice->w, choice->cold, choice->destination, turn) &&
           (choice->all || !has_just_failed(choice->w, choice->destination, turn));
}

/* --- tiers --------------------------------------------------------------------------------- */

static uint32_t all_turns(const struct tm_destination *destination)
{
    return destination->turn_count + destination->reserve_count;
}

struct tm_tier tm_tier_after(const struct tm_worker *w, const struct tm_destination *destination,
                             struct tm_tier tier)
{
    uint32_t first = tier.first + tier.count, end = first, last = all_turns(destination);
    while (end < last && endpoint_of(w, destination, end)->rules.priority ==
                             endpoint_of(w, destination, first)->rules.priority)
        end++;
    return (struct tm_tier){first, end - first};
}

bool tm_tier_is_untried(const struct tm_worker *w, const struct tm_cold *cold,
                        const struct tm_destination *destination, struct tm_tier tier)
{
    for (uint32_t turn = tier.first; turn < tier.first + tier.count; turn++)
        if (was_tried(w, cold, destination, turn))
            return false;
    return true;
}

bool tm_is_promising(const struct tm_worker *w, const struct tm_destination *destination)
{
    for (uint32_t turn = 0; turn < all_turns(destination); turn++)
        if (!has_just_failed(w, destination, turn))
            return true;
    return false;
}

/* --- one of a tier, a function for each row of balances.def ----------------------------------- */

/* Whose turn it is, exactly, over all workers; TM_NONE: nobody is open. */
static uint32_t round_robin(const struct choice *choice)
{
    struct tm_worker *w = choice->w;
    const struct tm_destination *destination = choice->destination;
    struct tm_tier tier = choice->tier;
    struct tm_rota *rota =
        tier.first == 0 ? &w->commons->tickets[destination->ticket].rota
                        : &w->commons->slots[endpoint_of(w, destination, tier.first)->slot].rota;
    uint32_t turn = tier.first + (uint32_t)(tm_rota_take(rota) % tier.count), skipped;
    if (is_open(choice, turn))
        return turn;
    /* That turn is lost. All up to the next one that is open are taken at once, so that each of the
     * others has its own share of them. */
    uint64_t number = tm_rota_next(rota);
    do {
        skipped = 0;
        turn = tier.first + (uint32_t)(number % tier.count);
        while (!is_open(choice, turn)) {
            if (++skipped == tier.count)
                return TM_NONE;
            turn = tier.first + (uint32_t)((number + skipped) % tier.count);
        }
    } while (!tm_rota_skip(rota, &number, skipped));
    return turn;
}

/* Connections for its weight, with the one that is to come, in thousandths. */
static uint64_t load_of(const struct choice *choice, uint32_t turn)
{
    const struct tm_endpoint *endpoint = endpoint_of(choice->w, choice->destination, turn);
    const struct tm_common *common = &choice->w->commons->slots[endpoint->slot];
    uint64_t weight = (uint64_t)endpoint->weight * endpoint->slow_start_percent;
    return ((uint64_t)tm_counted_now(&common->connections) + 1) * 100000 / (weight ? weight : 1);
}

/* Those that are equal take turns. */
static uint32_t least_connections(const struct choice *choice)
{
    struct tm_tier tier = choice->tier;
    uint32_t start = round_robin(choice), best = start;
    uint64_t lowest = UINT64_MAX;
    if (start == TM_NONE)
        return TM_NONE;
    for (uint32_t step = 0; step < tier.count; step++) {
        uint32_t at = start + step;
        if (at >= tier.first + tier.count)
            at -= tier.count;
        if (turn_of(choice->w, choice->destination, at)->number) /* another turn of one looked at */
            continue;
        if (!is_open(choice, at))
            continue;
        uint64_t load = load_of(choice, at);
        if (load < lowest) {
            lowest = load;
            best = at;
        }
    }
    return best;
}

/* xorshift64*, of each worker's own. */
static uint64_t random_number(struct tm_worker *w)
{
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return w->random * 2685821657736338717u;
}

static uint32_t nth_open(const struct choice *choice, uint32_t number)
{
    for (uint32_t i = 0; i < choice->tier.count; i++)
        if (is_open(choice, choice->tier.first + i) && number-- == 0)
            return choice->tier.first + i;
    return TM_NONE;
}

/* Two different numbers below `count`, which is at least 2. */
static void draw_two(uint64_t random, uint32_t count, uint32_t *one, uint32_t *other)
{
    *one = (uint32_t)((random >> 32) % count);
    *other = (uint32_t)random % (count - 1);
    if (*other >= *one)
        ++*other;
}

/* Of two turns at random, as a rule without looking at the others. */
static uint32_t random_two(const struct choice *choice)
{
    uint64_t random = random_number(choice->w);
    uint32_t one, other, count = 0;
    draw_two(random, choice->tier.count, &one, &other);
    one += choice->tier.first;
    other += choice->tier.first;
    if (!is_open(choice, one) || !is_open(choice, other)) {
        for (uint32_t i = 0; i < choice->tier.count; i++)
            count += is_open(choice, choice->tier.first + i);
        if (count < 2)
            return nth_open(choice, 0);
        draw_two(random, count, &one, &other);
        one = nth_open(choice, one);
        other = nth_open(choice, other);
    }
    return load_of(choice, other) < load_of(choice, one) ? other : one;
}

/* The turn that goes with `key` best (rendezvous hashing, Thaler and Ravishankar 1998). If one is
 * not open, only its own keys go to others, and each always to the same one. */
static uint32_t best_match(const struct choice *choice, uint64_t key)
{
    uint32_t best = TM_NONE;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < choice->tier.count; i++) {
        uint32_t turn = choice->tier.first + i;
        uint64_t score = tm_turn_score(choice->w->image, choice->destination, turn, key);
        if (score >= highest && is_open(choice, turn)) {
            highest = score;
            best = turn;
        }
    }
    return best;
}

static uint32_t source_hash(const struct choice *choice)
{
    const struct tm_peer *client = &choice->cold->client;
    if (client->family == AF_UNIX)
        return round_robin(choice);
    return best_match(choice, tm_client_hash(client->family, client->ip));
}

static uint32_t maglev(const struct choice *choice)
{
    const struct tm_peer *client = &choice->cold->client;
    const struct tm_destination *destination = choice->destination;
    if (client->family == AF_UNIX || !destination->maglev_count || choice->tier.first)
        return source_hash(choice);
    uint64_t key = tm_client_hash(client->family, client->ip);
    uint32_t turn =
        choice->w->image->maglev[destination->first_maglev + key % destination->maglev_count];
    return is_open(choice, turn) ? turn : best_match(choice, key);
}

/* One of the turns of a tier that are open, as `balance` says; TM_NONE: none is. */
static uint32_t one_of(const struct choice *choice)
{
    static uint32_t (*const ALGORITHMS[])(const struct choice *choice) = {
#define TM_BALANCE(name, symbol, help) [(symbol)] = (name),
#include "balances.def"
    };
    uint64_t balance = choice->destination->rules.balance;
    if (choice->tier.count == 1)
        return is_open(choice, choice->tier.first) ? choice->tier.first : TM_NONE;
    assert(balance < sizeof(ALGORITHMS) / sizeof(ALGORITHMS[0]));
    return ALGORITHMS[balance](choice);
}

/* Those that have turns. */
static uint32_t endpoint_count(const struct tm_worker *w, const struct tm_destination *destination)
{
    uint32_t count = 0;
    for (uint32_t turn = 0; turn < all_turns(destination); turn++)
        count += turn_of(w, destination, turn)->number == 0;
    return count;
}

uint32_t tm_endpoint_next(struct tm_worker *w, struct tm_cold *cold,
                          const struct tm_destination *destination, struct tm_tier *tier, bool all)
{
    struct choice choice = {.w = w, .cold = cold, .destination = destination, .all = all};
    for (;;) {
        choice.tier = *tier;
        while (choice.tier.count) {
            uint32_t turn = one_of(&choice);
            if (turn != TM_NONE) {
                *tier = choice.tier;
                return turn_of(w, destination, turn)->endpoint;
            }
            choice.tier = tm_tier_after(w, destination, choice.tier);
        }
        if (cold->tried == 0 || all_turns(destination) <= TM_TRIED_BITS ||
            cold->passed >= endpoint_count(w, destination))
            return TM_NONE;
        cold->tried = 0; /* some bits were others': those that have failed are known as such */
    }
}

void tm_endpoint_failed(struct tm_worker *w, struct tm_common *endpoint, uint32_t error)
{
    if (error == TM_REFUSES_TLS) {
        tm_note_refusal(endpoint, error);
        return;
    }
    tm_note_failure(endpoint, error, w->now_ms);
    tm_avoid(endpoint, w->now_ms + AVOID_MS);
}
