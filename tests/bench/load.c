/*
 * load: a load generator for servers that speak the Redis protocol.
 *
 * One thread, one epoll set, a fixed number of connections. Each connection repeats: write one batch of `pipeline`
 * commands (and one WAIT behind them when --wait-replicas is given), read every reply of the batch, note how long the
 * batch took. Latencies are therefore per batch. The rate counts commands, never the WAITs.
 *
 * Keys are "key:" and twelve digits, as redis-benchmark writes them: uniformly random below --keyspace, or ascending
 * for --op load. Every value of a run is the same --value-bytes random letters.
 *
 * Prints one JSON object. Exits with 1 and a line on stderr when the server refuses, hangs up, breaks the protocol or
 * stays silent for --stall-ms. Error replies are counted, not fatal.
 *
 * It does not reconnect, follow MOVED, or parse aggregate replies.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { KEY_BYTES = 16, KEY_DIGITS = 12, LINE_BYTES = 256, READ_BYTES = 1 << 16, EVENTS_PER_POLL = 256 };
enum op { OP_SET, OP_GET, OP_INCR, OP_MIXED, OP_LOAD };

static const char *const op_names[] = {"set", "get", "incr", "mixed", "load"};

/* ---- what the command line says ---- */

static struct {
    const char *host;
    int port, connections, pipeline;
    enum op op;
    long total;     /* commands; 0: no limit */
    double seconds; /* 0: no limit */
    long keyspace;
    int value_bytes, wait_replicas, get_percent, stall_ms;
    uint64_t seed;
} opt = {
    .host = "127.0.0.1", .port = 6379, .connections = 50, .pipeline = 1, .op = OP_SET, .keyspace = 100000,
    .value_bytes = 64, .get_percent = 50, .stall_ms = 10000, .seed = 1,
};

/* ---- one connection: the batch on its way, and where the reply parser stands ---- */

struct connection {
    int fd;
    char *out;
    size_t out_bytes, out_sent;
    bool polls_for_write;
    int batch_commands;
    int replies_due;
    double batch_began;
    char line[LINE_BYTES]; /* the reply line read so far, without its CRLF */
    int line_bytes;
    long bulk_due; /* bytes of a bulk string's body, with its CRLF, still to skip */
};

/* ---- what the run counts ---- */

static struct {
    long sent, done, errors, misses, short_waits;
    int active; /* connections with a batch on its way */
    char first_error[LINE_BYTES];
    float *batch_ms;
    long batches, batches_room;
} run;

/* A command of every batch is a copy of one of these; only the digits of its key change. */
struct command {
    char *bytes;
    size_t size, digits_at;
};

static struct command set_command, get_command, incr_command;
static char wait_bytes[96];
static size_t wait_size;
static int epoll_fd;
static uint64_t random_state;
static double deadline;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *allocate(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(void)
{
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- commands ---- */

static void prepare_command(struct command *command, const char *name, const char *value)
{
    size_t value_bytes = value == NULL ? 0 : strlen(value);
    command->bytes = allocate(NULL, value_bytes + 128);
    int n = sprintf(command->bytes, "*%d\r\n$%zu\r\n%s\r\n", value == NULL ? 2 : 3, strlen(name), name);
    n += sprintf(command->bytes + n, "$%d\r\n", KEY_BYTES);
    n += sprintf(command->bytes + n, "key:");
    command->digits_at = (size_t)n;
    n += sprintf(command->bytes + n, "%0*d\r\n", KEY_DIGITS, 0);
    if (value != NULL)
        n += sprintf(command->bytes + n, "$%zu\r\n%s\r\n", value_bytes, value);
    command->size = (size_t)n;
}

static void prepare_commands(void)
{
    char *value = allocate(NULL, (size_t)opt.value_bytes + 1);
    for (int i = 0; i < opt.value_bytes; i++)
        value[i] = (char)('a' + next_random() % 26);
    value[opt.value_bytes] = '\0';
    prepare_command(&set_command, "SET", value);
    prepare_command(&get_command, "GET", NULL);
    prepare_command(&incr_command, "INCR", NULL);
    free(value);
    if (opt.wait_replicas > 0) {
        char count[16];
        int digits = sprintf(count, "%d", opt.wait_replicas);
        wait_size = (size_t)sprintf(wait_bytes, "*3\r\n$4\r\nWAIT\r\n$%d\r\n%s\r\n$4\r\n1000\r\n", digits, count);
    }
}

static const struct command *choose_command(void)
{
    switch (opt.op) {
    case OP_GET:
        return &get_command;
    case OP_INCR:
        return &incr_command;
    case OP_MIXED:
        return next_random() % 100 < (uint64_t)opt.get_percent ? &get_command : &set_command;
    default:
        return &set_command;
    }
}

static char *append_command(char *at, const struct command *command, uint64_t key)
{
    memcpy(at, command->bytes, command->size);
    for (int i = KEY_DIGITS - 1; i >= 0; i--) {
        at[command->digits_at + (size_t)i] = (char)('0' + key % 10);
        key /= 10;
    }
    return at + command->size;
}

/* ---- sending ---- */

static void poll_for(struct connection *c, int operation, bool write_too)
{
    struct epoll_event event = {.events = EPOLLIN | (write_too ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
    c->polls_for_write = write_too;
}

/* Writes what the socket takes now; the rest when epoll says that there is room. */
static void flush_batch(struct connection *c)
{
    while (c->out_sent < c->out_bytes) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_bytes - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            die("send: %s", strerror(errno));
        c->out_sent += (size_t)n;
    }
    bool unsent = c->out_sent < c->out_bytes;
    if (unsent != c->polls_for_write)
        poll_for(c, EPOLL_CTL_MOD, unsent);
}

/* The size of the next batch; 0 once the run has sent all that it should. */
static int next_batch_commands(double now)
{
    if (opt.seconds > 0 && now >= deadline)
        return 0;
    if (opt.total > 0 && opt.total - run.sent < opt.pipeline)
        return (int)(opt.total - run.sent);
    return opt.pipeline;
}

/* The batch's clock starts at its first byte: building it is the client's time, not the server's. */
static void begin_batch(struct connection *c)
{
    int commands = next_batch_commands(now_seconds());
    if (commands == 0)
        return;
    char *at = c->out;
    for (int i = 0; i < commands; i++) {
        uint64_t key = opt.op == OP_LOAD ? (uint64_t)(run.sent + i) : next_random();
        at = append_command(at, choose_command(), key % (uint64_t)opt.keyspace);
    }
    memcpy(at, wait_bytes, wait_size);
    c->out_bytes = (size_t)(at - c->out) + wait_size;
    c->out_sent = 0;
    c->batch_commands = commands;
    c->replies_due = commands + (wait_size > 0 ? 1 : 0);
    run.sent += commands;
    run.active++;
    c->batch_began = now_seconds();
    flush_batch(c);
}

/* ---- receiving ---- */

static void end_batch(struct connection *c)
{
    if (run.batches == run.batches_room) {
        run.batches_room = run.batches_room == 0 ? 1 << 16 : run.batches_room * 2;
        run.batch_ms = allocate(run.batch_ms, (size_t)run.batches_room * sizeof *run.batch_ms);
    }
    run.batch_ms[run.batches++] = (float)((now_seconds() - c->batch_began) * 1e3);
    run.done += c->batch_commands;
    run.active--;
    begin_batch(c);
}

static void end_reply(struct connection *c)
{
    if (--c->replies_due == 0)
        end_batch(c);
}

static void note_error(const char *text)
{
    if (run.errors++ == 0)
        snprintf(run.first_error, sizeof run.first_error, "%s", text);
}

/* One reply line, without CRLF. The WAIT's reply is the last of its batch. */
static void take_line(struct connection *c, const char *line)
{
    if (c->replies_due == 0)
        die("a reply that nobody asked for: %s", line);
    switch (line[0]) {
    case '+':
        end_reply(c);
        break;
    case '-':
        note_error(line + 1);
        end_reply(c);
        break;
    case ':':
        if (wait_size > 0 && c->replies_due == 1 && atol(line + 1) < opt.wait_replicas)
            run.short_waits++;
        end_reply(c);
        break;
    case '$':
        if (atol(line + 1) >= 0) {
            c->bulk_due = atol(line + 1) + 2;
        } else {
            run.misses++;
            end_reply(c);
        }
        break;
    default:
        die("unexpected reply: %s", line);
    }
}

static void parse_replies(struct connection *c, const char *bytes, long size)
{
    const char *end = bytes + size;
    while (bytes < end) {
        if (c->bulk_due > 0) {
            long skip = c->bulk_due < end - bytes ? c->bulk_due : end - bytes;
            bytes += skip;
            c->bulk_due -= skip;
            if (c->bulk_due == 0)
                end_reply(c);
            continue;
        }
        char byte = *bytes++;
        if (byte == '\n') {
            c->line[c->line_bytes] = '\0';
            c->line_bytes = 0;
            take_line(c, c->line);
        } else if (byte != '\r' && c->line_bytes < LINE_BYTES - 1) {
            c->line[c->line_bytes++] = byte; /* an error text longer than this is cut */
        }
    }
}

static void read_replies(struct connection *c)
{
    static char buffer[READ_BYTES];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0)
        die("recv: %s", strerror(errno));
    if (n == 0)
        die("the server closed a connection after %ld replies", run.done);
    parse_replies(c, buffer, n);
}

/* ---- the run ---- */

static void open_connection(struct connection *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    if (inet_pton(AF_INET, opt.host, &address.sin_addr) != 1)
        die("not an IPv4 address: %s", opt.host);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect to %s:%d: %s", opt.host, opt.port, strerror(errno));
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl: %s", strerror(errno));
    size_t longest = set_command.size > incr_command.size ? set_command.size : incr_command.size;
    c->out = allocate(NULL, longest * (size_t)opt.pipeline + wait_size);
    poll_for(c, EPOLL_CTL_ADD, false);
}

static void drive(struct connection *connections)
{
    for (int i = 0; i < opt.connections; i++)
        begin_batch(&connections[i]);
    struct epoll_event events[EVENTS_PER_POLL];
    while (run.active > 0) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_PER_POLL, opt.stall_ms);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0)
            die("epoll_wait: %s", strerror(errno));
        if (ready == 0)
            die("no reply for %d ms on %d connections", opt.stall_ms, run.active);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                flush_batch(c);
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                read_replies(c);
        }
    }
}

static int by_value(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* The nearest-rank quantile of the sorted batch times; 0 when there are none. */
static double quantile_ms(double q)
{
    if (run.batches == 0)
        return 0;
    long rank = (long)(q * (double)run.batches);
    return run.batch_ms[rank < run.batches ? rank : run.batches - 1];
}

static void print_result(double elapsed, double cpu)
{
    for (char *p = run.first_error; *p != '\0'; p++) /* keep the JSON valid whatever the server said */
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
            *p = '?';
    qsort(run.batch_ms, (size_t)run.batches, sizeof *run.batch_ms, by_value);
    printf("{\"op\":\"%s\",\"rps\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,", op_names[opt.op],
           (double)run.done / elapsed, quantile_ms(0.50), quantile_ms(0.99), quantile_ms(1.0));
    printf("\"commands\":%ld,\"elapsed_s\":%.3f,\"client_cpu\":%.2f,", run.done, elapsed, cpu / elapsed);
    printf("\"errors\":%ld,\"first_error\":\"%s\",\"misses\":%ld,\"short_waits\":%ld}\n", run.errors,
           run.first_error, run.misses, run.short_waits);
}

/* ---- the command line ---- */

static const struct option long_options[] = {
    {"host", required_argument, NULL, 'h'},        {"port", required_argument, NULL, 'p'},
    {"connections", required_argument, NULL, 'c'}, {"total", required_argument, NULL, 'n'},
    {"seconds", required_argument, NULL, 't'},     {"pipeline", required_argument, NULL, 'P'},
    {"op", required_argument, NULL, 'o'},          {"keyspace", required_argument, NULL, 'r'},
    {"value-bytes", required_argument, NULL, 'd'}, {"wait-replicas", required_argument, NULL, 'w'},
    {"get-percent", required_argument, NULL, 'g'}, {"stall-ms", required_argument, NULL, 'S'},
    {"seed", required_argument, NULL, 's'},        {NULL, 0, NULL, 0},
};

static enum op parse_op(const char *name)
{
    for (int op = OP_SET; op <= OP_LOAD; op++)
        if (strcmp(name, op_names[op]) == 0)
            return (enum op)op;
    die("--op is one of set, get, incr, mixed, load; not %s", name);
    return OP_SET;
}

static void parse_options(int argc, char **argv)
{
    for (int o; (o = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (o) {
        case 'h': opt.host = optarg; break;
        case 'p': opt.port = atoi(optarg); break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'n': opt.total = atol(optarg); break;
        case 't': opt.seconds = atof(optarg); break;
        case 'P': opt.pipeline = atoi(optarg); break;
        case 'o': opt.op = parse_op(optarg); break;
        case 'r': opt.keyspace = atol(optarg); break;
        case 'd': opt.value_bytes = atoi(optarg); break;
        case 'w': opt.wait_replicas = atoi(optarg); break;
        case 'g': opt.get_percent = atoi(optarg); break;
        case 'S': opt.stall_ms = atoi(optarg); break;
        case 's': opt.seed = strtoull(optarg, NULL, 10); break;
        default: exit(1); /* getopt has said why */
        }
    }
    if (opt.op == OP_LOAD)
        opt.total = opt.keyspace;
    if (opt.total <= 0 && opt.seconds <= 0)
        die("give --total or --seconds");
    if (opt.connections < 1 || opt.pipeline < 1 || opt.keyspace < 1 || opt.value_bytes < 0)
        die("--connections, --pipeline and --keyspace start at 1, --value-bytes at 0");
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    random_state = opt.seed;
    prepare_commands();
    epoll_fd = epoll_create1(0);
    struct connection *connections = calloc((size_t)opt.connections, sizeof *connections);
    if (epoll_fd < 0 || connections == NULL)
        die("cannot set up: %s", strerror(errno));
    for (int i = 0; i < opt.connections; i++)
        open_connection(&connections[i]);

    double began = now_seconds(), cpu_began = cpu_seconds();
    deadline = began + opt.seconds;
    drive(connections);
    print_result(now_seconds() - began, cpu_seconds() - cpu_began);
    return 0;
}
