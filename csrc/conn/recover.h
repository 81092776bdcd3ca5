/* The start of an incarnation of a worker: its connections are as the one before left them, at any
 * instruction.
 *
 *     tm_recover_records       who has which descriptor; records that can't be true are given up;
 *                              the socket between accept and its record gets one; what is nobody's
 *                              is closed
 *     (epoll)
 *     tm_resume_all            resume.h: finishes what was begun, watches every socket, goes on
 *
 * In a first incarnation there are no records, and nothing happens.
 */
#ifndef TM_RECOVER_H
#define TM_RECOVER_H

#include "descriptors.h"
#include "worker.h"

/* Needs the image in force; opens nothing before it, so that no number that a record may wrongly
 * name comes to mean something new. */
void tm_recover_records(struct tm_worker *w, struct tm_descriptors *all);

#endif
