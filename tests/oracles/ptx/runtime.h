/* Runs a kernel that translate.py writes below the line that includes this file; Python calls `launch`.

   The threads of a block are fibres: each runs until it waits for its warp (shuffle, vote, barrier of the warp) or for its
   block (barrier), or exits. Blocks run one after the other. Memory is watched in words of 4 bytes: which thread wrote and
   which read a word last. Two accesses to a word race if one of them writes and they are ordered neither by being of one
   thread, nor by a barrier of their block, nor by a barrier of their warp. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { LOCAL, SHARED, GLOBAL, GENERIC };              /* spaces of memory */
enum { UP, DOWN, BFLY, IDX, ANY, ALL, BALLOT, SYNC }; /* what the lanes of a warp do together */
enum { NOBODY, THREAD, WARP, BLOCK, BLOCKS };         /* how far the unordered accesses of a kind are spread */
enum { STACK_BYTES = 256 << 10, MESSAGES = 8 };

typedef struct { uint32_t spread, thread, line, interval, order; } Access;
typedef struct { Access write, read; } Word;
typedef struct { uint8_t *begin; int64_t size, written; Word *words; } Region;
typedef struct {
  enum { READY, AT_BARRIER, AT_WARP, EXITED } state;
  int line;                                      /* of the PTX, where the thread waits */
  uint32_t tid, order;                           /* order: barriers of the warp so far */
  int mode, in_range;                            /* of what the lanes do together, like the next line */
  uint32_t given, b, clamp, mask, result;
  uint8_t *local, *shared, *stack;
  Region memory;                                 /* the local memory */
  int64_t instructions;
  int started;
  jmp_buf place;
} Thread;
typedef struct { const char *what; int64_t line, block, thread, other_line, other_thread; } Message;
typedef struct {
  int64_t races, out_of_bounds, unwritten_reads, divergent, barriers, shuffles, instructions, messages;
  Message message[MESSAGES];
} Findings;

static void kernel(Thread *c);
static Findings found;
static uint8_t **parameters;
static uint32_t blocks, threads, block, dynamic_shared_bytes;
static Region *regions; /* [LOCAL] of the running thread, [SHARED] of the running block, all others are global */
static int n_regions, approximation;
static uint32_t interval, first_interval; /* between two barriers, over all blocks; the first of the running block */
static uint32_t noise_state;
static Thread *running;
static jmp_buf scheduler;

static void note(int64_t *count, const char *what, int line, uint32_t thread, Access *other) {
  ++*count;
  for (int k = 0; k < found.messages; k++)
    if (found.message[k].what == what && found.message[k].line == line) return;
  if (found.messages < MESSAGES)
    found.message[found.messages++] =
        (Message){what, line, block, thread, other ? other->line : 0, other ? other->thread : 0};
}

/* ---- memory */

static int is_ordered(Access *before, Thread *c) {
  if (before->spread == NOBODY) return 1;
  if (before->interval < first_interval || before->spread == BLOCKS) return 0;
  if (before->interval < interval) return 1;
  if (before->spread == THREAD && before->thread == c->tid) return 1;
  return before->spread <= WARP && before->thread / 32 == c->tid / 32 && before->order < c->order;
}

static void record(Access *last, Thread *c, int line) {
  uint32_t spread = THREAD;
  if (!is_ordered(last, c)) {
    spread = last->interval < first_interval ? BLOCKS : last->thread / 32 != c->tid / 32 ? BLOCK : WARP;
    if (spread < last->spread) spread = last->spread;
  }
  *last = (Access){spread, c->tid, line, interval, c->order};
}

/* The memory of `size` bytes at an address, or bytes of no matter where the access is not allowed. */
static __attribute__((noinline)) void *access_memory(Thread *c, int space, uint64_t at, int size, int writes, int line) {
  static _Alignas(16) uint8_t nowhere[16];
  Region *region = regions + (space == GENERIC ? 0 : space), *end = space < GLOBAL ? region + 1 : regions + n_regions;
  while (region < end && at - (uint64_t)region->begin > (uint64_t)(region->size - size)) region++;
  if (region == end || at % size) {
    note(&found.out_of_bounds, "access out of bounds, or not aligned,", line, c->tid, NULL);
    return memset(nowhere, 0xff, sizeof nowhere);
  }
  uint64_t offset = at - (uint64_t)region->begin;
  for (Word *word = region->words + offset / 4; word <= region->words + (offset + size - 1) / 4; word++) {
    Access *other = !is_ordered(&word->write, c) ? &word->write : writes && !is_ordered(&word->read, c) ? &word->read : 0;
    if (other) note(&found.races, "race", line, c->tid, other);
    if (!writes && !region->written && word->write.spread == NOBODY)
      note(&found.unwritten_reads, "read of memory that nobody wrote", line, c->tid, NULL);
    record(writes ? &word->write : &word->read, c, line);
  }
  return (void *)at;
}

static Region poisoned(int64_t size) {
  Region region = {aligned_alloc(16, size + 16), size, 0, calloc(size / 4 + 1, sizeof(Word))};
  memset(region.begin, 0xff, size);
  return region;
}

static void release(Region region) { free(region.begin); free(region.words); }

/* ---- threads, warps and blocks */

static void wait_for(Thread *c, int state, int line) {
  c->state = state;
  c->line = line;
  if (!_setjmp(c->place)) _longjmp(scheduler, 1);
}

static void start(void) {
  kernel(running);
  running->state = EXITED;
  _longjmp(scheduler, 1);
}

static void resume(Thread *c) {
  static ucontext_t fresh;
  running = c;
  regions[LOCAL] = c->memory;
  if (_setjmp(scheduler)) return;
  if (c->started) _longjmp(c->place, 1);
  c->started = 1;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = c->stack;
  fresh.uc_stack.ss_size = STACK_BYTES;
  makecontext(&fresh, start, 0);
  setcontext(&fresh);
}

static void barrier(Thread *c, int line) { wait_for(c, AT_BARRIER, line); }

static uint32_t together(Thread *c, int mode, uint32_t given, uint32_t b, uint32_t clamp, uint32_t mask, int line) {
  c->mode = mode; c->given = given; c->b = b; c->clamp = clamp; c->mask = mask;
  wait_for(c, AT_WARP, line);
  return c->result;
}

/* All lanes of a warp have come to the same instruction: give each its result (PTX ISA, shfl.sync and vote.sync). */
static void exchange(Thread *warp, int lanes) {
  uint32_t ballot = 0, all = lanes == 32 ? ~0u : (1u << lanes) - 1;
  for (int lane = 0; lane < lanes; lane++) ballot |= (uint32_t)(warp[lane].given != 0) << lane;
  for (int lane = 0; lane < lanes; lane++) {
    Thread *c = warp + lane;
    int b = c->b & 31, clamp = c->clamp & 31, segment = c->clamp >> 8 & 31;
    int last = (lane & segment) | (clamp & ~segment), from = lane;
    switch (c->mode) {
      case UP: from = lane - b; c->in_range = from >= last; break;
      case DOWN: from = lane + b; c->in_range = from <= last; break;
      case BFLY: from = lane ^ b; c->in_range = from <= last; break;
      case IDX: from = (lane & segment) | (b & ~segment); c->in_range = from <= last; break;
      case ANY: c->result = ballot != 0; break;
      case ALL: c->result = ballot == all; break;
      case BALLOT: c->result = ballot; break;
      case SYNC: c->order++; break;
    }
    if (c->mode <= IDX) c->result = warp[c->in_range ? from : lane].given;
    c->state = READY;
  }
}

/* Run a warp until all its threads are at a barrier or have exited; 0 if not all came to what they do together. */
static int run_warp(Thread *warp, int lanes) {
  for (;;) {
    int waiting = 0, same = 1;
    Thread *first = NULL;
    for (int lane = 0; lane < lanes; lane++) if (warp[lane].state == READY) resume(warp + lane);
    for (int lane = 0; lane < lanes; lane++) {
      Thread *c = warp + lane;
      if (c->state != AT_WARP) continue;
      if (!first) first = c;
      waiting++;
      same &= c->line == first->line && c->mask == first->mask;
    }
    if (!waiting) return 1;
    uint32_t all = lanes == 32 ? ~0u : (1u << lanes) - 1;
    if (waiting < lanes || !same || (first->mask & all) != all) {
      note(&found.divergent, "not all lanes of the warp", first->line, first->tid, NULL);
      return 0;
    }
    if (first->mode <= IDX) found.shuffles++;
    exchange(warp, lanes);
  }
}

static void run_block(Thread *all) {
  for (;; interval++) {
    Thread *first = NULL;
    for (uint32_t k = 0; k < threads; k += 32)
      if (!run_warp(all + k, threads - k < 32 ? threads - k : 32)) return;
    for (uint32_t k = 0; k < threads; k++) {
      Thread *c = all + k;
      if (c->state == EXITED) continue;
      if (!first) first = c;
      if (c->line != first->line) {
        Access other = {.line = first->line, .thread = first->tid};
        note(&found.divergent, "barrier that not all threads reach", c->line, c->tid, &other);
        return;
      }
      c->state = READY;
    }
    if (!first) return;
    found.barriers++;
  }
}

/* `given` has two regions for local and shared memory, which are filled here, and those of global memory. */
Findings *launch(uint8_t **values, int grid, int size, int shared_bytes, Region *given, int n, int approximate) {
  found = (Findings){0};
  parameters = values; blocks = grid; threads = size; dynamic_shared_bytes = shared_bytes;
  regions = given; n_regions = n; approximation = approximate;
  for (int k = GLOBAL; k < n; k++) regions[k].words = calloc(regions[k].size / 4 + 1, sizeof(Word));
  interval = noise_state = 1;
  Thread *all = malloc(threads * sizeof(Thread));
  for (block = 0; block < blocks; block++) {
    first_interval = ++interval;
    regions[SHARED] = poisoned(STATIC_SHARED_BYTES + shared_bytes);
    for (uint32_t k = 0; k < threads; k++) {
      Region memory = poisoned(LOCAL_BYTES);
      all[k] = (Thread){.tid = k, .local = memory.begin, .shared = regions[SHARED].begin, .memory = memory,
                        .stack = malloc(STACK_BYTES)};
    }
    run_block(all);
    for (uint32_t k = 0; k < threads; k++) {
      if (all[k].instructions > found.instructions) found.instructions = all[k].instructions;
      release(all[k].memory);
      free(all[k].stack);
    }
    release(regions[SHARED]);
  }
  for (int k = GLOBAL; k < n; k++) free(regions[k].words);
  free(all);
  return &found;
}

/* ---- arithmetic that C lacks */

static inline float as_f32(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline double as_f64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static inline uint32_t bits_of_f32(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline uint64_t bits_of_f64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }

static inline uint64_t insert_bits(uint64_t from, uint64_t into, uint32_t at, uint32_t count) {
  uint64_t mask = (count < 64 ? (1ULL << count) - 1 : ~0ULL) << at;
  return (from << at & mask) | (into & ~mask);
}

static __int128 to_integer(double x, int bits, int is_signed, int source_bytes) {
  __int128 most = ((__int128)1 << (bits - is_signed)) - 1, least = is_signed ? -most - 1 : 0;
  if (x != x) return source_bytes == 4 && bits < 64 ? 0 : (__int128)1 << (bits - 1);
  return x <= (double)least ? least : x >= (double)most ? most : (__int128)x;
}

static __attribute__((noinline)) float rounded_fma(int direction, float a, float b, float c) {
  volatile float x = a, y = b, z = c, result;
  fesetround(direction);
  result = fmaf(x, y, z);
  fesetround(FE_TONEAREST);
  return result;
}

static inline float saturated(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
static inline double upper_half(double x) { return as_f64(bits_of_f64(x) & 0xffffffff00000000ULL); }

/* Approximations: 0 is exact, 1 has errors as large as the PTX ISA allows, 2 has those and log2 too large by the most. */
static float noise(void) { /* up to 2**-22 */
  noise_state = noise_state * 1664525u + 1013904223u;
  return (int32_t)noise_state * 0x1p-53f;
}
static float nearly(float x) { return approximation && x != 1 ? x * (1 + noise()) : x; }
static float nearly_log2(float x) {
  float exact = (float)log2(x);
  return !approximation || x == 1 ? exact : exact + (approximation == 2 ? 0x1p-22f : noise());
}
