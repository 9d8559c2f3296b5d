// A power cut for one server: loaded with LD_PRELOAD, it keeps a journal of what the server asks the kernel to make durable.
//
// Writes go through to the files as always, so that the server works. A call of fsync and its kin is not carried out but noted,
// with the file's size at that moment: nothing here ever really loses power. After the server was killed, power_cut.rs reads the
// journal and takes out of the files whatever would not have survived; the rules are there.
//
// POWER_DIR is the directory that is watched, POWER_SYNC_MS how many milliseconds a sync takes, POWER_JOURNAL the journal, one line
// per event and one write() per line:
//     N path          something new has this name
//     R path TAB path renamed
//     X path TAB path exchanged
//     D path          removed
//     T size path     cut off at that size
//     S size path     synced when it had that size; a directory's size says nothing
// An event is noted after it has happened, and a sync before it would have: so nothing is taken for durable too early.
//
// Not seen: writes are appends as far as this layer is concerned (one that changes bytes which were synced before is kept,
// synced or not); hard links, and writes through mmap. What a server reads through io_uring or O_DIRECT
// passes by, and changes nothing: it is fsync that counts.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_MAX_BYTES (2 * PATH_MAX + 64)
// The function that this one stands in front of.
#define REAL(name) ((typeof(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        dprintf(STDERR_FILENO, "power: the C library has no %s\n", name);
        abort();
    }
    return found;
}

static void note(const char *line, int length) {
    static int journal = -1;
    if (journal < 0) {
        const char *path = getenv("POWER_JOURNAL");
        journal = path ? REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    }
    if (journal < 0 || write(journal, line, length) != length) {
        dprintf(STDERR_FILENO, "power: cannot write the journal: %s\n", strerror(errno));
        abort();
    }
}

// Whether a path is watched; makes it absolute.
static int watched(int dir, const char *path, char out[PATH_MAX]) {
    const char *root = getenv("POWER_DIR");
    char base[PATH_MAX] = "";
    if (!root || !path) return 0;
    if (path[0] != '/' && dir == AT_FDCWD && !getcwd(base, sizeof base)) return 0;
    if (path[0] != '/' && dir != AT_FDCWD) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    if (snprintf(out, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", path) >= PATH_MAX) return 0;
    return strncmp(out, root, strlen(root)) == 0;
}

static void event(char what, const char *path) {
    char line[LINE_MAX_BYTES];
    note(line, snprintf(line, sizeof line, "%c %s\n", what, path));
}

static void sized(char what, long long size, const char *path) {
    char line[LINE_MAX_BYTES];
    note(line, snprintf(line, sizeof line, "%c %lld %s\n", what, size, path));
}

static int exists(const char *path) { return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

// Opening makes a new file, or empties one that is there.
static int opened(int fd, int dir, const char *path, int flags, int was_there) {
    char full[PATH_MAX];
    int error = errno;
    if (fd >= 0 && watched(dir, path, full)) {
        if ((flags & O_CREAT) && !was_there) event('N', full);
        else if (flags & O_TRUNC) sized('T', 0, full);
    }
    errno = error;
    return fd;
}

static int there(int dir, const char *path, int flags) {
    char full[PATH_MAX];
    return (flags & O_CREAT) && watched(dir, path, full) ? exists(full) : 1;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        int was_there = there(AT_FDCWD, path, flags);                                                                  \
        return opened(REAL(name)(path, flags, mode), AT_FDCWD, path, flags, was_there);                                \
    }
#define OPENAT(name)                                                                                                   \
    int name(int dir, const char *path, int flags, ...) {                                                              \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        int was_there = there(dir, path, flags);                                                                       \
        return opened(REAL(name)(dir, path, flags, mode), dir, path, flags, was_there);                                \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode) {                                                                   \
        int flags = mode[0] == 'w' ? O_CREAT | O_TRUNC : mode[0] == 'a' ? O_CREAT : 0;                                 \
        int was_there = there(AT_FDCWD, path, flags);                                                                  \
        FILE *file = REAL(name)(path, mode);                                                                           \
        opened(file ? 0 : -1, AT_FDCWD, path, flags, was_there);                                                       \
        return file;                                                                                                   \
    }
FOPEN(fopen)
FOPEN(fopen64)

static int made(int result, char what, int dir, const char *path) {
    char full[PATH_MAX];
    int error = errno;
    if (result == 0 && watched(dir, path, full)) event(what, full);
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) { return made(REAL(mkdir)(path, mode), 'N', AT_FDCWD, path); }
int mkdirat(int dir, const char *path, mode_t mode) { return made(REAL(mkdirat)(dir, path, mode), 'N', dir, path); }
int rmdir(const char *path) { return made(REAL(rmdir)(path), 'D', AT_FDCWD, path); }
int unlink(const char *path) { return made(REAL(unlink)(path), 'D', AT_FDCWD, path); }
int remove(const char *path) { return made(REAL(remove)(path), 'D', AT_FDCWD, path); }
int unlinkat(int dir, const char *path, int flags) { return made(REAL(unlinkat)(dir, path, flags), 'D', dir, path); }

static int renamed(int result, int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char line[LINE_MAX_BYTES], a[PATH_MAX], b[PATH_MAX];
    int error = errno;
    if (result == 0 && watched(from_dir, from, a) && watched(to_dir, to, b))
        note(line, snprintf(line, sizeof line, "%c %s\t%s\n", flags & RENAME_EXCHANGE ? 'X' : 'R', a, b));
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    return renamed(REAL(rename)(from, to), AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return renamed(REAL(renameat)(from_dir, from, to_dir, to), from_dir, from, to_dir, to, 0);
}
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return renamed(REAL(renameat2)(from_dir, from, to_dir, to, flags), from_dir, from, to_dir, to, flags);
}
// ClickHouse renames its tables' definitions in this way.
long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    long result = REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (number == SYS_renameat2)
        renamed(result == 0 ? 0 : -1, (int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3], (unsigned)a[4]);
    return result;
}

// The path of an open file, if it is watched.
static int path_of(int fd, char path[PATH_MAX]) {
    char link[64], found[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, found, sizeof found - 1);
    if (n < 0) return 0;
    found[n] = 0;
    return watched(AT_FDCWD, found, path);
}

static int cut_off(int result, int fd, long long size) {
    char path[PATH_MAX];
    int error = errno;
    if (result == 0 && path_of(fd, path)) sized('T', size, path);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t size) { return cut_off(REAL(ftruncate)(fd, size), fd, size); }
int ftruncate64(int fd, off64_t size) { return cut_off(REAL(ftruncate64)(fd, size), fd, size); }

// -1 if the file is not watched, and is to be synced for real.
static int synced(int fd) {
    char path[PATH_MAX];
    struct stat stat;
    if (!path_of(fd, path) || fstat(fd, &stat) != 0) return -1;
    // A sync takes its time on a disk, and is worth nothing until it is over.
    const char *ms = getenv("POWER_SYNC_MS");
    usleep(ms ? 1000 * atoi(ms) : 0);
    sized('S', stat.st_size, path);
    return 0;
}

int fsync(int fd) { return synced(fd) == 0 ? 0 : REAL(fsync)(fd); }
int fdatasync(int fd) { return synced(fd) == 0 ? 0 : REAL(fdatasync)(fd); }
// Starts writing, and promises nothing.
int sync_file_range(int fd, off64_t from, off64_t bytes, unsigned flags) {
    char path[PATH_MAX];
    return path_of(fd, path) ? 0 : REAL(sync_file_range)(fd, from, bytes, flags);
}
