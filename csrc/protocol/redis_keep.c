/* What the endpoint knows of its client. Calls nothing but memcpy(), memmove(), memset() and
 * explicit_bzero(). */
#include <string.h>

#include "protocol/kept_parts.h"
#include "protocol/redis_parts.h"

enum { OF_REQUEST = 7 /* bytes in front of its arguments */, ARGUMENT_MOST = UINT8_MAX };

/* --- a request that has been answered ------------------------------------------------------- */

struct request {
    enum tm_redis_command command;
    struct tm_kept_entry all; /* its arguments */
    size_t count;
    unsigned char bytes[TM_KEPT_BYTES];
};

static bool is_word(struct tm_kept_argument argument, const char *word)
{
    size_t size = strlen(word);
    if (argument.size != size)
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = argument.bytes[i];
        if ((byte >= 'a' && byte <= 'z' ? byte - ('a' - 'A') : byte) != (unsigned char)word[i])
            return false;
    }
    return true;
}

/* What stands at the start of the arguments, `count` of them. False: so many are not there. */
static bool first(struct tm_kept_entry of, size_t at, size_t count, struct tm_kept_entry *found)
{
    struct tm_kept_argument argument;
    found->arguments = of.arguments + at;
    for (size_t end = at; count > 0; count--) {
        if (!tm_kept_next_argument(&of, &end, &argument))
            return false;
        found->size = end - at;
    }
    return true;
}

/* Of HELLO: what it says, and whether it is in no doubt. */
struct hello {
    struct tm_kept_entry version, auth, name;
    bool known;
};

static struct hello hello_of(const struct request *request)
{
    struct hello hello = {.known = true};
    struct tm_kept_argument argument;
    size_t at = 0;
    if (!tm_kept_next_argument(&request->all, &at, &argument))
        return hello;
    hello.known = argument.size == 1 && (argument.bytes[0] == '2' || argument.bytes[0] == '3') &&
                  first(request->all, 0, 1, &hello.version);
    while (hello.known && tm_kept_next_argument(&request->all, &at, &argument)) {
        struct tm_kept_entry *part = is_word(argument, "AUTH")      ? &hello.auth
                                     : is_word(argument, "SETNAME") ? &hello.name
                                                                    : NULL;
        hello.known = part && part->size == 0 &&
                      first(request->all, at, part == &hello.auth ? 2 : 1, part);
        at += hello.known ? part->size : 0;
    }
    return hello;
}

static void keep_hello(struct tm_kept *kept, const struct request *request)
{
    struct hello hello = hello_of(request);
    if (!hello.known)
        tm_kept_give_up(kept, TM_KEPT_OTHER);
    if (hello.version.size)
        tm_kept_put(kept, TM_KEPT_HELLO, hello.version.arguments, hello.version.size);
    if (hello.auth.size)
        tm_kept_put(kept, TM_KEPT_AUTH, hello.auth.arguments, hello.auth.size);
    if (hello.name.size)
        tm_kept_put(kept, TM_KEPT_NAME, hello.name.arguments, hello.name.size);
}

/* CLIENT SETINFO. */
static void keep_info(struct tm_kept *kept, const struct request *request)
{
    struct tm_kept_argument what = {0};
    size_t at = 0;
    if (request->count == 2 && tm_kept_next_argument(&request->all, &at, &what)) {
        const unsigned char *value = request->all.arguments + at;
        size_t size = request->all.size - at;
        if (is_word(what, "LIB-NAME")) {
            tm_kept_put(kept, TM_KEPT_LIB_NAME, value, size);
            return;
        }
        if (is_word(what, "LIB-VER")) {
            tm_kept_put(kept, TM_KEPT_LIB_VER, value, size);
            return;
        }
    }
    tm_kept_give_up(kept, TM_KEPT_OTHER);
}

static void keep_whole(struct tm_kept *kept, const struct request *request,
                       enum tm_kept_kind kind, size_t most)
{
    if (request->count == 0 || request->count > most)
        tm_kept_give_up(kept, TM_KEPT_OTHER); /* another server than we know has taken that */
    else
        tm_kept_put(kept, kind, request->all.arguments, request->all.size);
}

static void keep(struct tm_kept *kept, const struct request *request)
{
    switch ((int)request->command) {
    case IS_RESET:
        for (int kind = TM_KEPT_AUTH; kind < TM_KEPT_KINDS; kind++)
            tm_kept_drop(kept, (enum tm_kept_kind)kind);
        break;
    case IS_AUTH: keep_whole(kept, request, TM_KEPT_AUTH, 2); break;
    case IS_HELLO: keep_hello(kept, request); break;
    case IS_SELECT: keep_whole(kept, request, TM_KEPT_SELECT, 1); break;
    case IS_NAME: keep_whole(kept, request, TM_KEPT_NAME, 1); break;
    case IS_INFO: keep_info(kept, request); break;
    case IS_NO_EVICT: keep_whole(kept, request, TM_KEPT_NO_EVICT, 1); break;
    case IS_NO_TOUCH: keep_whole(kept, request, TM_KEPT_NO_TOUCH, 1); break;
    default: tm_kept_give_up(kept, TM_KEPT_OTHER);
    }
}

/* Some servers do what a HELLO says in turn, up to what they refuse. */
static bool may_have_done_something(const struct request *request)
{
    struct hello hello = hello_of(request);
    return request->command == IS_HELLO && request->count > 1 &&
           (!hello.known || (hello.auth.size && hello.name.size));
}

static bool is_taken(const struct tm_redis_talk *talk, enum tm_redis_command command)
{
    if (command == IS_HELLO)
        return talk->kind == '%' || talk->kind == '*';
    return talk->kind == '+' && (command == IS_RESET || talk->matched == SAYS_OK);
}

/* The first request that is pending: off the list. */
static void take_answered(struct tm_kept *kept, struct request *request)
{
    struct tm_kept_argument argument;
    const unsigned char *bytes = kept->bytes + kept->size;
    size_t size = tm_kept_two_bytes(bytes + 5), whole = OF_REQUEST + size;
    request->command = (enum tm_redis_command)bytes[4];
    memcpy(request->bytes, bytes + OF_REQUEST, size);
    request->all = (struct tm_kept_entry){.size = size, .arguments = request->bytes};
    for (size_t at = 0; tm_kept_next_argument(&request->all, &at, &argument);)
        request->count++;
    tm_kept_take_out(kept, kept->size, whole);
    kept->pending = (uint16_t)(kept->pending - whole);
    kept->left = 0;
    if (kept->pending)
        memcpy(&kept->left, kept->bytes + kept->size, sizeof(kept->left));
}

static void reply_was(struct tm_kept *kept, const struct tm_redis_talk *talk)
{
    if (kept->left == 0 || --kept->left)
        return;
    struct request request = {0};
    take_answered(kept, &request);
    bool is_error = talk->kind == '-' || talk->kind == '!';
    kept->version++;
    if (is_taken(talk, request.command))
        keep(kept, &request);
    else if (!is_error || may_have_done_something(&request))
        tm_kept_give_up(kept, TM_KEPT_OTHER); /* queued, for one: it may be done later */
    explicit_bzero(&request, sizeof(request));
}

/* --- a request ------------------------------------------------------------------------------ */

static void request_was(struct tm_kept *kept, uint8_t command, uint32_t owed)
{
    unsigned char head[OF_REQUEST];
    size_t at = (size_t)kept->size + kept->pending;
    if (kept->odd || command == IS_OTHER) {
        command = IS_OTHER;
        memset(kept->bytes + at, 0, kept->taking);
        kept->taking = 0;
    }
    if (tm_kept_used(kept) + OF_REQUEST > TM_KEPT_BYTES) {
        tm_kept_give_up(kept, TM_KEPT_TOO_MUCH);
        return;
    }
    uint32_t later = owed - kept->left;
    for (size_t i = kept->size, each = 0; i < at; i += OF_REQUEST + each) {
        uint32_t apart = 0;
        each = tm_kept_two_bytes(kept->bytes + i + 5);
        if (i > kept->size) {
            memcpy(&apart, kept->bytes + i, sizeof(apart));
            later -= apart;
        }
    }
    memcpy(head, &later, sizeof(later));
    head[4] = command;
    head[5] = (unsigned char)kept->taking;
    head[6] = (unsigned char)(kept->taking >> 8);
    memmove(kept->bytes + at + OF_REQUEST, kept->bytes + at, kept->taking);
    memcpy(kept->bytes + at, head, sizeof(head));
    if (kept->pending == 0)
        kept->left = later;
    kept->pending = (uint16_t)(kept->pending + OF_REQUEST + kept->taking);
    kept->taking = 0;
}

/* size: of an argument, as far as it is known. */
static void argument_begins(struct tm_kept *kept, uint32_t size)
{
    if (size > ARGUMENT_MOST || tm_kept_used(kept) + 1 + size > TM_KEPT_BYTES) {
        tm_kept_give_up(kept, TM_KEPT_TOO_MUCH);
        return;
    }
    kept->bytes[tm_kept_used(kept)] = 0;
    kept->taking++;
    kept->argument = 0;
}

static void argument_goes_on(struct tm_kept *kept, const unsigned char *bytes, size_t size)
{
    if (kept->argument + size > ARGUMENT_MOST || tm_kept_used(kept) + size > TM_KEPT_BYTES) {
        tm_kept_give_up(kept, TM_KEPT_TOO_MUCH);
        return;
    }
    size_t at = tm_kept_used(kept);
    memcpy(kept->bytes + at, bytes, size);
    kept->taking = (uint16_t)(kept->taking + size);
    kept->argument = (uint16_t)(kept->argument + size);
    kept->bytes[at + size - kept->argument - 1] = (unsigned char)kept->argument;
}

static void arguments_of(struct tm_kept *kept, const struct tm_redis_talk *before,
                         const struct tm_redis_talk *after, const unsigned char *bytes, size_t size)
{
    uint8_t state = before->state[TM_FROM_CLIENT];
    if (state == END_OF_LENGTH) {
        argument_begins(kept, after->number[TM_FROM_CLIENT] - 2);
    } else if (state == BYTES) {
        uint32_t left = before->number[TM_FROM_CLIENT] - 2;
        bool has_some = before->number[TM_FROM_CLIENT] > 2;
        if (has_some)
            argument_goes_on(kept, bytes, size < left ? size : left);
    } else if (state == INLINE && (bytes[0] == '"' || bytes[0] == '\'')) {
        kept->odd = 1;
    } else if (state == INLINE && after->flags & IN_WORD) {
        if (!(before->flags & IN_WORD))
            argument_begins(kept, 0);
        if (kept->state == TM_KEPT_WHOLE)
            argument_goes_on(kept, bytes, 1);
    }
}

static void client_seen(struct tm_kept *kept, const struct tm_redis_talk *before,
                        const struct tm_redis_talk *after, const unsigned char *bytes, size_t size)
{
    bool ends = after->owed != before->owed && after->command >= FIRST_KEPT;
    bool has_arguments = before->command > IS_RESET && before->command < IS_OTHER;
    if (!(ends || has_arguments) || !tm_kept_open(kept))
        return;
    if (has_arguments)
        arguments_of(kept, before, after, bytes, size);
    if (ends && kept->state == TM_KEPT_WHOLE)
        request_was(kept, after->command, after->owed);
}

void tm_kept_seen(struct tm_kept *kept, const struct tm_redis_talk *before,
                  const struct tm_redis_talk *after, int side, const unsigned char *bytes,
                  size_t size)
{
    if (kept->state != TM_KEPT_WHOLE)
        return;
    if (after->state[side] == LOST || after->flags & SUBSCRIBED) {
        if (tm_kept_open(kept))
            tm_kept_give_up(kept, TM_KEPT_OTHER);
    } else if (side == TM_FROM_CLIENT) {
        client_seen(kept, before, after, bytes, size);
    } else if (after->owed != before->owed && kept->left && tm_kept_open(kept)) {
        reply_was(kept, after);
    }
}
