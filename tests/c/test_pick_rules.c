/* Tests csrc/pick_rules: what a client sends, whatever it is, is read to its end and no further,
 * and never met by a rule that it does not meet. Runs alone, under sanitizers. That the right rule
 * is found is for tests/unit/test_rule_index.py. */
#include "pick_rules.h"

#include <stdlib.h>

#include "check.h"

enum { RANDOM_FACTS = 200000 };

/* A route whose rules ask for a protocol, a TLV, a name and the end of one, in this order. */
static struct tm_image *new_image(void)
{
    struct tm_image *image = calloc(1, sizeof(*image));
    CHECK(image);
    struct tm_route_rule_set *set = &image->routes[0].rule_set;
    *set = (struct tm_route_rule_set){.rule_count = 4, .names = {0, 2}, .others = {0, 2}};
    memcpy(image->text, "h2abcshop.test", 14);
    for (int i = 0; i < 4; i++) {
        image->pick_rules[i].sources.count = TM_NONE;
        image->pick_rules[i].listeners.count = TM_NONE;
    }
    image->values[0] = (struct tm_rule_value){.at = 0, .size = 2};
    image->values[1] = (struct tm_rule_value){.at = 2, .size = 3, .type = 5};
    image->pick_rules[0].protocols = (struct tm_list){0, 1};
    image->pick_rules[1].tlvs = (struct tm_list){1, 1};
    for (uint16_t i = 0; i < 4; i++)
        image->numbers[i] = i;
    image->names[0] = (struct tm_rule_name){
        tm_name_hash("shop.test", 9, false), .at = 5, .size = 9, .rules = {2, 1}};
    image->names[1] = (struct tm_rule_name){
        tm_name_hash("test", 4, true), .at = 10, .size = 4, .is_suffix = 1, .rules = {3, 1}};
    if (image->names[0].hash > image->names[1].hash) {
        struct tm_rule_name first = image->names[0];
        image->names[0] = image->names[1], image->names[1] = first;
    }
    return image;
}

/* Which rule such facts meet, each in memory that ends where it does. */
static uint32_t met(const struct tm_image *image, const char *sni, size_t sni_size,
                    const char *alpn, size_t alpn_size, const char *tlvs, size_t tlvs_size)
{
    unsigned char ip[4] = {10, 0, 0, 1};
    char *name = malloc(sni_size ? sni_size : 1);
    unsigned char *offered = malloc(alpn_size ? alpn_size : 1);
    unsigned char *sent = malloc(tlvs_size ? tlvs_size : 1);
    CHECK(name && offered && sent);
    memcpy(name, sni, sni_size), memcpy(offered, alpn, alpn_size), memcpy(sent, tlvs, tlvs_size);
    struct tm_facts facts = {
        .ip = ip, .family = AF_INET, .sni = name, .sni_size = (uint16_t)sni_size, .alpn = offered,
        .alpn_size = (uint16_t)alpn_size, .tlvs = sent, .tlvs_size = (uint16_t)tlvs_size,
    };
    uint32_t found = tm_rule_of(image, &image->routes[0], &facts);
    free(name), free(offered), free(sent);
    return found;
}

static void what_is_cut_off_is_not_read_on(void)
{
    struct tm_image *image = new_image();
    CHECK_EQUAL(met(image, "", 0, "\2h2", 3, "", 0), 0);
    CHECK_EQUAL(met(image, "", 0, "\1x\2h2", 5, "", 0), 0);
    CHECK_EQUAL(met(image, "", 0, "\2h2", 2, "", 0), TM_NONE); /* the last byte is missing */
    CHECK_EQUAL(met(image, "", 0, "\377h2", 3, "", 0), TM_NONE);
    CHECK_EQUAL(met(image, "", 0, "\0\2h2", 4, "", 0), 0); /* an empty one is passed over */
    CHECK_EQUAL(met(image, "", 0, "\3h2x", 4, "", 0), TM_NONE);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\5\0\3abc", 6), 1);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\6\0\1a\5\0\3abc", 10), 1);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\6\0\3abc", 6), TM_NONE);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\5\0\3abc", 5), TM_NONE);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\5\377\377abc", 6), TM_NONE);
    CHECK_EQUAL(met(image, "", 0, "", 0, "\5\0", 2), TM_NONE);
    CHECK_EQUAL(met(image, "shop.test", 9, "", 0, "", 0), 2);
    CHECK_EQUAL(met(image, "a.shop.test", 11, "", 0, "", 0), 3);
    CHECK_EQUAL(met(image, ".test", 5, "", 0, "", 0), TM_NONE);
    CHECK_EQUAL(met(image, "test", 4, "", 0, "", 0), TM_NONE);
    CHECK_EQUAL(met(image, "shop.tes", 8, "", 0, "", 0), TM_NONE);
    CHECK_EQUAL(met(image, "shop.test", 9, "\2h2", 3, "", 0), 0);
    free(image);
}

/* As a route without rules has it: nothing is looked at. */
static void no_rules_meet_nothing(void)
{
    struct tm_image *image = calloc(1, sizeof(*image));
    CHECK(image);
    struct tm_facts facts = {.family = AF_UNIX};
    CHECK_EQUAL(tm_rule_of(image, &image->routes[0], &facts), TM_NONE);
    free(image);
}

static void whatever_is_sent_is_read_within_its_bounds(void)
{
    struct tm_image *image = new_image();
    char bytes[3][300];
    for (int turn = 0; turn < RANDOM_FACTS; turn++) {
        size_t sizes[3];
        for (int i = 0; i < 3; i++) {
            sizes[i] = random_below(turn % 2 ? 8 : 256);
            for (size_t at = 0; at < sizes[i]; at++)
                bytes[i][at] = "\0\1\2\3\5.hst"[random_below(9)];
        }
        uint32_t found = met(image, bytes[0], sizes[0], bytes[1], sizes[1], bytes[2], sizes[2]);
        CHECK(found < 4 || found == TM_NONE);
    }
    free(image);
}

int main(void)
{
    random_seed();
    RUN(what_is_cut_off_is_not_read_on);
    RUN(no_rules_meet_nothing);
    RUN(whatever_is_sent_is_read_within_its_bounds);
    return 0;
}
