/* A disk that fails: loaded before the C library, it lets calls on certain files fail as long as the rules say so.
 *
 * The rules lie in a file that the test writes and that is mapped here. Where a platter is given, it holds what really
 * reached the disk of the records: what was written before an fsync that succeeded. What was written before one that
 * failed never does, as with a kernel that takes such pages for clean.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, CHANGE = 8, RULES = 8, PATH = 4096 };

struct rule {
    uint32_t calls;
    int32_t error;
    uint64_t inode; /* of the only file that is meant, or 0 */
    uint64_t met;
    char part[104]; /* of the path; at its end if it ends with `$` */
};

static struct rule *rules;
static const char *platter;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAILING_DISK");
    int file = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    void *at = mmap(0, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) rules = at;
    syscall(SYS_close, file);
    platter = getenv("FAILING_DISK_PLATTER");
}

static int path_of(int fd, char *path) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path[0] == '/';
}

static int is_meant(const struct rule *rule, const char *path) {
    size_t part = strnlen(rule->part, sizeof rule->part), all = strlen(path);
    if (part == 0 || rule->part[part - 1] != '$') return strstr(path, rule->part) != 0;
    part -= 1;
    return all >= part && memcmp(path + all - part, rule->part, part) == 0;
}

/* Whether a call on a path fails, with `errno` set. */
static int fails(uint32_t call, const char *path, uint64_t inode) {
    for (int i = 0; rules && i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!(__atomic_load_n(&rule->calls, __ATOMIC_ACQUIRE) & call) || !is_meant(rule, path)) continue;
        if (rule->inode && rule->inode != inode) continue;
        __atomic_add_fetch(&rule->met, 1, __ATOMIC_RELAXED);
        errno = rule->error;
        return 1;
    }
    return 0;
}

static int is_watched(uint32_t call) {
    for (int i = 0; rules && i < RULES; i++)
        if (__atomic_load_n(&rules[i].calls, __ATOMIC_ACQUIRE) & call) return 1;
    return 0;
}

static int fd_fails(uint32_t call, int fd) {
    char path[PATH];
    struct stat facts;
    int kept = errno;
    if (!is_watched(call) || !path_of(fd, path)) return errno = kept, 0;
    int known = fstat(fd, &facts) == 0;
    errno = kept;
    return fails(call, path, known ? facts.st_ino : 0);
}

static int path_fails(uint32_t call, const char *path) {
    return is_watched(call) && path && fails(call, path, 0);
}

/* The platter. */

struct piece {
    char name[32];
    off_t at;
    size_t length;
};

static struct piece pieces[1 << 16];
static size_t count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The name of one of the records' files, or none. */
static int is_record(const char *path, char *name) {
    const char *last = strrchr(path, '/');
    last = last ? last + 1 : path;
    if (!platter || (strcmp(last, "records.db") && strcmp(last, "records.db-wal"))) return 0;
    strcpy(name, last);
    return 1;
}

static int fd_is_record(int fd, char *name) {
    char path[PATH];
    return platter && path_of(fd, path) && is_record(path, name);
}

static int on_platter(const char *name, int flags) {
    char path[PATH];
    snprintf(path, sizeof path, "%s/%s", platter, name);
    return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

static void wrote(int fd, off_t at, ssize_t length) {
    char name[32];
    int kept = errno;
    if (length > 0 && fd_is_record(fd, name)) {
        pthread_mutex_lock(&lock);
        if (count == sizeof pieces / sizeof *pieces) abort();
        strcpy(pieces[count].name, name);
        pieces[count].at = at;
        pieces[count++].length = length;
        pthread_mutex_unlock(&lock);
    }
    errno = kept;
}

/* What was written of a file reaches the platter, or never does. */
static void settle(int fd, int reaches) {
    char name[32];
    int kept = errno;
    if (!fd_is_record(fd, name)) return (void)(errno = kept);
    pthread_mutex_lock(&lock);
    int to = reaches ? on_platter(name, O_WRONLY | O_CREAT) : -1;
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        struct piece *piece = &pieces[i];
        if (strcmp(piece->name, name)) {
            pieces[left++] = *piece;
            continue;
        }
        char *bytes = reaches ? malloc(piece->length) : 0;
        if (bytes) {
            ssize_t got = syscall(SYS_pread64, fd, bytes, piece->length, piece->at);
            if (got > 0 && syscall(SYS_pwrite64, to, bytes, got, piece->at) != got) abort();
        }
        free(bytes);
    }
    count = left;
    if (to >= 0) syscall(SYS_close, to);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

static void cut(int fd, off_t length) {
    char name[32];
    int kept = errno;
    if (fd_is_record(fd, name)) {
        int to = on_platter(name, O_WRONLY | O_CREAT);
        if (syscall(SYS_ftruncate, to, length)) abort();
        syscall(SYS_close, to);
    }
    errno = kept;
}

static void removed(const char *path) {
    char name[32], there[PATH];
    int kept = errno;
    if (is_record(path, name)) {
        snprintf(there, sizeof there, "%s/%s", platter, name);
        syscall(SYS_unlinkat, AT_FDCWD, there, 0);
    }
    errno = kept;
}

/* The calls. */

ssize_t read(int fd, void *to, size_t length) {
    return fd_fails(READ, fd) ? -1 : syscall(SYS_read, fd, to, length);
}

ssize_t readv(int fd, const struct iovec *to, int parts) {
    return fd_fails(READ, fd) ? -1 : syscall(SYS_readv, fd, to, parts);
}

ssize_t pread64(int fd, void *to, size_t length, off64_t at) {
    return fd_fails(READ, fd) ? -1 : syscall(SYS_pread64, fd, to, length, at);
}

ssize_t pread(int fd, void *to, size_t length, off_t at) { return pread64(fd, to, length, at); }

ssize_t write(int fd, const void *from, size_t length) {
    if (fd_fails(WRITE, fd)) return -1;
    off_t at = platter ? syscall(SYS_lseek, fd, 0, SEEK_CUR) : 0;
    ssize_t done = syscall(SYS_write, fd, from, length);
    wrote(fd, at, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *from, int parts) {
    return fd_fails(WRITE, fd) ? -1 : syscall(SYS_writev, fd, from, parts);
}

ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) {
    if (fd_fails(WRITE, fd)) return -1;
    ssize_t done = syscall(SYS_pwrite64, fd, from, length, at);
    wrote(fd, at, done);
    return done;
}

ssize_t pwrite(int fd, const void *from, size_t length, off_t at) { return pwrite64(fd, from, length, at); }

static int truncated(int fd, off64_t length) {
    if (fd_fails(WRITE, fd)) return -1;
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0) cut(fd, length);
    return done;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

static int synced(int fd, long call) {
    int failed = fd_fails(SYNC, fd);
    settle(fd, !failed);
    return failed ? -1 : syscall(call, fd);
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int opened(int folder, const char *path, int flags, mode_t mode) {
    int changes = flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
    if (path_fails(changes ? CHANGE : READ, path)) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags)                                \
    mode_t mode = 0;                               \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                              \
        va_start(rest, flags);                     \
        mode = va_arg(rest, unsigned);             \
        va_end(rest);                              \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }

int rename(const char *from, const char *to) {
    if (path_fails(CHANGE, from) || path_fails(CHANGE, to)) return -1;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    if (path_fails(CHANGE, path)) return -1;
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0) removed(path);
    return done;
}

int mkdir(const char *path, mode_t mode) {
    return path_fails(CHANGE, path) ? -1 : syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int chmod(const char *path, mode_t mode) {
    return path_fails(CHANGE, path) ? -1 : syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

int fchmod(int fd, mode_t mode) { return fd_fails(CHANGE, fd) ? -1 : syscall(SYS_fchmod, fd, mode); }
