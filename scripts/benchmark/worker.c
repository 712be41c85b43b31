/* A stand-in for inference workers: one epoll thread that listens on many ports and answers at once, or paced.
 *
 *   worker COUNT        listens on COUNT free loopback ports, prints them in one line, serves until it is killed
 *
 * POST with "stream":true   text/event-stream; how many events and how far apart stands in the prompt, since routers
 *                           pass that on unchanged: "events=64 interval_ms=20". Interval 0: all at once. Each event is a
 *                           chunk and a write of its own, as from an engine, and carries the time of its write.
 * any other POST            a short JSON answer
 * GET                       what routers ask before they send anything: health, models, server info, load
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_BUFFER = 4096, LONGEST_HEAD = 65536, BATCH = 256, UNSCHEDULED = -1 };

typedef struct {
    int fd, listening;
    char *in;            /* bytes read and not yet answered */
    size_t used, size;
    size_t need;         /* bytes of the request under way, head included; 0: its head is not complete */
    int left;            /* events still to be sent */
    int64_t interval, due; /* ns */
    int slot;            /* in the heap, or UNSCHEDULED */
} Conn;

static int epoll, timer;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* -- when the next event of each paced stream is due: a binary heap */

static Conn **heap;
static int heap_used, heap_size;

static void place(int slot, Conn *c) { heap[slot] = c; c->slot = slot; }

static void sift(int slot, Conn *c) {
    while (slot > 0 && heap[(slot - 1) / 2]->due > c->due) {
        place(slot, heap[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    for (int child; (child = 2 * slot + 1) < heap_used; slot = child) {
        if (child + 1 < heap_used && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        place(slot, heap[child]);
    }
    place(slot, c);
}

static void schedule(Conn *c) {
    if (heap_used == heap_size) heap = realloc(heap, (heap_size = heap_size ? heap_size * 2 : 64) * sizeof *heap);
    sift(heap_used++, c);
}

static void unschedule(Conn *c) {
    Conn *last = heap[--heap_used];
    if (last != c) sift(c->slot, last);
    c->slot = UNSCHEDULED;
}

static void arm(void) {
    static int64_t armed;
    int64_t due = heap_used ? heap[0]->due : 0;
    if (due == armed) return;
    struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    armed = due;
}

/* -- answers */

/* Returns 0 when the reader is a whole socket buffer behind: no router should be, so the connection is given up. */
static int put(Conn *c, const char *data, size_t size) {
    return write(c->fd, data, size) == (ssize_t)size;
}

static int reply(Conn *c, const char *status, const char *json) {
    char out[2048];
    int size = snprintf(out, sizeof out, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                        status, strlen(json), json);
    return put(c, out, size);
}

static int event(Conn *c) {
    char text[256], out[300];
    int size = snprintf(text, sizeof text,
                        "data: {\"id\":\"cmpl-1\",\"t\":%lld,\"model\":\"stand-in\",\"text\":\" token\",\"choices\":[{\"index\":0,"
                        "\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n", (long long)now());
    size = snprintf(out, sizeof out, "%x\r\n%s\r\n", size, text);
    if (!put(c, out, size)) return 0;
    if (--c->left > 0) return 1;
    static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    return put(c, end, sizeof end - 1);
}

static int stream(Conn *c, const char *events, const char *interval) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    static uint32_t phase;
    c->left = events ? atoi(events + strlen("events=")) : 64;
    c->interval = interval ? atof(interval + strlen("interval_ms=")) * 1e6 : 0;
    if (!put(c, head, sizeof head - 1) || !event(c)) return 0;
    if (!c->interval) {
        while (c->left > 0) if (!event(c)) return 0;
    } else if (c->left > 0) { /* the streams' phases are spread evenly: multiples of the golden ratio */
        phase += 2654435769u;
        c->due = now() + (int64_t)(c->interval * (phase / 4294967296.0));
        schedule(c);
    }
    return 1;
}

static int post(Conn *c, const char *body, size_t size) {
    if (memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14))
        return stream(c, memmem(body, size, "events=", 7), memmem(body, size, "interval_ms=", 12));
    return reply(c, "200 OK",
                 "{\"id\":\"cmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"stand-in\",\"text\":\" Paris.\","
                 "\"choices\":[{\"index\":0,\"text\":\" Paris.\",\"message\":{\"role\":\"assistant\",\"content\":\" Paris.\"},"
                 "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":2,\"total_tokens\":10},"
                 "\"meta_info\":{\"id\":\"1\",\"prompt_tokens\":8,\"completion_tokens\":2,\"finish_reason\":{\"type\":\"stop\"}}}");
}

static int get(Conn *c, const char *target) {
    if (!strncmp(target, "/v1/models", 10))
        return reply(c, "200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"stand-in\",\"object\":\"model\",\"created\":1,"
                                  "\"owned_by\":\"stand-in\",\"max_model_len\":131072}]}");
    if (!strncmp(target, "/generate", 9)) return reply(c, "405 Method Not Allowed", "{}");
    if (!strncmp(target, "/get_load", 9) || !strncmp(target, "/load", 5) || !strncmp(target, "/v1/loads", 9))
        return reply(c, "200 OK", "[{\"dp_rank\":0,\"num_reqs\":0,\"num_waiting_reqs\":0,\"num_tokens\":0}]");
    return reply(c, "200 OK", "{\"status\":\"ok\",\"version\":\"1.0.0\",\"model_path\":\"stand-in\",\"tokenizer_path\":\"stand-in\","
                              "\"served_model_name\":\"stand-in\",\"model_type\":\"llama\",\"is_generation\":true,"
                              "\"max_total_num_tokens\":1000000}");
}

/* -- requests */

static void close_connection(Conn *c) {
    if (c->slot != UNSCHEDULED) unschedule(c);
    close(c->fd);
    free(c->in);
    free(c);
}

/* How many bytes the request at the beginning of the buffer has, 0 while that cannot be known. */
static size_t measure(Conn *c) {
    char *end = memmem(c->in, c->used < LONGEST_HEAD ? c->used : LONGEST_HEAD, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:"), *chunked = strcasestr(c->in, "\r\ntransfer-encoding:");
    *end = '\r';
    size_t head = end + 4 - c->in;
    if (!chunked) return head + (length ? strtoul(length + strlen("\r\ncontent-length:"), NULL, 10) : 0);
    char *last = memmem(end + 2, c->used - head + 2, "\r\n0\r\n\r\n", 7);
    return last ? (size_t)(last + 7 - c->in) : 0;
}

/* Answer what is complete. Returns 0 when the connection is to be closed. */
static int answer(Conn *c) {
    while (c->used) {
        if (!c->need) c->need = measure(c);
        if (!c->need || c->used < c->need) return 1;
        char *body = (char *)memmem(c->in, c->need, "\r\n\r\n", 4) + 4;
        int ok = !strncmp(c->in, "POST ", 5) ? post(c, body, c->in + c->need - body)
                 : !strncmp(c->in, "GET ", 4) ? get(c, c->in + 4) : 0;
        if (!ok) return 0;
        memmove(c->in, c->in + c->need, c->used -= c->need);
        c->need = 0;
    }
    return 1;
}

static void readable(Conn *c) {
    for (;;) {
        size_t want = c->need > c->used ? c->need : c->used + 1;
        if (want > c->size) c->in = realloc(c->in, c->size = want > 2 * c->size ? want : 2 * c->size);
        size_t room = c->size - c->used;
        ssize_t got = read(c->fd, c->in + c->used, room);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) break;
        c->used += got;
        if (!answer(c)) break;
        if ((size_t)got < room) return; /* nothing more for now: epoll tells of what comes */
    }
    close_connection(c);
}

static void watch(Conn *c) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
}

static void accept_all(Conn *listener) {
    int one = 1;
    for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Conn *c = calloc(1, sizeof *c);
        *c = (Conn){.fd = fd, .in = malloc(FIRST_BUFFER), .size = FIRST_BUFFER, .slot = UNSCHEDULED};
        watch(c);
    }
}

static void send_due(void) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) exit(1);
    for (int64_t t = now(); heap_used && heap[0]->due <= t;) {
        Conn *c = heap[0];
        if (!event(c)) {
            close_connection(c);
        } else if (c->left > 0) {
            c->due += c->interval;
            sift(0, c);
        } else {
            unschedule(c);
        }
    }
}

static int listen_anywhere(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    Conn *c = calloc(1, sizeof *c);
    *c = (Conn){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .listening = 1, .slot = UNSCHEDULED};
    if (bind(c->fd, (void *)&a, sizeof a) || listen(c->fd, 4096) || getsockname(c->fd, (void *)&a, &size)) {
        perror("worker: cannot listen");
        exit(1);
    }
    watch(c);
    return ntohs(a.sin_port);
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives the benchmark */
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e);
    for (int i = 0, count = argc > 1 ? atoi(argv[1]) : 1; i < count; i++) printf("%d ", listen_anywhere());
    printf("\n");
    fflush(stdout);
    struct epoll_event ready[BATCH];
    for (;;) {
        arm();
        int count = epoll_wait(epoll, ready, BATCH, -1), due = 0;
        for (int i = 0; i < count; i++) {
            Conn *c = ready[i].data.ptr;
            if (!c) due = 1;
            else if (c->listening) accept_all(c);
            else readable(c);
        }
        if (due) send_due(); /* last: it may close connections that `ready` still names */
    }
}
