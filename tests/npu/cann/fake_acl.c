/* A CANN runtime on host memory: enough of libascendcl.so for the real torch_npu wheel to load and initialise.
 *
 * It has devices, memory, streams and events (all work is done when a call returns) and no kernels: an operator that
 * torch_npu hands to CANN fails with "no such kernel". What a test sets:
 *   FAKE_NPU_COUNT  devices on the machine, 2 unless given; 0: the driver finds none
 *   FAKE_NPU_SOC    what aclrtGetSocName answers, Ascend910B3 unless given
 * ASCEND_RT_VISIBLE_DEVICES is read as torch_npu reads it: ascending numbers, up to the first that is none.
 * Names, arguments and error codes are those of acl.h (CANN 8). torch_npu calls some by dlsym: what it does not find, it
 * does without.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, BAD_DEVICE = 107001, NO_MEMORY = 207001, NO_KERNEL = 500003, DEVICES = 16, BLOCK = 512 };
static const size_t TOTAL = (size_t)16 << 30; /* bytes that each device says it has */

static size_t used[DEVICES];
static int contexts[DEVICES]; /* a context is the address of its device's entry */
static __thread int device;

static int count(void) {
    const char *given = getenv("FAKE_NPU_COUNT"), *visible = getenv("ASCEND_RT_VISIBLE_DEVICES");
    int all = given ? atoi(given) : 2, seen = 0, last = -1;
    if (!visible) return all;
    while (*visible >= '0' && *visible <= '9') {
        int number = (int)strtol(visible, (char **)&visible, 10);
        if (number <= last || number >= all) break;
        last = number, seen++;
        if (*visible == ',') visible++;
    }
    return seen;
}

int aclInit(const char *config) { return count() > 0 ? OK : BAD_DEVICE; }
const char *aclGetRecentErrMsg(void) { return "fake CANN: no such kernel"; }
int aclGetDeviceCapability(uint32_t id, int kind, int64_t *value) { return *value = 20, OK; }

/* Devices and contexts */
const char *aclrtGetSocName(void) {
    const char *given = getenv("FAKE_NPU_SOC");
    return given ? given : "Ascend910B3";
}
int aclrtGetDeviceCount(uint32_t *found) { return *found = count(), *found ? OK : BAD_DEVICE; }
int aclrtSetDevice(int id) { return id < 0 || id >= count() ? BAD_DEVICE : (device = id, OK); }
int aclrtGetDevice(int *id) { return *id = device, OK; }
int aclrtCreateContext(void **context, int id) { return *context = &contexts[id], OK; }
int aclrtGetCurrentContext(void **context) { return *context = &contexts[device], OK; }
int aclrtSetCurrentContext(void *context) { return device = (int *)context - contexts, OK; }
int aclrtGetPrimaryCtxState(int id, uint32_t *flags, int *active) { return *active = 1, OK; }
int aclrtDeviceCanAccessPeer(int *can, int one, int other) { return *can = 0, OK; }
int aclrtDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, OK; }

/* Memory: one block in front of what the caller gets remembers its size and device. */
static int allocate(void **memory, size_t size, int id) {
    size_t whole = (size + BLOCK - 1) / BLOCK * BLOCK + BLOCK;
    size_t *front = aligned_alloc(BLOCK, whole + BLOCK);
    if (!front) return NO_MEMORY;
    front[0] = whole, front[1] = id;
    if (id >= 0) __atomic_add_fetch(&used[id], whole, __ATOMIC_RELAXED);
    return *memory = (char *)front + BLOCK, OK;
}
static int release(void *memory) {
    size_t *front = (size_t *)((char *)memory - BLOCK);
    if ((int)front[1] >= 0) __atomic_sub_fetch(&used[front[1]], front[0], __ATOMIC_RELAXED);
    return free(front), OK;
}
int aclrtMalloc(void **memory, size_t size, int policy) { return allocate(memory, size, device); }
int aclrtMallocAlign32(void **memory, size_t size, int policy) { return allocate(memory, size, device); }
int aclrtMallocHost(void **memory, size_t size) { return allocate(memory, size, -1); }
int aclrtMallocHostWithCfg(void **memory, size_t size, void *config) { return allocate(memory, size, -1); }
int aclrtFree(void *memory) { return release(memory); }
int aclrtFreeHost(void *memory) { return release(memory); }
int aclrtGetMemInfo(int kind, size_t *unused, size_t *total) {
    return *total = TOTAL, *unused = TOTAL - used[device], OK;
}
int aclrtMemcpy(void *to, size_t room, const void *from, size_t n, int kind) { return memmove(to, from, n), OK; }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t n, int kind, void *stream) {
    return memmove(to, from, n), OK;
}
int aclrtMemset(void *memory, size_t room, int value, size_t n) { return memset(memory, value, n), OK; }
int aclrtMemsetAsync(void *memory, size_t room, int value, size_t n, void *stream) { return memset(memory, value, n), OK; }

/* Virtual memory, for expandable segments: addresses first, usable once something is mapped. What is unmapped stays. */
int aclrtReserveMemAddress(void **address, size_t size, size_t alignment, void *wanted, uint64_t flags) {
    *address = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return *address == MAP_FAILED ? NO_MEMORY : OK;
}
int aclrtMallocPhysical(size_t **handle, size_t size, const void *properties, uint64_t flags) {
    *handle = malloc(2 * sizeof(size_t));
    (*handle)[0] = size, (*handle)[1] = device;
    return __atomic_add_fetch(&used[device], size, __ATOMIC_RELAXED), OK;
}
int aclrtFreePhysical(size_t *handle) {
    __atomic_sub_fetch(&used[handle[1]], handle[0], __ATOMIC_RELAXED);
    return free(handle), OK;
}
int aclrtMapMem(void *address, size_t size, size_t offset, size_t *handle, uint64_t flags) {
    return mprotect(address, size, PROT_READ | PROT_WRITE) ? NO_MEMORY : OK;
}

/* Streams, events and descriptors: handles that only have to differ from each other */
static int handle(void **made) { return *made = malloc(BLOCK), *made ? OK : NO_MEMORY; }
int aclrtCreateStream(void **stream) { return handle(stream); }
int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flag) { return handle(stream); }
int aclrtStreamQuery(void *stream, int *status) { return *status = 0, OK; } /* 0: complete */
int aclrtCreateEvent(void **event) { return handle(event); }
int aclrtCreateEventWithFlag(void **event, uint32_t flag) { return handle(event); }
int aclrtCreateEventExWithFlag(void **event, uint32_t flag) { return handle(event); }
int aclrtDestroyEvent(void *event) { return free(event), OK; }
int aclrtQueryEventStatus(void *event, int *status) { return *status = 1, OK; }     /* 1: complete */
int aclrtQueryEventWaitStatus(void *event, int *status) { return *status = 0, OK; } /* 0: complete */
int aclrtEventElapsedTime(float *milliseconds, void *start, void *end) { return *milliseconds = 0, OK; }
void *aclCreateTensorDesc(int type, int n, const int64_t *dims, int format) { return malloc(BLOCK); }
void *aclCreateDataBuffer(void *data, size_t size) { return malloc(BLOCK); }
void *aclopCreateAttr(void) { return malloc(BLOCK); }

/* Options */
int aclrtGetStreamOverflowSwitch(void *stream, uint32_t *flag) { return *flag = 0, OK; }
int aclGetCompileoptSize(int option) { return 64; }
int aclGetCompileopt(int option, char *value, size_t n) { return n ? (*value = 0, OK) : OK; }
int aclrtGetSysParamOpt(int option, int64_t *value) { return *value = 0, OK; }
int aclrtCtxGetSysParamOpt(int option, int64_t *value) { return *value = 0, OK; }

/* What has nothing to do here and succeeds (a caller's arguments are left alone) */
#define NOTHING(name) int name(void) { return OK; }
NOTHING(aclFinalize) NOTHING(aclAppLog) NOTHING(aclSetCompileopt) NOTHING(aclopSetModelDir)
NOTHING(aclmdlInitDump) NOTHING(aclmdlFinalizeDump) NOTHING(aclmdlSetDump)
NOTHING(aclDestroyDataBuffer) NOTHING(aclDestroyTensorDesc) NOTHING(aclopDestroyAttr)
NOTHING(aclrtResetDevice) NOTHING(aclrtDestroyStream) NOTHING(aclrtDestroyStreamForce)
NOTHING(aclrtSynchronizeStream) NOTHING(aclrtSynchronizeStreamWithTimeout)
NOTHING(aclrtSynchronizeDevice) NOTHING(aclrtSynchronizeDeviceWithTimeout)
NOTHING(aclrtRecordEvent) NOTHING(aclrtResetEvent) NOTHING(aclrtSynchronizeEvent)
NOTHING(aclrtSynchronizeEventWithTimeout) NOTHING(aclrtStreamWaitEvent)
NOTHING(aclrtUnmapMem) NOTHING(aclrtReleaseMemAddress)
NOTHING(aclrtSetDeviceSatMode) NOTHING(aclrtSetOpExecuteTimeOut) NOTHING(aclrtSetStreamOverflowSwitch)
NOTHING(aclrtGetDeviceUtilizationRate) NOTHING(aclrtSetSysParamOpt) NOTHING(aclrtCtxSetSysParamOpt)
NOTHING(MsprofRegisterCallback) NOTHING(MsprofReportAdditionalInfo) NOTHING(MsprofReportApi)
NOTHING(MsprofReportCompactInfo) NOTHING(MsprofGetHashId) NOTHING(MsprofSysCycleTime)

/* What the wheel is linked against and would need kernels or peers */
#define MISSING(name) int name(void) { return NO_KERNEL; }
MISSING(aclGetTensorDescDimV2) MISSING(aclGetTensorDescFormat) MISSING(aclGetTensorDescNumDims)
MISSING(aclGetTensorDescType) MISSING(aclSetTensorDescName) MISSING(aclSetTensorFormat)
MISSING(aclSetTensorPlaceMent) MISSING(aclSetTensorShape) MISSING(aclopCompileAndExecute)
MISSING(aclopSetAttrBool) MISSING(aclopSetAttrDataType) MISSING(aclopSetAttrFloat) MISSING(aclopSetAttrInt)
MISSING(aclopSetAttrListBool) MISSING(aclopSetAttrListFloat) MISSING(aclopSetAttrListInt)
MISSING(aclopSetAttrListListInt) MISSING(aclopSetAttrString) MISSING(aclrtBinaryGetFunction)
MISSING(aclrtBinaryLoadFromData) MISSING(aclrtDeviceEnablePeerAccess) MISSING(aclrtDeviceGetBareTgid)
MISSING(aclrtGetFunctionAddr) MISSING(aclrtMemExportToShareableHandle)
MISSING(aclrtMemImportFromShareableHandle) MISSING(aclrtMemSetPidToShareableHandle)
MISSING(aclrtProcessReport) MISSING(rtDevBinaryRegister) MISSING(rtFunctionRegister) MISSING(rtGetC2cCtrlAddr)
MISSING(rtKernelLaunch)
