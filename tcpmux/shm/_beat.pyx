# cython: language_level=3
"""The page by which a program says that it goes on: csrc/watch.h. Runs in the master and in the
programs beside the workers.
"""

import os

from libc.stdint cimport uint64_t

from tcpmux.shm._region cimport Region
from tcpmux.shm._region import sealed_memory

cdef extern from "watch.h" nogil:
    struct tm_beat:
        pass
    void tm_beat_step(tm_beat *beat)
    uint64_t tm_beat_steps(const tm_beat *beat)
    void tm_beat_tell(tm_beat *beat, uint64_t told)
    uint64_t tm_beat_told(const tm_beat *beat)



cdef class Beat(Region):
    """By which the master sees that a program of its own goes on. One for each process."""

    cdef bint can_write

    @staticmethod
    def create():
        """In the master, which only reads: the descriptor that can write is for the program.
        Raises OSError."""
        cdef Beat self = Beat()
        cdef int fd = sealed_memory("tcpmux-beat", sizeof(tm_beat))
        try:
            self._map(fd, sizeof(tm_beat), False)
        except BaseException:
            os.close(fd)
            raise
        return self

    @staticmethod
    def attach(int fd):
        """In the program; takes the descriptor. Raises OSError, ValueError."""
        cdef Beat self = Beat()
        self._attach(fd, sizeof(tm_beat), True)
        self.can_write = True
        self.give_away()
        return self

    def give_away(self):
        """Closes the descriptor; the memory stays mapped."""
        os.close(self.fd)
        self.fd = -1

    def step(self):
        """Says that it goes on. In the program only."""
        assert self.base != NULL and self.can_write
        tm_beat_step(<tm_beat *>self.base)

    @property
    def steps(self):
        """How many there have been, if the program is to be believed."""
        assert self.base != NULL
        return tm_beat_steps(<const tm_beat *>self.base)

    @property
    def told(self):
        """Of how many lines dropped the log process has told, if it is to be believed."""
        assert self.base != NULL
        return tm_beat_told(<const tm_beat *>self.base)

    @told.setter
    def told(self, uint64_t count):
        assert self.base != NULL and self.can_write
        tm_beat_tell(<tm_beat *>self.base, count)
