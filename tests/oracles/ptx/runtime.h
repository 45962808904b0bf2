/* Runs the kernel that translate.py writes below the line that includes this file; Python calls `launch`.

   The threads of a block are fibres: each runs until it waits for its warp (shuffle or barrier of the warp) or its block
   (barrier), or exits. Blocks run one after the other. Memory is watched in words of 4 bytes: who wrote and who read a word
   last. Two accesses to a word race if one of them writes and they are ordered neither by being of one thread, nor by a
   barrier of their block, nor by a barrier of their warp. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { LOCAL, SHARED, GLOBAL, GENERIC };      /* spaces of memory */
enum { UP, DOWN, BFLY, IDX, SYNC };           /* what the lanes of a warp do together */
enum { NOBODY, THREAD, WARP, BLOCK, BLOCKS }; /* how far the unordered accesses to a word are spread */
enum { STACK_BYTES = 256 << 10, MESSAGE_BYTES = 4096 };
enum { RACES, OUT_OF_BOUNDS, UNWRITTEN_READS, DIVERGENT, BARRIERS, SHUFFLES, INSTRUCTIONS, COUNTS };

typedef struct { uint32_t spread, thread, line, interval, order; } Access;
typedef struct { Access write, read; } Word;
typedef struct { uint8_t *begin; int64_t size, written; Word *words; } Region;
typedef struct {
  enum { NEW, READY, AT_BARRIER, AT_WARP, EXITED } state;
  int line;                                                 /* of the PTX, where the thread waits */
  uint32_t tid, order;                                      /* order: the barriers of the warp so far */
  uint32_t mode, given, by, clamp, mask, result, in_range;  /* of what the lanes do together */
  int64_t instructions;
  Region local;
  char *stack;
  jmp_buf place;
} Thread;

static void kernel(Thread *c);
static uint8_t *parameters;
static uint32_t blocks, threads, block, dynamic_shared_bytes, noise_state;
static uint32_t interval, first_interval; /* from barrier to barrier, over all blocks; the first of the running block */
static int approximation, n_regions;
static Region *regions; /* [LOCAL] of the running thread, [SHARED] of the running block, the others global */
static Thread *running;
static jmp_buf scheduler;
static int64_t counts[COUNTS];
static char *messages;

/* Count a finding; the first of its sort at a line of the PTX is written down. */
static void note(int sort, const char *what, int line, Thread *c, Access *other) {
  char head[100], *end = messages + strlen(messages);
  counts[sort]++;
  snprintf(head, sizeof head, "%s at line %d,", what, line);
  if (strstr(messages, head) || end - messages > MESSAGE_BYTES - 400) return;
  end += sprintf(end, "%s thread %u of block %u", head, c->tid, block);
  if (other)
    end += sprintf(end, ", after thread %u of %s block at line %u", other->thread,
                   other->interval < first_interval ? "another" : "this", other->line);
  strcpy(end, "\n");
}

/* ---- memory */

static int is_ordered(Access *before, Thread *c) {
  if (before->spread == NOBODY) return 1;
  if (before->spread == BLOCKS || before->interval < first_interval) return 0;
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

/* The memory at an address; bytes that nothing else uses where `size` bytes there are not all of the launch's memory. */
static __attribute__((noinline)) void *access_memory(Thread *c, int space, uint64_t at, int size, int writes, int line) {
  static _Alignas(16) uint8_t nowhere[32];
  Region *region = regions + (space == GENERIC ? 0 : space), *end = space < GLOBAL ? region + 1 : regions + n_regions;
  while (region < end && (region->size < size || at - (uint64_t)region->begin > (uint64_t)region->size - size)) region++;
  if (region == end || at % size) {
    note(OUT_OF_BOUNDS, "access out of bounds or not aligned", line, c, NULL);
    return memset(nowhere, 0xff, sizeof nowhere);
  }
  uint64_t offset = at - (uint64_t)region->begin;
  Access other = {NOBODY};
  int unwritten = 0;
  for (Word *word = region->words + offset / 4; word <= region->words + (offset + size - 1) / 4; word++) {
    if (!is_ordered(&word->write, c)) other = word->write;
    else if (writes && !is_ordered(&word->read, c)) other = word->read;
    unwritten |= !writes && !region->written && word->write.spread == NOBODY;
    record(writes ? &word->write : &word->read, c, line);
  }
  if (other.spread != NOBODY) note(RACES, "race", line, c, &other);
  if (unwritten) note(UNWRITTEN_READS, "read of memory that nothing was written to", line, c, NULL);
  return (void *)at;
}

static Region new_region(int64_t size) {
  Region region = {aligned_alloc(16, size / 16 * 16 + 16), size, 0, calloc(size / 4 + 1, sizeof(Word))};
  memset(region.begin, 0xff, size); /* floats that are NaN */
  return region;
}

static void free_region(Region region) {
  free(region.begin);
  free(region.words);
}

/* ---- threads, warps and blocks */

static void wait_for(Thread *c, int state, int line) {
  c->state = state;
  c->line = line;
  if (!_setjmp(c->place)) _longjmp(scheduler, 1);
}

static uint32_t of_warp(Thread *c, int mode, uint32_t given, uint32_t by, uint32_t clamp, uint32_t mask, int line) {
  c->mode = mode; c->given = given; c->by = by; c->clamp = clamp; c->mask = mask;
  wait_for(c, AT_WARP, line);
  return c->result;
}

static void start(void) {
  kernel(running);
  wait_for(running, EXITED, 0);
}

/* Run a thread until it waits or exits. */
static void resume(Thread *c) {
  static ucontext_t fresh;
  running = c;
  regions[LOCAL] = c->local;
  if (_setjmp(scheduler)) return;
  if (c->state == READY) _longjmp(c->place, 1);
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = c->stack;
  fresh.uc_stack.ss_size = STACK_BYTES;
  makecontext(&fresh, start, 0);
  setcontext(&fresh);
}

/* All lanes of a warp have come to an instruction: do it (PTX ISA: shfl.sync, bar.warp.sync). */
static void of_all_lanes(Thread *warp, int lanes) {
  for (int lane = 0; lane < lanes; lane++) {
    Thread *c = warp + lane;
    int by = c->by & 31, segment = c->clamp >> 8 & 31, from = lane;
    int bound = (lane & segment) | (c->clamp & 31 & ~segment);
    switch (c->mode) {
      case UP: from = lane - by; break;
      case DOWN: from = lane + by; break;
      case BFLY: from = lane ^ by; break;
      case IDX: from = (lane & segment) | (by & ~segment); break;
      case SYNC: c->order++; break;
    }
    c->in_range = c->mode == UP ? from >= bound : from <= bound;
    c->result = warp[c->in_range && from < lanes ? from : lane].given;
    c->state = READY;
  }
  counts[SHUFFLES] += warp->mode != SYNC;
}

/* Run a warp until its threads wait for the block or have exited; false if some lanes wait for others that do not come. */
static int run_warp(Thread *warp, int lanes) {
  for (;;) {
    Thread *first = NULL;
    int together = 0;
    for (Thread *c = warp; c < warp + lanes; c++) {
      if (c->state <= READY) resume(c);
      if (c->state == AT_WARP && !first) first = c;
      together += c->state == AT_WARP && c->line == first->line && (c->mask | ~(~0u >> (32 - lanes))) == ~0u;
    }
    if (!first) return 1;
    if (together < lanes) {
      note(DIVERGENT, "shuffle or barrier of a warp without all of its lanes", first->line, first, NULL);
      return 0;
    }
    of_all_lanes(warp, lanes);
  }
}

static void run_block(Thread *all) {
  for (;; interval++) {
    Thread *first = NULL;
    for (uint32_t k = 0; k < threads; k += 32)
      if (!run_warp(all + k, threads - k < 32 ? threads - k : 32)) return;
    for (Thread *c = all; c < all + threads; c++) {
      if (c->state == EXITED) continue;
      if (!first) first = c;
      if (c->line != first->line) {
        Access other = {.thread = first->tid, .line = first->line, .interval = interval};
        note(DIVERGENT, "barrier that other threads do not reach", c->line, c, &other);
        return;
      }
      c->state = READY;
    }
    if (!first) return;
    counts[BARRIERS]++;
  }
}

/* `given`: two unused regions, then those of global memory; `text`: MESSAGE_BYTES for messages. Returns the counts. */
int64_t *launch(uint8_t *values, int grid, int size, int shared_bytes, Region *given, int n, int approximate, char *text) {
  parameters = values; blocks = grid; threads = size; dynamic_shared_bytes = shared_bytes;
  regions = given; n_regions = n; approximation = approximate; messages = text;
  interval = noise_state = 1;
  memset(counts, 0, sizeof counts);
  for (int k = GLOBAL; k < n; k++) regions[k].words = calloc(regions[k].size / 4 + 1, sizeof(Word));
  Thread *all = malloc(threads * sizeof(Thread));
  for (block = 0; block < blocks; block++) {
    first_interval = ++interval;
    regions[SHARED] = new_region(STATIC_SHARED_BYTES + shared_bytes);
    for (uint32_t k = 0; k < threads; k++)
      all[k] = (Thread){.tid = k, .local = new_region(LOCAL_BYTES), .stack = malloc(STACK_BYTES)};
    run_block(all);
    for (Thread *c = all; c < all + threads; c++) {
      if (c->instructions > counts[INSTRUCTIONS]) counts[INSTRUCTIONS] = c->instructions;
      free_region(c->local);
      free(c->stack);
    }
    free_region(regions[SHARED]);
  }
  for (int k = GLOBAL; k < n; k++) free(regions[k].words);
  free(all);
  return counts;
}

/* ---- arithmetic that C lacks */

static inline float as_f32(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline double as_f64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static inline uint32_t bits_of_f32(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline uint64_t bits_of_f64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }
static inline double upper_half(double x) { return as_f64(bits_of_f64(x) & 0xffffffff00000000ULL); }
static inline float saturated(float x) { return x > 0 ? fminf(x, 1) : 0; }
static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static uint64_t insert_bits(uint64_t from, uint64_t into, uint32_t at, uint32_t count) {
  uint64_t mask = (count < 64 ? (1ULL << count) - 1 : ~0ULL) << at;
  return (from << at & mask) | (into & ~mask);
}

static __int128 to_integer(double x, int bits, int is_signed, int source_bits) { /* beyond the range: its end */
  __int128 most = ((__int128)1 << (bits - is_signed)) - 1, least = is_signed ? -most - 1 : 0;
  if (x != x) return source_bits == 32 && bits == 32 ? 0 : (__int128)1 << (bits - 1);
  return x <= (double)least ? least : x >= (double)most ? most : (__int128)x;
}

static __attribute__((noinline)) float rounded_fma(int direction, float a, float b, float c) {
  volatile float x = a, y = b, z = c, result;
  fesetround(direction);
  result = fmaf(x, y, z);
  fesetround(FE_TONEAREST);
  return result;
}

/* ---- approximations: 0 exact, 1 with errors as large as the PTX ISA allows, 2 likewise and log2 always too large */

static float noise(void) { /* -2**-22 to 2**-22 */
  noise_state = noise_state * 1664525u + 1013904223u;
  return (int32_t)noise_state * 0x1p-53f;
}
static float nearly(float x) { return approximation && x != 1 ? x * (1 + noise()) : x; }
static float nearly_log2(float x) {
  return (float)log2(x) + (approximation == 0 || x == 1 ? 0 : approximation == 2 ? 0x1p-22f : noise());
}
