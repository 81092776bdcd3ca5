/* The socket calls of the relay, each returning 0 (or a descriptor) or -errno.
 *
 * Descriptors of connections, pipes included, stay open across exec: that is how the next build of
 * tcpmux takes them over. A worker never executes anything else.
 */
#ifndef TM_SOCK_H
#define TM_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "live.h"
#include "route_table.h"

/* Whether the default congestion control paces, as BBR does. To be called once. */
bool tm_sock_host_paces(void);

/* Where the host paces, for bulk to a peer on it: between two of its processes there is no network
 * to be careful with, and pacing only keeps data waiting and costs timers. Peers elsewhere are left
 * as they are. */
void tm_sock_do_not_pace(int fd, const struct tm_peer *peer);

/* A connection from the queue: non-blocking; who it is in *peer.
 * TCP_NODELAY is inherited from the listening socket, where the master set it.
 * -EAGAIN: the queue is empty. */
int tm_sock_accept(int listener, struct tm_peer *peer) __attribute__((warn_unused_result));

/* Starts a non-blocking connect. The descriptor, or -errno when it failed at once.
 * Whether it is established already: tm_sock_established().
 *
 * The ACK that ends TCP's handshake waits for the first data to go with, which saves a
 * packet and its wake-up at the other end. Once established, and after what there was to
 * send: tm_sock_acknowledge().
 *
 * unpaced: as tm_sock_do_not_pace(), but from the beginning: a socket that was paced keeps the
 * timers. */
int tm_sock_connect(const struct tm_address *address, bool unpaced)
    __attribute__((warn_unused_result));

/* Sends the ACK if no data has taken it along; later ones go as they do by default. */
void tm_sock_acknowledge(int fd);

/* 1 established, 0 still connecting, -errno failed. Sends nothing. */
int tm_sock_established(int fd) __attribute__((warn_unused_result));

/* Whether there is something to read. A connect that failed and has an answer was established,
 * and reset after it. */
bool tm_sock_has_answered(int fd);

/* Whether a connect has failed, or its connection has been reset since; also when an earlier
 * call has been told of it. */
bool tm_sock_connect_failed(int fd);

/* The socket's pending error as -errno, 0 if none. Reading it clears it. */
int tm_sock_error(int fd) __attribute__((warn_unused_result));

/* FIN. */
int tm_sock_shut_write(int fd);

/* At the end of input: whether nobody reads any more at the other end either. A UNIX peer that
 * closes says so at once; TCP says FIN, which may be a half-close: false. Sends nothing. */
bool tm_sock_closed_by_peer(int fd);

/* Copies up to `size` bytes that are there to be read, and leaves them there. Their number, 0 at
 * the end of input, or -errno: -EAGAIN if there are none. */
ssize_t tm_sock_peek(int fd, unsigned char *bytes, size_t size) __attribute__((warn_unused_result));

/* Whether its peer has ended its input, or all, and sends no more than what is there. */
bool tm_sock_input_ends(int fd);

/* From now on it is readable with that many bytes, or at the end of input; 1 = as usual. How many
 * it waits for: fewer where its receive buffer could not hold so many. A socket without
 * SO_RCVLOWAT, such as a UNIX one, is reported readable at any byte. */
uint32_t tm_sock_wait_for(int fd, uint32_t bytes);

/* Of a UNIX socket: whether it is certain that its own end has not been shut. A call that fails for
 * another reason proves nothing. */
bool tm_sock_not_shut(int fd);

/* Bytes sent that a reset would overtake: not yet acknowledged. Always 0 for a UNIX socket,
 * whose bytes are in the peer's queue at once and stay there after a close. */
uint32_t tm_sock_unacknowledged(int fd);

/* The same, but for a UNIX socket the memory of what its peer has not read; UINT32_MAX: unknown. */
uint32_t tm_sock_outstanding(int fd);

/* Until its peer has shown that it reads: no more than `unsent` bytes wait in the send queue for
 * it, besides what is under way (0: as the kernel has it); and the receive queue that fills it does
 * not grow. False: that one has a size already that somebody chose, or the socket refuses. UNIX
 * ones have limits anyway. */
void tm_sock_bound_unsent(int fd, uint32_t unsent);
bool tm_sock_bound_unread(int fd);
/* The kernel's way again, after true. */
void tm_sock_unbind_unread(int fd);

/* Bytes of kernel memory in its queues; 0 if that can't be told. */
uint64_t tm_sock_held(int fd);

/* How much its peer has taken of what it was sent: low bits. False: that can't be told. */
bool tm_sock_acknowledged(int fd, uint32_t *bytes);

/* Whether it has taken them all, at once. What remains if not is of no use: it has to be reset. */
bool tm_sock_send_whole(int fd, const unsigned char *bytes, size_t size)
    __attribute__((warn_unused_result));

/* Bytes that its peer has sent and nobody has read. */
uint32_t tm_sock_unread(int fd);

/* How long ago data was last sent, in ms: also such as waited in the send queue, not a mere
 * question whether the peer takes some by now. UINT32_MAX: that can't be told. */
uint32_t tm_sock_sent_ago(int fd);

/* Makes close() send RST: pending data on either side is thrown away. A UNIX socket just closes. */
void tm_sock_will_reset(int fd);
/* That, and close. */
void tm_sock_reset(int fd);

/* TCP's questions to a silent peer, and how long sent data may stay unacknowledged (0: as the
 * system has it). A socket that refuses them goes on without. */
void tm_sock_keep_alive(int fd, int idle_s, int interval_s, int count, int user_timeout_ms);

/* Whether this is a connection (no listening socket), and with whom. */
bool tm_sock_is_connection(int fd, struct tm_peer *peer);

/* True for failures of this host, which say nothing about the endpoint. */
bool tm_sock_local_failure(int error);

/* Whether it is a loopback address that this host does not have, as ::1 where IPv6 is switched off.
 * connect tells that by the error that means out of ports. */
bool tm_sock_missing_loopback(const struct tm_address *address);

/* The process that made a UNIX connection runs as this user, or as root. */
bool tm_sock_peer_is(int fd, uid_t uid);

void tm_peer_from(struct tm_peer *peer, const struct tm_address *address);
/* The own address of a socket. Of one that was reset the kernel has given up the port: 0 then. */
void tm_sock_local(int fd, struct tm_peer *local);

#endif
