/* A client of usnetd in C, written from docs/protocol.md alone: it attaches, claims one UDP port and
 * sends every IPv4 datagram that arrives there back to its sender. It answers nothing else.
 *
 *   cc -std=c11 -O2 -Wall -o echo echo.c && ./echo /run/usnetd/control.sock 7
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- messages (section 4) ---- */

enum { ATTACH = 1, CLAIM = 2, ATTACHED = 0x101, CLAIMED = 0x102, REFUSED = 0x1ff };
enum { TRANSMIT = 1, RECEIVE = 2, GROUP = 3, UDP = 17, MIN_FRAME = 14, BURST = 64 };

struct header { uint32_t kind, length, request, reserved; };
struct attach { uint32_t version, ring_capacity, receive_slots, transmit_slots; char interface[16], name[32];
                uint32_t features, reserved; };
struct address { uint8_t bytes[16], family, prefix, reserved[6]; };
struct segment_info { uint32_t access, descriptor, first, count; uint64_t offset; };
struct attached {
    uint32_t version, session, mode, ring_capacity, slot_size, mtu;
    uint64_t inbound_size, outbound_size;
    uint8_t mac[6]; uint16_t pairs;
    struct address ipv4, ipv6, gateway4, gateway6;
    struct segment_info segments[4];
    uint32_t features, reserved;
};
struct claim { struct address address; uint16_t first_port, count; uint8_t protocol, reserved[3]; };
struct refused { uint32_t code; char message[252]; };
union body { struct attached attached; struct claim claim; struct refused refused; char bytes[8192 - 16]; };
_Static_assert(sizeof(struct attach) == 72 && sizeof(struct attached) == 248, "sizes of section 4");
_Static_assert(sizeof(struct claim) == 32 && sizeof(struct refused) == 256, "sizes of section 4");

static _Noreturn void fail(const char *what) { perror(what), exit(1); }            /* a call failed */
static _Noreturn void broken(const char *what) { fprintf(stderr, "%s\n", what), exit(1); } /* the peer did */

/* Sends one request, waits for its answer, keeps the descriptors that come with it. */
static void ask(int control, uint32_t kind, const void *request, uint32_t length, uint32_t expected,
                union body *answer, int fds[8]) {
    struct header header = { kind, length, kind, 0 };
    struct iovec out[2] = { { &header, sizeof header }, { (void *)request, length } };
    struct msghdr message = { .msg_iov = out, .msg_iovlen = 2 };
    if (sendmsg(control, &message, MSG_NOSIGNAL) < 0) fail("cannot send a request");

    _Alignas(struct cmsghdr) char space[CMSG_SPACE(8 * sizeof(int))];
    struct iovec in[2] = { { &header, sizeof header }, { answer, sizeof *answer } };
    message = (struct msghdr){ .msg_iov = in, .msg_iovlen = 2, .msg_control = space, .msg_controllen = sizeof space };
    ssize_t got = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    if (got < 0) fail("cannot receive an answer");
    if (got < (ssize_t)sizeof header || header.length != (uint32_t)got - sizeof header
        || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        broken("the answer is no message");
    if (header.kind == REFUSED) {
        fprintf(stderr, "refused (%u): %.252s\n", answer->refused.code, answer->refused.message);
        exit(1);
    }
    if (header.kind != expected || header.request != kind) broken("the answer belongs to another request");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (fds && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
}

/* ---- memory (section 5) ---- */

/* Maps `size` bytes from `offset` after a look at size and seals. */
static uint8_t *map(int fd, uint64_t offset, uint64_t size, int writable, int seals) {
    struct stat stat;
    if (fstat(fd, &stat)) fail("cannot look at a memfd");
    if ((uint64_t)stat.st_size < offset + size || (fcntl(fd, F_GET_SEALS) & seals) != seals)
        broken("a memfd is not as promised");
    uint64_t page = (uint64_t)stat.st_blksize, skipped = offset % page;
    uint64_t length = (skipped + size + page - 1) / page * page;
    int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *at = mmap(NULL, length, access, MAP_SHARED | MAP_POPULATE, fd, (off_t)(offset - skipped));
    if (at == MAP_FAILED) fail("cannot map a memfd");
    return at + skipped;
}

struct segment { uint32_t access, first, count; uint8_t *base; };

/* ---- rings (sections 6 and 8) ---- */

static uint32_t capacity;

/* One ring from one side: `next` and `peer` are private, the words are shared. */
struct ring { _Atomic uint64_t *cells; _Atomic uint32_t *produced, *consumed; uint32_t next, peer; };

/* The part of a region that is queue pair `number`'s. */
static uint8_t *part(uint8_t *region, uint32_t number) {
    return region + 4096 + ((1024 + 16ul * capacity + 127) & ~127ul) * number;
}
static _Atomic uint32_t *word(uint8_t *part, int number) { return (void *)(part + 128 * number); }

/* Ring 0 or 1 that `writer` produces; the other region's part holds its consumed position. */
static struct ring ring(uint8_t *writer, uint8_t *reader, int number) {
    void *cells = writer + 1024 + 8ul * capacity * number;
    return (struct ring){ cells, word(writer, number), word(reader, 2 + number), 0, 0 };
}

/* As consumer: how many descriptors there are. */
static uint32_t available(struct ring *r) {
    uint32_t produced = atomic_load_explicit(r->produced, memory_order_acquire);
    if (produced - r->next > capacity || produced - r->next < r->peer - r->next) broken("the daemon lies on a ring");
    r->peer = produced;
    return produced - r->next;
}
static uint64_t take(struct ring *r) {
    return atomic_load_explicit(&r->cells[r->next++ & (capacity - 1)], memory_order_relaxed);
}
static void release(struct ring *r) { atomic_store_explicit(r->consumed, r->next, memory_order_release); }

/* As producer: how many cells are free. */
static uint32_t room(struct ring *r) {
    uint32_t consumed = atomic_load_explicit(r->consumed, memory_order_acquire);
    if (consumed - r->peer > r->next - r->peer) broken("the daemon lies on a ring");
    r->peer = consumed;
    return capacity - (r->next - r->peer);
}
static void put(struct ring *r, uint64_t descriptor) {
    atomic_store_explicit(&r->cells[r->next++ & (capacity - 1)], descriptor, memory_order_relaxed);
}
static void publish(struct ring *r) { atomic_store_explicit(r->produced, r->next, memory_order_release); }

/* One queue pair: what it reads and writes, its rings, and its slots at rest. */
struct pair {
    uint8_t *in, *out;
    struct ring tx, fill, rx, completion;
    uint32_t first, count, *rest, resting;
};

/* ---- the echo ---- */

/* Turns a datagram for us around in place; 0 if it is something else. Swapping leaves all checksums right. */
static int turn(uint8_t *f, uint32_t length, const struct attached *me, uint16_t port) {
    uint8_t swap[6];
    if (length < 42 || f[12] != 8 || f[13] != 0 || f[14] != 0x45 || f[23] != UDP) return 0;
    if ((f[20] & 0x3f) || f[21]) return 0; /* a fragment */
    if (memcmp(f + 30, me->ipv4.bytes, 4) || (f[36] << 8 | f[37]) != port) return 0;
    memcpy(swap, f + 26, 4), memcpy(f + 26, f + 30, 4), memcpy(f + 30, swap, 4);
    memcpy(swap, f + 34, 2), memcpy(f + 34, f + 36, 2), memcpy(f + 36, swap, 2);
    memcpy(f, f + 6, 6), memcpy(f + 6, me->mac, 6);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: echo SOCKET PORT\n"), 2;
    struct sockaddr_un path = { .sun_family = AF_UNIX };
    strncpy(path.sun_path, argv[1], sizeof path.sun_path - 1);
    uint16_t port = (uint16_t)atoi(argv[2]);
    int control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (control < 0 || connect(control, (void *)&path, sizeof path)) fail(argv[1]);

    struct attach wish = { .version = 3, .name = "c-echo" };
    union body answer;
    int fds[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    ask(control, ATTACH, &wish, sizeof wish, ATTACHED, &answer, fds);
    struct attached me = answer.attached;
    if (me.version != 3) broken("the daemon speaks another version");
    capacity = me.ring_capacity;
    uint8_t *inbound = map(fds[0], 0, me.inbound_size, 0, 0x17);
    uint8_t *outbound = map(fds[1], 0, me.outbound_size, 1, 0x07);
    int kick = fds[2], wake = fds[3];
    struct segment segments[4], transmit = { 0 };
    int count = 0;
    for (int i = 0; i < 4 && me.segments[i].access; i++) {
        struct segment_info *s = &me.segments[i];
        if (s->descriptor > 7) broken("the daemon names a descriptor that it did not send");
        segments[count] = (struct segment){ s->access, s->first, s->count,
            map(fds[s->descriptor], s->offset, (uint64_t)s->count * me.slot_size, s->access == TRANSMIT,
                s->access == RECEIVE ? 0x17 : 0x07) };
        if (s->access == TRANSMIT) transmit = segments[count]; else count++;
    }
    if (!me.pairs || transmit.count % me.pairs) broken("the daemon's answer makes no sense");
    struct pair *pairs = calloc(me.pairs, sizeof *pairs);
    for (uint32_t i = 0; i < me.pairs; i++) {
        struct pair *p = &pairs[i];
        uint8_t *in = p->in = part(inbound, i), *out = p->out = part(outbound, i);
        p->tx = ring(out, in, 0), p->fill = ring(out, in, 1);
        p->rx = ring(in, out, 0), p->completion = ring(in, out, 1);
        p->count = transmit.count / me.pairs, p->first = transmit.first + p->count * i;
        p->rest = malloc(sizeof *p->rest * p->count);
        while (p->resting < p->count) p->rest[p->resting] = p->first + p->resting, p->resting++;
    }

    struct claim claim = { .first_port = port, .count = 1, .protocol = UDP };
    ask(control, CLAIM, &claim, sizeof claim, CLAIMED, &answer, NULL);
    port = answer.claim.first_port;
    printf("session %u: echo on udp port %u\n", me.session, port), fflush(stdout);

    for (int asleep = 0;;) {
        uint32_t work = 0;
        int kicks = 0;
        for (struct pair *p = pairs; p < pairs + me.pairs; p++) {
            uint32_t returned = available(&p->completion), frames = available(&p->rx), sent = 0;
            work |= returned | frames;
            for (; returned; returned--) {
                uint32_t slot = take(&p->completion) & 0xffffff;
                if (slot - p->first >= p->count || p->resting == p->count) broken("not a slot of ours");
                p->rest[p->resting++] = slot;
            }
            release(&p->completion);

            uint32_t space = room(&p->fill), cells = room(&p->tx);
            if (frames > space) frames = space;
            if (frames > BURST) frames = BURST;
            for (uint32_t i = 0; i < frames; i++) {
                uint64_t descriptor = take(&p->rx);
                uint32_t slot = descriptor & 0xffffff, offset = descriptor >> 24 & 0xfff;
                uint32_t length = descriptor >> 36 & 0xffff;
                const uint8_t *from = NULL;
                for (int s = 0; s < count && !from; s++)
                    if (slot - segments[s].first < segments[s].count)
                        from = segments[s].base + (uint64_t)(slot - segments[s].first) * me.slot_size + offset;
                if (!from || descriptor >> 52 || length < MIN_FRAME || offset + length > me.slot_size)
                    broken("not a frame");
                if (p->resting && sent < cells) {
                    uint32_t own = p->rest[p->resting - 1]; /* copied first, looked at after: sections 7 and 10 */
                    uint8_t *to = transmit.base + (uint64_t)(own - transmit.first) * me.slot_size;
                    memcpy(to, from, length);
                    if (turn(to, length, &me, port)) put(&p->tx, own | (uint64_t)length << 36), p->resting--, sent++;
                }
                put(&p->fill, slot);
            }
            release(&p->rx);
            publish(&p->fill);
            publish(&p->tx);
            atomic_thread_fence(memory_order_seq_cst);
            kicks |= frames && atomic_load_explicit(word(p->in, 4), memory_order_relaxed);
        }
        if (kicks) {
            uint64_t one = 1;
            if (write(kick, &one, sizeof one) < 0 && errno != EAGAIN) fail("cannot wake the daemon");
        }
        if (work) { /* section 9 */
            if (asleep)
                for (uint32_t i = 0; i < me.pairs; i++)
                    atomic_store_explicit(word(pairs[i].out, 4), 0, memory_order_relaxed);
            asleep = 0;
        } else if (!asleep) {
            for (uint32_t i = 0; i < me.pairs; i++)
                atomic_store_explicit(word(pairs[i].out, 4), 1, memory_order_relaxed);
            atomic_thread_fence(memory_order_seq_cst);
            asleep = 1; /* look once more */
        } else {
            struct pollfd wait[2] = { { wake, POLLIN, 0 }, { control, POLLIN, 0 } };
            if (poll(wait, 2, -1) < 0 && errno != EINTR) fail("cannot sleep");
            char bytes[64];
            if (wait[1].revents || (wait[0].revents && recv(wake, bytes, sizeof bytes, MSG_DONTWAIT) == 0))
                return 0; /* the session has ended */
        }
    }
}
