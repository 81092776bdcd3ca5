/* Recovery at the start of an incarnation of a worker. The previous one may have died at any
 * instruction; its connections are as it left them.
 *
 *     tm_recover_records       assigns descriptors to records; gives up impossible records; gives a
 *                              socket that was accepted a record; closes what no record names
 *     (epoll)
 *     tm_resume_all            resume.h: finishes what was begun, watches every socket, continues
 *
 * The first incarnation has no records, so nothing happens.
 */
#ifndef TM_RECOVER_H
#define TM_RECOVER_H

#include "descriptors.h"
#include "worker.h"

/* Needs the image in force. Opens no descriptor before all are claimed: a record might wrongly name
 * the number of the new one. */
void tm_recover_records(struct tm_worker *w, struct tm_descriptors *all);

#endif
