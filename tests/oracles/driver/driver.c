/* A driver of CUDA without a GPU: it says of each call that it went well, and keeps what the last launch was given.
   cuda.core asks for its functions by name. */
#include <stdint.h>
#include <string.h>

typedef struct {
  uint32_t grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  uint32_t n_attributes;
} Config; /* as in cuda.h: CUlaunchConfig */

enum { MOST_PARAMETERS = 64, MAJOR = 75, MINOR = 76 };

int64_t launches, parameters; /* parameters: how many the kernel has, which Python sets */
uint64_t values[MOST_PARAMETERS];
Config config;

static int done(void) { return 0; }
static int give_13(int *version) { *version = 13000; return 0; }
static int give_0(int *device) { *device = 0; return 0; }
static int give_1(int *count) { *count = 1; return 0; }
static int give_handle(void **handle) { *handle = (void *)0x1000; return 0; }
static int give_text(int error, const char **text) { *text = "an error"; return 0; }

static int give_attribute(int *value, int attribute, int device) {
  *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1024;
  return 0;
}

static int launch(const Config *given, void *kernel, void **arguments, void **extra) {
  launches++;
  config = *given;
  for (int64_t k = 0; k < parameters; k++) values[k] = *(uint64_t *)arguments[k];
  return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  static const struct { const char *name; void *function; } known[] = {
    {"cuDriverGetVersion", give_13}, {"cuDeviceGetCount", give_1}, {"cuDeviceGet", give_0}, {"cuCtxGetDevice", give_0},
    {"cuDeviceGetAttribute", give_attribute}, {"cuLibraryLoadData", give_handle}, {"cuLibraryGetKernel", give_handle},
    {"cuCtxGetCurrent", give_handle}, {"cuDevicePrimaryCtxRetain", give_handle}, {"cuStreamGetCtx", give_handle},
    {"cuGetErrorName", give_text}, {"cuGetErrorString", give_text}, {"cuLaunchKernelEx", launch},
    {"cuGetProcAddress", cuGetProcAddress_v2},
  };
  *function = done;
  for (int k = 0; k < sizeof known / sizeof *known; k++)
    if (!strcmp(name, known[k].name)) *function = known[k].function;
  if (status) *status = 0;
  return 0;
}

int cuInit(uint32_t flags) { return 0; }
int cuDriverGetVersion(int *version) { return give_13(version); }
