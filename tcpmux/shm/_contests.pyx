# cython: language_level=3
"""The contests of sticky routes in an image: written by the master, read by control."""

from libc.stdint cimport uint32_t

from tcpmux.shm.c_table cimport (
    tm_contender, tm_contest, tm_image, TM_MAX_CONTENDERS, TM_MAX_CONTESTS, tm_split,
)
from tcpmux.shm._row cimport slice_of
from tcpmux.shm.image import Contender, Contest

cdef int put_contests(tm_image *out, tm_split *split, tuple contests) except -1:
    cdef tm_contest *contest
    cdef tm_contender *contender
    assert out.contest_count + len(contests) <= TM_MAX_CONTESTS
    split.first_contest = out.contest_count
    split.contest_count = len(contests)
    for row in contests:
        contest = &out.contests[out.contest_count]
        out.contest_count += 1
        contest.first = out.contender_count
        contest.count = len(row.contenders)
        contest.owner = row.owner
        contest.skip = row.skip
        assert contest.first + contest.count <= TM_MAX_CONTENDERS
        for one in row.contenders:
            contender = &out.contenders[out.contender_count]
            out.contender_count += 1
            contender.hash = one.hash
            contender.weight = one.weight
            contender.asked = one.asked
            contender.destination = one.destination
    return 0



cdef tuple read_contests(const tm_image *image, const tm_split *split):
    return tuple([read_contest(image, &image.contests[<uint32_t>c])
                  for c in slice_of(split.first_contest, split.contest_count, TM_MAX_CONTESTS)])



cdef object read_contest(const tm_image *image, const tm_contest *contest):
    cdef const tm_contender *one
    contenders = []
    for at in slice_of(contest.first, contest.count, TM_MAX_CONTENDERS):
        one = &image.contenders[<uint32_t>at]
        contenders.append(Contender(one.hash, one.weight, one.asked, one.destination))
    return Contest(contest.owner, tuple(contenders), contest.skip)
