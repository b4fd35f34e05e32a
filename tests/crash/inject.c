/* Disk errors and wall-clock jumps for one process, switched on and off from outside while it runs.
 *
 * Preloaded (LD_PRELOAD) into a node; CRASH_FAULTS names the file of `struct faults` that both sides map. A call fails
 * when its error number is set, its path contains `match`, and `skip` earlier ones have been let through. What fails is
 * never carried out. CLOCK_REALTIME is shifted, the monotonic clocks are not: as when somebody sets the time of day.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults { /* tests/crash/inject.py: FAULTS */
    volatile int64_t clock_ms;
    volatile int32_t sync_errno;
    volatile int32_t read_errno;
    volatile int32_t write_errno;
    volatile int32_t rename_errno;
    volatile int32_t skip;
    volatile int32_t hits;
    volatile int32_t sync_delay_ms;
    char match[256];
};

static struct faults nothing;
static struct faults *faults = &nothing;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("CRASH_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        faults = map;
}

static int fails(const char *path, int number)
{
    if (!number || !strstr(path, faults->match))
        return 0;
    if (__sync_fetch_and_sub(&faults->skip, 1) > 0)
        return 0;
    faults->skip = 0;
    __sync_fetch_and_add(&faults->hits, 1);
    errno = number;
    return 1;
}

static int fails_at(int fd, int number)
{
    char link[64], path[4096];
    if (!number)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(path, number);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int slow_or_failed_sync(int fd)
{
    if (faults->sync_delay_ms)
        usleep(1000u * (unsigned)faults->sync_delay_ms);
    return fails_at(fd, faults->sync_errno);
}

int fdatasync(int fd) { return slow_or_failed_sync(fd) ? -1 : REAL(fdatasync)(fd); }
int fsync(int fd) { return slow_or_failed_sync(fd) ? -1 : REAL(fsync)(fd); }

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    return fails_at(fd, faults->read_errno) ? -1 : REAL(pread)(fd, data, size, at);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    return fails_at(fd, faults->read_errno) ? -1 : REAL(pread64)(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return fails_at(fd, faults->write_errno) ? -1 : REAL(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return fails_at(fd, faults->write_errno) ? -1 : REAL(pwrite64)(fd, data, size, at);
}

int posix_fallocate(int fd, off_t at, off_t size)
{
    return fails_at(fd, faults->write_errno) ? errno : REAL(posix_fallocate)(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    return fails_at(fd, faults->write_errno) ? errno : REAL(posix_fallocate64)(fd, at, size);
}

int rename(const char *old, const char *new)
{
    return fails(new, faults->rename_errno) ? -1 : REAL(rename)(old, new);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int status = real(clock, now);
    int64_t shift = faults->clock_ms;
    if (status == 0 && clock == CLOCK_REALTIME && shift) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + shift * 1000000LL;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return status;
}
