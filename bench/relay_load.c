// Load for bench/relay.py: many browsers (or, with -R, plain TCP clients) in one process, epoll. Does the WebSocket
// upgrade and the RFB 3.8 handshake, then by mode:
//   bulk: takes what comes   lat: sends a KeyEvent, waits for its echo, again   rate: opens, waits for ServerInit, closes
//   idle: stays              stall: reads nothing more
// Prints OPEN, START and END for whoever measures the relay meanwhile, and one line of JSON.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTING, UPGRADE, VERSION, TYPES, RESULT, INIT, OPEN, CLOSED };
typedef struct {
  int fd, step, need, headn, hn;
  char head[2048];
  unsigned char h[14];
  uint64_t left;
  int op;
  double began, sent;
  int got;
} Conn;

static char *mode = "bulk", *path = "/", *protocols = "binary", *extra = "";
static int port = 8000, count = 1, raw, ep, opened, failed, measuring;
static double seconds = 2, warm = 0.5;
static uint64_t bytes, echoes, setups;
static Conn *conns;
static float *samples;
static size_t nsamples, room;
static unsigned char buffer[1 << 20];
static int is_bulk, is_lat, is_rate, is_stall;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void sample(double value) {
  if (!measuring) return;
  if (nsamples == room) samples = realloc(samples, (room = room ? room * 2 : 65536) * sizeof *samples);
  samples[nsamples++] = value * 1e6;
}

static int by_value(const void *a, const void *b) {
  float x = *(float *)a, y = *(float *)b;
  return x < y ? -1 : x > y;
}

static void watch(Conn *c, int op, unsigned events) {
  struct epoll_event e = {.events = events, .data.ptr = c};
  epoll_ctl(ep, op, c->fd, &e);
}

static void start(Conn *c) {
  static unsigned next;
  int one = 1, small = 32768, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    perror("socket");
    exit(1);
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);  // as in relay_source.c
  if (is_stall) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  // Many loopback addresses: one address has too few ports for a long run of connects.
  char ip[32];
  snprintf(ip, sizeof ip, "127.0.%u.%u", 1 + next / 200 % 200, 2 + next % 200);
  next++;
  setsockopt(fd, SOL_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET};
  inet_pton(AF_INET, ip, &a.sin_addr);
  bind(fd, (void *)&a, sizeof a);
  memset(c, 0, sizeof *c);
  c->fd = fd;
  c->began = now();
  a.sin_port = htons(port);
  inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
  connect(fd, (void *)&a, sizeof a);
  watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void lost(Conn *c) {
  if (c->step == OPEN) opened--;
  failed++;
  close(c->fd);
  c->step = CLOSED;
}

static void put(Conn *c, int op, const void *data, size_t n) {
  unsigned char f[256], mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  if (raw) {
    if (op == 2 && send(c->fd, data, n, MSG_NOSIGNAL) < 0) errno = 0;
    return;
  }
  f[0] = 0x80 | op;
  f[1] = 0x80 | n;
  memcpy(f + 2, mask, 4);
  for (size_t i = 0; i < n; i++) f[6 + i] = ((unsigned char *)data)[i] ^ mask[i & 3];
  if (send(c->fd, f, n + 6, MSG_NOSIGNAL) < 0) errno = 0;
}

static void key(Conn *c) {
  static unsigned char k[8] = {4, 1};
  c->sent = now();
  put(c, 2, k, 8);
}

static void open_now(Conn *c) {
  c->step = OPEN;
  opened++;
  if (is_rate) {
    if (measuring) setups++;
    sample(now() - c->began);
    put(c, 8, "\x03\xe8", 2);
    opened--;
    close(c->fd);
    c->step = CLOSED;
    start(c);
  } else if (is_stall) {
    watch(c, EPOLL_CTL_MOD, 0);
  }
}

static void rfb(Conn *c, size_t n) {  // n payload bytes; what they say is known
  while (n && c->step < OPEN) {
    size_t take = n < (size_t)c->need ? n : (size_t)c->need;
    n -= take;
    if ((c->need -= take)) return;
    switch (c->step++) {
      case VERSION: put(c, 2, "RFB 003.008\n", 12); c->need = 2; break;
      case TYPES: put(c, 2, "\1", 1); c->need = 4; break;
      case RESULT: put(c, 2, "\1", 1); c->need = 28; break;
      default: open_now(c); if (c->step != OPEN) return;
    }
  }
  if (c->step != OPEN || !n) return;
  bytes += n;
  if (is_lat)
    for (c->got += n; c->got >= 8; c->got -= 8) {
      sample(now() - c->sent);
      if (measuring) echoes++;
      key(c);
    }
}

static void frames(Conn *c, unsigned char *b, size_t n) {
  if (raw) {
    rfb(c, n);
    return;
  }
  for (size_t i = 0; i < n && c->step != CLOSED && c->step != CONNECTING;) {
    if (c->left) {
      size_t take = n - i < c->left ? n - i : c->left;
      c->left -= take;
      if (c->op <= 2) rfb(c, take);
      else if (c->op == 9 && !c->left) put(c, 10, b + i, take < 100 ? take : 100);
      i += take;
      continue;
    }
    c->h[c->hn++] = b[i++];
    int need = c->hn < 2 ? 2 : c->h[1] < 126 ? 2 : c->h[1] == 126 ? 4 : 10;
    if (c->hn < need) continue;
    c->op = c->h[0] & 15;
    c->left = c->h[1] < 126 ? c->h[1] : 0;
    for (int k = 2; k < need; k++) c->left = c->left << 8 | c->h[k];
    c->hn = 0;
  }
}

static void hello(Conn *c) {
  c->need = 12;
  watch(c, EPOLL_CTL_MOD, EPOLLIN);
  if (raw) {
    c->step = VERSION;
    return;
  }
  char b[2048];
  int n = snprintf(b, sizeof b,
                   "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Origin: http://127.0.0.1:%d\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n%s\r\n",
                   path, port, port, protocols, extra);
  if (send(c->fd, b, n, MSG_NOSIGNAL) != n) lost(c);
  else c->step = UPGRADE;
}

static void upgrade(Conn *c) {
  ssize_t n = recv(c->fd, c->head + c->headn, sizeof c->head - 1 - c->headn, 0);
  if (n <= 0) {
    lost(c);
    return;
  }
  c->head[c->headn += n] = 0;
  char *end = strstr(c->head, "\r\n\r\n");
  if (!end) return;
  if (strncmp(c->head, "HTTP/1.1 101", 12)) {
    lost(c);
    return;
  }
  c->step = VERSION;
  end += 4;
  frames(c, (unsigned char *)end, c->head + c->headn - end);
}

static void readable(Conn *c) {
  if (c->step == UPGRADE) {
    upgrade(c);
    return;
  }
  for (int i = 0; i < 8; i++) {
    ssize_t n;
    // The middle of a large frame is thrown away by the kernel, so that the load is never the bottleneck.
    int skip = is_bulk && c->step == OPEN && (raw || c->left > 32768);
    if (skip) {
      n = recv(c->fd, buffer, raw || c->left > sizeof buffer ? sizeof buffer : c->left, MSG_TRUNC | MSG_DONTWAIT);
      if (n > 0) {
        bytes += n;
        if (!raw) c->left -= n;
        continue;
      }
    } else {
      size_t want = is_bulk && c->step == OPEN ? (c->left ? c->left : (size_t)(14 - c->hn)) : 65536;
      n = recv(c->fd, buffer, want, MSG_DONTWAIT);
      if (n > 0) {
        frames(c, buffer, n);
        if (!is_bulk || c->step != OPEN) return;
        continue;
      }
    }
    if (n == 0 || errno != EAGAIN) lost(c);
    return;
  }
}

static void turn(double wait) {
  struct epoll_event events[512];
  struct timespec t = {.tv_sec = wait, .tv_nsec = (wait - (time_t)wait) * 1e9};
  int n = epoll_pwait2(ep, events, 512, &t, 0);
  for (int i = 0; i < n; i++) {
    Conn *c = events[i].data.ptr;
    if (c->step == CLOSED) continue;
    if (c->step == CONNECTING) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
      if (error) lost(c);
      else hello(c);
    } else {
      readable(c);
    }
    if (is_rate && c->step == CLOSED) start(c);
  }
}

static void report(double elapsed, uint64_t first_bytes, double opening) {
  printf("{\"opened\":%d,\"failed\":%d,\"opening_seconds\":%.3f,\"seconds\":%.3f,\"mb_per_s\":%.2f", opened, failed, opening,
         elapsed, (bytes - first_bytes) / elapsed / 1e6);
  if (nsamples) {
    qsort(samples, nsamples, sizeof *samples, by_value);
    printf(",\"per_s\":%.1f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"max_us\":%.0f", (is_rate ? setups : echoes) / elapsed,
           samples[nsamples / 2], samples[nsamples * 99 / 100], samples[nsamples - 1]);
  }
  printf("}\n");
}

int main(int argc, char **argv) {
  for (int o; (o = getopt(argc, argv, "m:P:u:c:d:w:S:H:R")) > 0;) switch (o) {
      case 'm': mode = optarg; break;
      case 'P': port = atoi(optarg); break;
      case 'u': path = optarg; break;
      case 'c': count = atoi(optarg); break;
      case 'd': seconds = atof(optarg); break;
      case 'w': warm = atof(optarg); break;
      case 'S': protocols = optarg; break;
      case 'H': extra = optarg; break;
      case 'R': raw = 1; break;
      default: return 2;
    }
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct rlimit limit = {20000, 20000};
  setrlimit(RLIMIT_NOFILE, &limit);
  is_bulk = !strcmp(mode, "bulk"), is_lat = !strcmp(mode, "lat"), is_rate = !strcmp(mode, "rate");
  is_stall = !strcmp(mode, "stall");
  ep = epoll_create1(0);
  conns = calloc(count, sizeof *conns);
  double began = now(), until = began + 60;
  if (is_rate) {
    for (int i = 0; i < count; i++) start(&conns[i]);
  } else {
    for (int started = 0; opened + failed < count && now() < until;) {
      while (started < count && started - opened - failed < 32) start(&conns[started++]);
      turn(0.1);
    }
  }
  double opening = now() - began;
  printf("OPEN\n");
  fflush(stdout);
  if (is_lat)
    for (int i = 0; i < count; i++)
      if (conns[i].step == OPEN) key(&conns[i]);
  double from = now() + warm, to = from + seconds, t;
  uint64_t first_bytes = 0;
  while ((t = now()) < to) {
    if (!measuring && t >= from) {
      measuring = 1;
      from = t;
      first_bytes = bytes;
      printf("START\n");
      fflush(stdout);
    }
    turn((measuring ? to : from) - t);
  }
  double elapsed = now() - from;
  printf("END\n");
  fflush(stdout);
  report(elapsed, first_bytes, opening);
  return 0;
}
