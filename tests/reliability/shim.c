/* Stands between a process and its C library, counts the calls that change files below one folder, and at the n-th of
 * them kills the process or lets the call fail. Loaded by LD_PRELOAD; controlled by `chaos_arm` from within, or by
 * variables of the environment: CHAOS_ROOT, CHAOS_AT (from 0), CHAOS_ACT, CHAOS_ERRNO, CHAOS_TRACE (a file that gets a
 * line a call, and "hit" where it struck), CHAOS_FOR_S (after which a disk that fails from there on works again);
 * CHAOS_ALONE: what the process starts is not meant; CHAOS_SKEW_S moves the clock, CHAOS_STALE_S is for how long a look
 * into a folder lasts. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum act { COUNT, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL, FAIL_ON, SHORT };

static char root[PATH_MAX], trace[PATH_MAX];
static long at = -1, seen, struck;
static int act = COUNT, number, failing_fd = -1, is_busy;
static double skew_s, stale_s, for_s, since;
static char word[32];

/* As NFS has it: what a process sees of a folder is what was there when it first looked, for so many seconds; a change
 * of its own shows it all of the folder, and a name that is in its way (EEXIST) or that it has once seen it knows. */
#define MOST 4096
static ino_t seen_names[MOST];
static struct { ino_t folder; double t; } looks[MOST];
static unsigned num_names, num_looks;

static void note(const char *word, const char *path) {
    if (!*trace) return;
    char line[PATH_MAX + 64];
    int size = snprintf(line, sizeof line, "%s %s\n", word, path);
    int file = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file >= 0) {
        syscall(SYS_write, file, line, size);
        syscall(SYS_close, file);
    }
}

void chaos_arm(const char *folder, long call, int what, int error, const char *file) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(trace, sizeof trace, "%s", file ? file : "");
    at = call, act = what, number = error, seen = struck = 0, failing_fd = -1;
}

void chaos_views(double skew, double stale) { skew_s = skew, stale_s = stale; }
long chaos_seen(void) { return seen; }
long chaos_struck(void) { return struck; }
const char *chaos_word(void) { return word; } /* the call that was struck last */

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("CHAOS_ROOT"), *value;
    if (folder) {
        const char *call = getenv("CHAOS_AT"), *what = getenv("CHAOS_ACT"), *error = getenv("CHAOS_ERRNO");
        chaos_arm(folder, call ? atol(call) : -1, what ? atoi(what) : COUNT, error ? atoi(error) : EIO,
                  getenv("CHAOS_TRACE"));
    }
    if ((value = getenv("CHAOS_FOR_S"))) for_s = atof(value);
    if ((value = getenv("CHAOS_SKEW_S"))) skew_s = atof(value);
    if ((value = getenv("CHAOS_STALE_S"))) stale_s = atof(value);
    if (getenv("CHAOS_ALONE")) unsetenv("LD_PRELOAD"); /* what it starts is not meant */
}

static int below_root(const char *path) {
    size_t size = strlen(root);
    return size && !strncmp(path, root, size) && (path[size] == '/' || !path[size]);
}

static int of_fd(int fd, char *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, found, PATH_MAX - 1);
    if (size < 0) return 0;
    found[size] = 0;
    return 1;
}

/* Whether a call on this path (or, with none, on this descriptor) is one of those meant. */
static int is_meant(int folder, const char *path, char *found) {
    int before = errno, answer = 0;
    if (!*root || is_busy) return 0;
    if (!path) {
        answer = of_fd(folder, found) && below_root(found);
    } else if (*path == '/') {
        snprintf(found, PATH_MAX, "%s", path);
        answer = below_root(found);
    } else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD ? getcwd(base, sizeof base) != NULL : of_fd(folder, base)) {
            snprintf(found, PATH_MAX, "%.2000s/%.2000s", base, path);
            answer = below_root(found);
        }
    }
    errno = before;
    return answer;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static double wall(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* Whether a disk fails at that call, which is not the first at which it does. */
static int still_fails(long place) {
    return act == FAIL_ON && at >= 0 && place > at && !(for_s > 0 && wall() - since > for_s);
}

/* Whether a full or failing disk would let this call through. */
static int spares(const char *name) {
    int full = number == ENOSPC || number == EDQUOT;
    return full && (!strncmp(name, "unlink", 6) || !strcmp(name, "rmdir") || !strcmp(name, "open-existing"));
}

/* Before a call: 1 if it is to fail, with errno set. Afterwards `after` is to be called. */
static int before(const char *name, const char *path, int *is_now) {
    long place = seen++;
    int is_write = !strcmp(name, "write");
    *is_now = place == at && (is_write || (act != KILL_WITHIN && act != SHORT)); /* nothing else can be half done */
    note(name, path);
    if (*is_now) since = wall();
    if (*is_now || still_fails(place)) {
        if ((act == FAIL || act == FAIL_ON) && spares(name)) {
            *is_now = 0;
            return 0;
        }
        struck++;
        snprintf(word, sizeof word, "%s", name);
        note("hit", path);
        if (act == KILL_BEFORE) die();
        if ((act == FAIL || act == FAIL_ON) && !is_write) {
            errno = number;
            return 1;
        }
    }
    return 0;
}

static void after(int is_now) {
    if (is_now && act == KILL_AFTER) die();
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define STEP(word, folder, path, call, type) \
    char found[PATH_MAX]; \
    int now = 0; \
    if (!is_meant(folder, path, found)) return call; \
    if (before(word, found, &now)) return -1; \
    type answer = call; \
    after(now); \
    return answer

static int status_of(int folder, const char *path, struct statx *status) {
    int before = errno, answer = syscall(SYS_statx, folder, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_CTIME, status);
    errno = before;
    return answer;
}

static ino_t folder_of(const char *path) {
    char above[PATH_MAX];
    struct statx status;
    snprintf(above, sizeof above, "%s", path);
    char *slash = strrchr(above, '/');
    if (!slash || slash == above) return 0;
    *slash = 0;
    return status_of(AT_FDCWD, above, &status) ? 0 : status.stx_ino;
}

static int is_known(ino_t name) {
    for (unsigned place = 0; place < (num_names < MOST ? num_names : MOST); place++)
        if (seen_names[place] == name) return 1;
    return 0;
}

static void know(ino_t name) {
    if (!is_known(name)) seen_names[num_names++ % MOST] = name;
}

/* When this process last looked into a folder; it looks anew if that is too long ago, or if it is told to. */
static double look_at(ino_t folder, int is_anew) {
    double now = wall();
    for (unsigned place = 0; place < (num_looks < MOST ? num_looks : MOST); place++)
        if (looks[place].folder == folder) {
            if (is_anew || now - looks[place].t > stale_s) looks[place].t = now;
            return looks[place].t;
        }
    looks[num_looks % MOST].folder = folder;
    looks[num_looks++ % MOST].t = now;
    return now;
}

/* After a call on a name: what this process sees from now on, the folders on the way there among it. */
static void learn(const char *path, int is_done) {
    char name[PATH_MAX];
    struct statx status;
    if (stale_s <= 0 || (!is_done && errno != EEXIST)) return;
    snprintf(name, sizeof name, "%s", path);
    while (strcmp(name, root)) {
        if (!status_of(AT_FDCWD, name, &status)) know(status.stx_ino);
        char *slash = strrchr(name, '/');
        if (!slash) break;
        *slash = 0;
    }
    if (is_done) look_at(folder_of(path), 1);
}

/* Whether a name is one that this process would not see yet, on a file system that shows changes late. */
static int is_hidden(int folder, const char *path) {
    char found[PATH_MAX];
    struct statx status;
    if (stale_s <= 0 || !is_meant(folder, path, found) || !strcmp(found, root)) return 0;
    double looked_t = look_at(folder_of(found), 0);
    if (status_of(AT_FDCWD, found, &status)) return 0;
    if (is_known(status.stx_ino)) return 0;
    if (status.stx_ctime.tv_sec + status.stx_ctime.tv_nsec / 1e9 <= looked_t) {
        know(status.stx_ino);
        return 0;
    }
    struck++;
    note("hidden", found);
    return 1;
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND))

static int do_open(int folder, const char *path, int flags, mode_t mode) {
    char found[PATH_MAX];
    int now = 0, meant = is_meant(folder, path, found);
    if (!(flags & O_EXCL) && meant && is_hidden(folder, path) && !(flags & O_CREAT)) {
        errno = ENOENT;
        return -1;
    }
    if (meant && WRITES(flags)) {
        if (before(flags & O_CREAT ? "open" : "open-existing", found, &now)) return -1;
    }
    int file = syscall(SYS_openat, folder, path, flags, mode);
    if (meant && (flags & O_CREAT)) learn(found, file >= 0);
    after(now);
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return do_open(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return do_open(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* A write that is to fail writes a half first, and fails when the rest is asked for, as disks do. */
static ssize_t do_write(int fd, const void *data, size_t size, off_t offset, int is_at) {
#define GO(bytes) (is_at ? syscall(SYS_pwrite64, fd, data, bytes, offset) : syscall(SYS_write, fd, data, bytes))
    char found[PATH_MAX];
    int now = 0;
    if (!is_meant(fd, NULL, found)) return GO(size);
    if (fd == failing_fd) {
        failing_fd = -1;
        errno = number;
        return -1;
    }
    before("write", found, &now);
    int fails = act == FAIL || act == FAIL_ON;
    if ((now || still_fails(seen - 1)) && size) {
        if (act == KILL_WITHIN) {
            GO(size / 2);
            die();
        }
        if (fails && now && size > 1) {
            failing_fd = fd;
            return GO(size / 2);
        }
        if (fails) {
            errno = number;
            return -1;
        }
        if (act == SHORT) return GO(1);
    }
    ssize_t answer = GO(size);
    after(now);
    return answer;
}

ssize_t write(int fd, const void *data, size_t size) { return do_write(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return do_write(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return do_write(fd, data, size, offset, 1); }

ssize_t sendfile64(int out, int in, off_t *offset, size_t size) {
    STEP("sendfile", out, NULL, syscall(SYS_sendfile, out, in, offset, size), ssize_t);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
    STEP("copy_file_range", out, NULL, syscall(SYS_copy_file_range, in, from, out, to, size, flags), ssize_t);
}

int fsync(int fd) { STEP("fsync", fd, NULL, syscall(SYS_fsync, fd), int); }
int fdatasync(int fd) { STEP("fdatasync", fd, NULL, syscall(SYS_fdatasync, fd), int); }
int syncfs(int fd) { STEP("syncfs", fd, NULL, syscall(SYS_syncfs, fd), int); }
int ftruncate(int fd, off_t size) { STEP("ftruncate", fd, NULL, syscall(SYS_ftruncate, fd, size), int); }
int ftruncate64(int fd, off_t size) { STEP("ftruncate", fd, NULL, syscall(SYS_ftruncate, fd, size), int); }
int truncate(const char *path, off_t size) { STEP("truncate", AT_FDCWD, path, syscall(SYS_truncate, path, size), int); }
int truncate64(const char *path, off_t size) { return truncate(path, size); }
int fchmod(int fd, mode_t mode) { STEP("fchmod", fd, NULL, syscall(SYS_fchmod, fd, mode), int); }
int chmod(const char *path, mode_t mode) {
    STEP("chmod", AT_FDCWD, path, syscall(SYS_fchmodat, AT_FDCWD, path, mode), int);
}

static int do_fallocate(int fd, off_t offset, off_t size) {
    static int (*real)(int, off_t, off_t);
    char found[PATH_MAX];
    int now = 0;
    if (!real) real = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate64");
    if (!is_meant(fd, NULL, found)) return real(fd, offset, size);
    if (before("fallocate", found, &now)) return number;
    int answer = real(fd, offset, size);
    after(now);
    return answer;
}
int posix_fallocate(int fd, off_t offset, off_t size) { return do_fallocate(fd, offset, size); }
int posix_fallocate64(int fd, off_t offset, off_t size) { return do_fallocate(fd, offset, size); }

static int do_make(const char *word, int folder, const char *path, long (*go)(int, const char *, const void *),
                   const void *what) {
    char found[PATH_MAX];
    int now = 0, meant = is_meant(folder, path, found);
    if (meant && before(word, found, &now)) return -1;
    int answer = go(folder, path, what);
    if (meant) learn(found, !answer);
    after(now);
    return answer;
}

static long go_mkdir(int folder, const char *path, const void *mode) {
    return syscall(SYS_mkdirat, folder, path, *(const mode_t *)mode);
}
int mkdirat(int folder, const char *path, mode_t mode) { return do_make("mkdir", folder, path, go_mkdir, &mode); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

struct two {
    int folder;
    const char *path;
    unsigned flags;
};
static long go_link(int folder, const char *path, const void *from) {
    const struct two *two = from;
    return syscall(SYS_linkat, two->folder, two->path, folder, path, two->flags);
}
static long go_rename(int folder, const char *path, const void *from) {
    const struct two *two = from;
    return syscall(SYS_renameat2, two->folder, two->path, folder, path, two->flags);
}
static long go_symlink(int folder, const char *path, const void *target) {
    return syscall(SYS_symlinkat, (const char *)target, folder, path);
}
int linkat(int from, const char *source, int to, const char *target, int flags) {
    struct two two = {from, source, flags};
    return do_make("link", to, target, go_link, &two);
}
int link(const char *source, const char *target) { return linkat(AT_FDCWD, source, AT_FDCWD, target, 0); }
int renameat2(int from, const char *source, int to, const char *target, unsigned flags) {
    struct two two = {from, source, flags};
    return do_make("rename", to, target, go_rename, &two);
}
int renameat(int from, const char *source, int to, const char *target) { return renameat2(from, source, to, target, 0); }
int rename(const char *source, const char *target) { return renameat2(AT_FDCWD, source, AT_FDCWD, target, 0); }
int symlinkat(const char *target, int folder, const char *path) {
    return do_make("symlink", folder, path, go_symlink, target);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int unlinkat(int folder, const char *path, int flags) {
    STEP(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path, syscall(SYS_unlinkat, folder, path, flags), int);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* --- what a process sees ------------------------------------------------------------------------------------------ */

#define LOOK(folder, path, call) \
    if (is_hidden(folder, path)) { \
        errno = ENOENT; \
        return -1; \
    } \
    return call

int stat(const char *path, struct stat *status) { REAL(stat); LOOK(AT_FDCWD, path, real(path, status)); }
int lstat(const char *path, struct stat *status) { REAL(lstat); LOOK(AT_FDCWD, path, real(path, status)); }
int fstatat(int folder, const char *path, struct stat *status, int flags) {
    REAL(fstatat);
    LOOK(folder, *path ? path : NULL, real(folder, path, status, flags));
}
int stat64(const char *path, struct stat64 *status) { REAL(stat64); LOOK(AT_FDCWD, path, real(path, status)); }
int lstat64(const char *path, struct stat64 *status) { REAL(lstat64); LOOK(AT_FDCWD, path, real(path, status)); }
int access(const char *path, int mode) { REAL(access); LOOK(AT_FDCWD, path, real(path, mode)); }

static struct dirent *do_readdir(DIR *stream, struct dirent *(*real)(DIR *)) {
    struct dirent *entry;
    while ((entry = real(stream)) && stale_s > 0) {
        if (entry->d_name[0] == '.' && (!entry->d_name[1] || !strcmp(entry->d_name, ".."))) break;
        if (!is_hidden(dirfd(stream), entry->d_name)) break;
    }
    return entry;
}
struct dirent *readdir(DIR *stream) { REAL(readdir); return do_readdir(stream, real); }
struct dirent64 *readdir64(DIR *stream) {
    REAL(readdir64);
    return (struct dirent64 *)do_readdir(stream, (struct dirent * (*)(DIR *)) real);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = syscall(SYS_clock_gettime, clock, now);
    if (!answer && clock == CLOCK_REALTIME) now->tv_sec += (time_t)skew_s;
    return answer;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec, now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
