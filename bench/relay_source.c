// A VNC-like source for bench/relay.py: one process, epoll. Speaks the RFB 3.8 handshake (security None), then does
// what its port says, counted from the port given as the first argument:
//   +0 bulk: 64 KiB writes without end      +1 echo: sends back what arrives      +2 idle: reads, says nothing
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BULK, ECHO, IDLE, KINDS };
enum { VERSION, CHOICE, CLIENT_INIT, RUN, LISTENER };
#define CHUNK 65536

typedef struct {
  int fd, kind, step, need, writing;
} Conn;

static unsigned char chunk[CHUNK], input[262144];
static int ep;

static void watch(Conn *c, int op, unsigned events) {
  struct epoll_event e = {.events = events, .data.ptr = c};
  epoll_ctl(ep, op, c->fd, &e);
}

static void end(Conn *c) {
  close(c->fd);
  free(c);
}

static int say(Conn *c, const void *data, size_t size) {
  return send(c->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size ? 0 : -1;
}

static void want_write(Conn *c, int on) {
  if (c->writing == on) return;
  c->writing = on;
  watch(c, EPOLL_CTL_MOD, EPOLLIN | (on ? EPOLLOUT : 0));
}

// Up to 512 KiB at once, so that several connections share the process fairly.
static int pump(Conn *c) {
  for (int i = 0; i < 8; i++) {
    ssize_t n = send(c->fd, chunk, CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n < CHUNK) break;
  }
  return 0;
}

// Consumes handshake bytes; returns how many were used, or -1.
static int handshake(Conn *c, const unsigned char *p, int n) {
  static const unsigned char init[28] = {2, 128, 1, 224, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0,
                                         0, 0, 0, 0, 0, 4, 't', 'e', 's', 't'};
  int used = 0;
  (void)p;
  while (c->step < RUN && used < n) {
    int take = n - used < c->need ? n - used : c->need;
    used += take;
    if ((c->need -= take)) break;
    c->need = 1;
    int bad = c->step == VERSION  ? say(c, "\1\1", 2)
              : c->step == CHOICE ? say(c, "\0\0\0\0", 4)
                                  : say(c, init, sizeof init);
    if (bad) return -1;
    if (++c->step == RUN && c->kind == BULK) want_write(c, 1);
  }
  return used;
}

static int readable(Conn *c) {
  ssize_t n = recv(c->fd, input, sizeof input, MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN)) return -1;
  if (n < 0) return 0;
  int used = c->step < RUN ? handshake(c, input, n) : 0;
  if (used < 0) return -1;
  if (c->kind == ECHO && used < n) return say(c, input + used, n - used);
  return 0;
}

static void accept_all(Conn *listener) {
  for (int fd; (fd = accept4(listener->fd, 0, 0, SOCK_NONBLOCK)) >= 0;) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Conn *c = calloc(1, sizeof *c);
    *c = (Conn){.fd = fd, .kind = listener->kind, .step = VERSION, .need = 12};
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    say(c, "RFB 003.008\n", 12);
  }
}

int main(int argc, char **argv) {
  int base = argc > 1 ? atoi(argv[1]) : 7100;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct rlimit limit = {20000, 20000};
  setrlimit(RLIMIT_NOFILE, &limit);
  for (int i = 0; i < CHUNK; i++) chunk[i] = i * 131 ^ (i >> 8) * 17;
  ep = epoll_create1(0);
  Conn listeners[KINDS];
  for (int kind = 0; kind < KINDS; kind++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(base + kind), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    // Accepted sockets inherit it. Congestion control that paces (bbr) would make the source the bottleneck.
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) {
      perror("bind");
      return 1;
    }
    listeners[kind] = (Conn){.fd = fd, .kind = kind, .step = LISTENER};
    watch(&listeners[kind], EPOLL_CTL_ADD, EPOLLIN);
  }
  printf("READY\n");
  fflush(stdout);
  for (;;) {
    struct epoll_event events[256];
    int n = epoll_wait(ep, events, 256, -1);
    for (int i = 0; i < n; i++) {
      Conn *c = events[i].data.ptr;
      if (c->step == LISTENER)
        accept_all(c);
      else if (events[i].events & (EPOLLHUP | EPOLLERR))
        end(c);
      else if ((events[i].events & EPOLLIN) && readable(c))
        end(c);
      else if ((events[i].events & EPOLLOUT) && pump(c))
        end(c);
    }
  }
}
