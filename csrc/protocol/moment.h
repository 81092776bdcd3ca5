/* What a connection is in the middle of, as its protocol has it: talk.h. */
#ifndef TM_MOMENT_H
#define TM_MOMENT_H

/* Of a protocol's state that is all zero nothing has been said yet. */
enum tm_moment {
    TM_MOMENT_UNKNOWN = 0, /* not understood, or not all of it was heard */
    TM_MOMENT_SAFE,        /* between requests, and nothing is open */
    TM_MOMENT_BUSY,        /* in a message, a request or an answer */
    TM_MOMENT_TRANSACTION, /* between the requests of one */
    TM_MOMENT_SUBSCRIBED,  /* the endpoint may speak at any time */
    TM_MOMENT_STATEFUL,    /* no protocol says so: the next endpoint can't be told all of it */
    TM_MOMENTS
};

/* Which side's bytes; as enum tm_side. */
enum { TM_FROM_CLIENT = 0, TM_FROM_SERVER = 1 };

#endif
