/* Opens many event streams at once, checks that each comes whole, and measures how old the events are on arrival.
 *
 *   client PORT STREAMS EVENTS INTERVAL_MS SKIP
 *
 * Sends STREAMS requests for EVENTS events every INTERVAL_MS to 127.0.0.1:PORT, at most OPENING of them without their
 * first event at a time. A header line from the environment variable HEADER goes along. The stand-in worker writes the time
 * (CLOCK_MONOTONIC) into each event. The first SKIP events of each stream are not measured.
 *
 * Prints "open" when every stream has had its first event or failed, and at the end one JSON object:
 *   opened, refused (no connection, or a status other than 200), broken (opened, then not all events, or no proper end),
 *   events (measured), and the events' age in nanoseconds: p50, p90, p99, p999, max.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OPENING = 128, BATCH = 256, LINE = 512, PATIENCE_S = 30 };
enum phase { HEAD, SIZE, DATA, DATA_END, LAST_LINE, TO_THE_END, COMPLETE };

typedef struct {
    int fd, events, done, opened;
    enum phase phase;
    size_t chunk;       /* DATA: bytes of the chunk still to come; SIZE: its size as far as read */
    char line[LINE];    /* of the head, or of the events; what is longer is cut */
    size_t length;
    int first_line, chunked;
} Stream;

static int port, streams, events, skip, epoll;
static const char *header, *interval;
static int started, pending, opened, refused, broken, finished;
static int64_t *ages;
static size_t measured;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* -- one stream's bytes */

static void an_event(Stream *s) {
    if (!strncmp(s->line, "data: [DONE]", 12)) { s->done = 1; return; }
    char *stamp = strncmp(s->line, "data: ", 6) ? NULL : strstr(s->line, "\"t\":");
    if (!stamp) return;
    if (!s->opened) { s->opened = 1; opened++; pending--; }
    if (s->events++ >= skip && measured < (size_t)streams * events) ages[measured++] = now() - atoll(stamp + 4);
}

/* One line of the head; returns 0 when the stream is refused. */
static int a_header(Stream *s) {
    if (s->first_line) { s->first_line = 0; return !strncmp(s->line, "HTTP/1.1 200", 12); }
    if (!strncasecmp(s->line, "transfer-encoding:", 18)) s->chunked = 1;
    if (!s->length) s->phase = s->chunked ? SIZE : TO_THE_END;
    return 1;
}

/* Collects a line; returns 1 when it is complete, without its end. */
static int a_line(Stream *s, char byte) {
    if (byte != '\n') { if (s->length < LINE - 1) s->line[s->length++] = byte; return 0; }
    if (s->length && s->line[s->length - 1] == '\r') s->length--;
    s->line[s->length] = 0;
    return 1;
}

/* Returns 0 when this cannot be what was asked for. */
static int take(Stream *s, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        char byte = data[i];
        switch (s->phase) {
        case HEAD:
            if (a_line(s, byte)) { if (!a_header(s)) return 0; s->length = 0; }
            break;
        case SIZE:
            if (byte == '\n') s->phase = s->chunk ? DATA : LAST_LINE;
            else if (byte != '\r') {
                int digit = byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10;
                if (digit < 0 || digit > 15) return 0;
                s->chunk = s->chunk * 16 + digit;
            }
            break;
        case DATA:
        case TO_THE_END:
            if (a_line(s, byte)) { an_event(s); s->length = 0; }
            if (s->phase == DATA && --s->chunk == 0) s->phase = DATA_END;
            break;
        case DATA_END:
            if (byte == '\n') s->phase = SIZE;
            break;
        case LAST_LINE:
            if (byte == '\n') s->phase = COMPLETE;
            break;
        case COMPLETE:
            return 0;
        }
    }
    return 1;
}

static void finish(Stream *s) {
    int whole = s->done && s->events == events && (s->phase == COMPLETE || s->phase == TO_THE_END);
    if (!s->opened) { pending--; refused++; }
    else if (!whole) broken++;
    close(s->fd);
    s->fd = -1;
    finished++;
}

/* -- all of them */

static void start(Stream *s) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char body[256], request[2048];
    snprintf(body, sizeof body, "{\"text\":\"%d, events=%d interval_ms=%s\",\"stream\":true}", started, events, interval);
    snprintf(request, sizeof request, "POST /generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n%s%s"
             "content-length: %zu\r\n\r\n%s", header ? header : "", header ? "\r\n" : "", strlen(body), body);
    started++;
    pending++;
    *s = (Stream){.fd = socket(AF_INET, SOCK_STREAM, 0), .first_line = 1};
    if (s->fd < 0 || connect(s->fd, (void *)&a, sizeof a) || write(s->fd, request, strlen(request)) < 0) { finish(s); return; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &e);
}

static void readable(Stream *s) {
    static char buffer[65536];
    ssize_t got = recv(s->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 || !take(s, buffer, got) || s->phase == COMPLETE) finish(s);
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static long long share(double p) { return measured ? ages[(size_t)(p * (measured - 1))] : 0; }

static void report(void) {
    qsort(ages, measured, sizeof *ages, by_size);
    printf("{\"opened\":%d,\"refused\":%d,\"broken\":%d,\"events\":%zu,"
           "\"p50\":%lld,\"p90\":%lld,\"p99\":%lld,\"p999\":%lld,\"max\":%lld}\n",
           opened, refused, broken, measured, share(.5), share(.9), share(.99), share(.999), share(1));
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives the benchmark */
    signal(SIGPIPE, SIG_IGN);
    if (argc != 6) { fprintf(stderr, "usage: client PORT STREAMS EVENTS INTERVAL_MS SKIP\n"); return 2; }
    port = atoi(argv[1]), streams = atoi(argv[2]), events = atoi(argv[3]), skip = atoi(argv[5]);
    header = getenv("HEADER"), interval = argv[4];
    epoll = epoll_create1(0);
    Stream *all = calloc(streams, sizeof *all);
    ages = calloc((size_t)streams * events, sizeof *ages);
    int64_t deadline = now() + (int64_t)((events * atof(interval) / 1e3 + PATIENCE_S) * 1e9);
    struct epoll_event ready[BATCH];
    for (int told = 0; finished < streams && now() < deadline;) {
        while (started < streams && pending < OPENING) start(all + started);
        if (!told && started == streams && !pending) { told = 1; printf("open\n"); fflush(stdout); }
        int count = epoll_wait(epoll, ready, BATCH, 100);
        for (int i = 0; i < count; i++) readable(ready[i].data.ptr);
    }
    for (Stream *s = all; s < all + started; s++) if (s->fd >= 0) finish(s);
    report();
}
