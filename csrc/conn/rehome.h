/* Moving a connection to another endpoint while its client stays: `converge` with method rehome.
 *
 *     control's order         a scout: a record of its own, in the state SCOUTING, with a place in
 *                             the destination and in one of its endpoints, and a connect to that
 *     established             the endpoint gets its PROXY header, and is listened to: where it
 *                             speaks first, the client would be greeted twice. Or
 *                             it is told who the client is, and answers: replay.h
 *     it has kept silent or taken that, and the connection is quiet, as converge.h has it
 *                             the two records exchange endpoints: swap.h. The scout ends, and
 *                             closes the old one by FIN
 *     anything else           the scout ends, and the connection stays where it is
 *
 * Until the exchange the connection does not notice: its bytes go to and fro as before. A scout is
 * no connection: it has no client, is not counted as one, and is neither listed nor given to
 * another worker. After a death it ends.
 */
#ifndef TM_REHOME_H
#define TM_REHOME_H

#include "worker.h"

/* Carries out a message REHOME. order: as of tm_converge(). slot: of the destination that is to
 * have the connection; its own, if only the endpoint is to be another one. */
void tm_rehome(struct tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms,
               uint32_t slot);

/* Of a scout. */
void tm_rehome_event(struct tm_worker *w, uint32_t scout, uint32_t events);
void tm_rehome_due(struct tm_worker *w, uint32_t scout);
/* Whatever it has got to. After an exchange the old endpoint is closed, and counted. */
void tm_rehome_end(struct tm_worker *w, uint32_t scout);

#endif
