/* The head of dist/stream-daemon: unpacks what is appended to it, once, and becomes it.
 *
 * The file is this static program, a tar archive compressed with zstd, and one line that says
 * how long that is and what is in it. At a start the archive's tree is looked for in the first
 * usable folder (see `places`), unpacked there if it is missing, and executed: the same process,
 * the same descriptors, signals, arguments and environment, and nobody above it.
 *
 *   FOLDER/unpacked.HASH/          a tree; HASH is that of the archive
 *   FOLDER/unpacked.HASH.N.new/    being unpacked: renamed when all of it is on the disk
 *   FOLDER/unpacked.HASH.N.gone/   being removed
 *
 * Who lives on a tree holds a shared lock (flock) on it, through a descriptor that goes through
 * exec and fork on purpose: children of a dead parent still read their files. Trees that nobody
 * holds are removed at the next start, whatever state a kill has left them in. A tree whose
 * files aren't all there (who tidies /var/tmp by age takes some first) is made anew.
 *
 * Nothing here may need more than the kernel: no shared library, no name service, no locale.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define PROGRAM "stream-daemon"
#define PREFIX "unpacked."
#define HASH_CHARS 32
#define TRAILER_BYTES 128 /* build/pack.py writes as many */
#define TRAILER "stream-daemon-archive packed=%llu files=%llu bytes=%llu hash=%32[0-9a-f]"
#define EXIT_DAMAGED 70
#define EXIT_NO_PLACE 73
#define TRIES_MAX 8             /* names tried, trees lost to others that tidy up */
#define OTHER_UNPACKS_MS 10000  /* how long somebody else's unpacking is waited for */
#define LOOK_EVERY_MS 10
#define NAME_BYTES 128
#define SHARED "/var/tmp/"
#define BLOCK 512 /* of a tar archive */

static struct {
    int fd;
    off_t start;
    unsigned long long packed, files, bytes;
    char hash[HASH_CHARS + 1];
    char tree[sizeof PREFIX + HASH_CHARS];
} archive;

/* ── what is said ─────────────────────────────────────────────────────────────────────── */

static char reasons[8192]; /* why each place would not do, a line each */

static void refuse(const char *place, const char *format, ...)
{
    size_t used = strlen(reasons);
    va_list words;
    used += snprintf(reasons + used, sizeof reasons - used, "  %s: ", place);
    if (used < sizeof reasons) {
        va_start(words, format);
        used += vsnprintf(reasons + used, sizeof reasons - used, format, words);
        va_end(words);
    }
    if (used < sizeof reasons - 1)
        strcpy(reasons + used, "\n");
}

static void damaged(const char *path)
{
    fprintf(stderr, "%s: %s is cut short or damaged\n  → copy it here again\n", PROGRAM, path);
    exit(EXIT_DAMAGED);
}

/* ── the archive ──────────────────────────────────────────────────────────────────────── */

static void find_archive(const char *path)
{
    char line[TRAILER_BYTES + 1] = "";
    archive.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (archive.fd < 0)
        archive.fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = lseek(archive.fd, -TRAILER_BYTES, SEEK_END);
    if (end < 0 || read(archive.fd, line, TRAILER_BYTES) != TRAILER_BYTES ||
        sscanf(line, TRAILER, &archive.packed, &archive.files, &archive.bytes, archive.hash) != 4 ||
        (unsigned long long)end < archive.packed)
        damaged(path);
    archive.start = end - archive.packed;
    snprintf(archive.tree, sizeof archive.tree, PREFIX "%s", archive.hash);
}

static struct {
    ZSTD_DCtx *state;
    ZSTD_inBuffer in;
    size_t left; /* what the decompressor still wants; 0 at the archive's end */
    char buffer[128 * 1024];
} stream;

/* The next bytes out of the archive; false where there are no more, or wrong ones. */
static bool take(void *to, size_t size)
{
    ZSTD_outBuffer out = {to, size, 0};
    while (out.pos < size && stream.left) {
        if (stream.in.pos == stream.in.size) {
            ssize_t got = read(archive.fd, stream.buffer, sizeof stream.buffer);
            if (got <= 0)
                return false;
            stream.in = (ZSTD_inBuffer){stream.buffer, got, 0};
        }
        stream.left = ZSTD_decompressStream(stream.state, &out, &stream.in);
        if (ZSTD_isError(stream.left))
            return false;
    }
    return out.pos == size;
}

static bool rewind_archive(void)
{
    if (!stream.state)
        stream.state = ZSTD_createDCtx();
    stream.in = (ZSTD_inBuffer){stream.buffer, 0, 0};
    stream.left = 1;
    return stream.state && !ZSTD_isError(ZSTD_DCtx_reset(stream.state, ZSTD_reset_session_only)) &&
           lseek(archive.fd, archive.start, SEEK_SET) == archive.start;
}

/* Write one file. False with errno: 0 if the archive is at fault. */
static bool write_file(int tree, const char *name, mode_t mode, size_t size)
{
    char block[64 * BLOCK];
    int fd = openat(tree, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return false;
    while (size) {
        size_t part = size < sizeof block ? size : sizeof block;
        if (!take(block, (part + BLOCK - 1) / BLOCK * BLOCK)) {
            errno = 0;
            break;
        }
        ssize_t put = write(fd, block, part);
        if (put != (ssize_t)part) { /* a disk file is written whole, or the disk is full */
            if (put >= 0)
                errno = ENOSPC;
            break;
        }
        size -= part;
    }
    int failed = errno;
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* begins; `sync_tree` waits */
    close(fd);
    errno = failed;
    return size == 0;
}

/* Unpack everything. False with errno: 0 if the archive is at fault. */
static bool write_tree(int tree)
{
    char head[BLOCK];
    errno = 0;
    if (!rewind_archive())
        return false;
    while (take(head, sizeof head) && head[0]) { /* fields of ustar: name, mode, size, type, link */
        mode_t mode = strtoul(head + 100, NULL, 8);
        size_t size = strtoull(head + 124, NULL, 8);
        bool done = false;
        if (head[156] == '5')
            done = mkdirat(tree, head, 0755) == 0;
        else if (head[156] == '2')
            done = symlinkat(head + 157, tree, head) == 0;
        else
            done = write_file(tree, head, mode, size);
        if (!done)
            return false;
    }
    while (stream.left) { /* the rest is zeros; the checksum comes after it */
        errno = 0;
        if (!take(head, sizeof head) && stream.left)
            return false;
    }
    return true;
}

/* ── trees ────────────────────────────────────────────────────────────────────────────── */

/* Whether a descriptor is what lies under a name now. */
static bool is_still(int fd, int folder, const char *name)
{
    struct stat one, other;
    return fstat(fd, &one) == 0 && fstatat(folder, name, &other, AT_SYMLINK_NOFOLLOW) == 0 &&
           one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

static bool is_inside(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

struct seen {
    unsigned long long files, bytes;
    int unsynced; /* errno of the first file that is not on the disk */
};
enum task { COUNT, REMOVE, SYNC };

static void sync_one(int fd, struct seen *seen)
{
    if (fsync(fd) && !seen->unsynced)
        seen->unsynced = errno;
}

/* Go through all entries below a folder: count them, remove them, or wait until they are on the
 * disk. */
static void walk(int folder, enum task task, struct seen *seen)
{
    struct stat kind;
    struct dirent *entry;
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && (entry = readdir(list))) {
        if (!is_inside(entry) || fstatat(fd, entry->d_name, &kind, AT_SYMLINK_NOFOLLOW))
            continue;
        int below = -1;
        if (S_ISDIR(kind.st_mode) || (task == SYNC && S_ISREG(kind.st_mode)))
            below = openat(fd, entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (S_ISDIR(kind.st_mode) && below >= 0) {
            walk(below, task, seen);
        } else {
            seen->files += 1;
            seen->bytes += S_ISREG(kind.st_mode) ? kind.st_size : 0;
        }
        if (task == SYNC && below >= 0)
            sync_one(below, seen);
        if (task == REMOVE)
            unlinkat(fd, entry->d_name, S_ISDIR(kind.st_mode) ? AT_REMOVEDIR : 0);
        if (below >= 0)
            close(below);
    }
    if (list && task == SYNC)
        sync_one(fd, seen);
    if (list)
        closedir(list);
}

static bool is_whole(int tree)
{
    struct seen seen = {0};
    walk(tree, COUNT, &seen);
    return seen.files == archive.files && seen.bytes == archive.bytes;
}

/* Not syncfs, which waits for whatever others write to that disk. False with errno. */
static bool sync_tree(int tree)
{
    struct seen seen = {0};
    walk(tree, SYNC, &seen);
    errno = seen.unsynced;
    return !seen.unsynced;
}

/* A name for what isn't a tree yet, or no more: nobody else's. */
static void own_name(char *name, const char *kind)
{
    static unsigned count;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(name, NAME_BYTES, "%s.%d-%llx-%u.%s", archive.tree, getpid(),
             now.tv_sec * 1000000000ULL + now.tv_nsec, count++, kind);
}

/* Take a tree out of use and remove it. From the rename on nobody takes it for whole. */
static void discard(int tree, int folder, const char *name)
{
    struct seen ignored = {0};
    char gone[NAME_BYTES];
    own_name(gone, "gone");
    if (!is_still(tree, folder, name) || renameat(folder, name, folder, gone))
        return;
    walk(tree, REMOVE, &ignored);
    unlinkat(folder, gone, AT_REMOVEDIR);
}

static bool is_tree_name(const char *name)
{
    size_t prefix = strlen(PREFIX);
    const char *hash = name + prefix;
    return strncmp(name, PREFIX, prefix) == 0 && strspn(hash, "0123456789abcdef") == HASH_CHARS &&
           (hash[HASH_CHARS] == 0 || hash[HASH_CHARS] == '.');
}

/* Remove the trees, whole or in pieces, of which nobody holds a lock. */
static void tidy(int folder)
{
    struct dirent *entry;
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && (entry = readdir(list))) {
        if (!is_tree_name(entry->d_name) || strcmp(entry->d_name, archive.tree) == 0)
            continue;
        int tree = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (tree < 0)
            continue;
        if (flock(tree, LOCK_EX | LOCK_NB) == 0)
            discard(tree, fd, entry->d_name);
        close(tree);
    }
    if (list)
        closedir(list);
}

/* A folder with our shared lock, under its name; -1 if it is gone, or about to go.
 * No O_CLOEXEC: this descriptor is what goes through exec. */
static int hold(int folder, const char *name)
{
    int tree = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (tree >= 0 && flock(tree, LOCK_SH | LOCK_NB) == 0 && is_still(tree, folder, name))
        return tree;
    int failed = errno;
    if (tree >= 0)
        close(tree);
    errno = failed;
    return -1;
}

/* Our tree, held; -1 if there is none that is whole. */
static int find_tree(int folder)
{
    int tree = hold(folder, archive.tree);
    if (tree < 0 || is_whole(tree))
        return tree;
    discard(tree, folder, archive.tree);
    close(tree);
    return -1;
}

/* Wait while somebody else unpacks. Only thrift: names and the rename keep us apart, so whoever
 * is stopped meanwhile is not waited for too long. (A blocking flock would need an alarm, whose
 * handler, mask and timer must not be found changed after exec.) */
static void wait_for_turn(int folder)
{
    const struct timespec pause = {0, LOOK_EVERY_MS * 1000000};
    for (int ms = 0; ms < OTHER_UNPACKS_MS && flock(folder, LOCK_EX | LOCK_NB); ms += LOOK_EVERY_MS)
        nanosleep(&pause, NULL);
}

/* Unpack beside, then rename. The tree, held; -1 with errno. */
static int make_tree(int folder, const char *self)
{
    char name[NAME_BYTES];
    int tree = -1;
    for (int tries = 0; tree < 0 && tries < TRIES_MAX; tries++) {
        own_name(name, "new");
        if (mkdirat(folder, name, 0755))
            return -1;
        tree = hold(folder, name); /* who tidies up may have been faster, or there are no locks */
        if (tree < 0) {
            int failed = errno;
            unlinkat(folder, name, AT_REMOVEDIR);
            errno = failed;
        }
    }
    if (tree < 0)
        return -1;
    if (write_tree(tree) && sync_tree(tree) && renameat(folder, name, folder, archive.tree) == 0) {
        fsync(folder);
        return tree;
    }
    int failed = errno;
    discard(tree, folder, name);
    close(tree);
    if (!failed)
        damaged(self);
    errno = failed;
    return -1;
}

static int make_or_find_tree(int folder, const char *self)
{
    int tree = -1;
    wait_for_turn(folder);
    for (int tries = 0; tree < 0 && tries < TRIES_MAX; tries++) {
        tree = find_tree(folder);
        if (tree < 0)
            tree = make_tree(folder, self);
        if (tree < 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT)
            break;
    }
    int failed = errno;
    flock(folder, LOCK_UN);
    errno = failed;
    return tree;
}

/* ── places ───────────────────────────────────────────────────────────────────────────── */

/* Locks there aren't seen by other machines, who would remove trees that are in use here. */
static bool is_far(int folder)
{
    static const uint32_t FAR[] = {0x6969 /* NFS */, 0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */,
                                   0x00c36400 /* Ceph */, 0x5346414f /* AFS */};
    struct statfs seen;
    if (fstatfs(folder, &seen))
        return false;
    for (size_t i = 0; i < sizeof FAR / sizeof *FAR; i++)
        if ((uint32_t)seen.f_type == FAR[i])
            return true;
    return false;
}

/* Make a folder and those above it; errno of the first one that can't be made. */
static int make_folders(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    for (const char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", slash ? (int)(slash - path) : PATH_MAX - 1, path);
        int failed = mkdir(part, mode) ? errno : 0;
        if (failed && access(part, F_OK))
            return failed;
        if (!slash)
            return 0;
    }
}

/* A folder in which nobody else could put something for us to execute; -1 if it isn't. */
static int open_place(const char *path)
{
    struct stat seen;
    struct statvfs mounted;
    int failed = make_folders(path, geteuid() ? 0700 : 0755);
    /* Where everybody may make links, none is followed: it may lead elsewhere when we execute. */
    int follow = strncmp(path, SHARED, strlen(SHARED)) ? 0 : O_NOFOLLOW;
    int folder = failed ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | follow);
    if (failed)
        refuse(path, "%s", strerror(failed));
    else if (folder < 0 || fstat(folder, &seen) || fstatvfs(folder, &mounted))
        refuse(path, "%s", strerror(errno));
    else if (seen.st_uid != 0 && seen.st_uid != geteuid())
        refuse(path, "belongs to another user (uid %u)", seen.st_uid);
    else if (seen.st_mode & 022)
        refuse(path, "others may write there; chmod go-w would mend it");
    else if (mounted.f_flag & ST_NOEXEC)
        refuse(path, "is mounted noexec");
    else if (is_far(folder))
        refuse(path, "is on a network file system, whose locks other machines don't see");
    else
        return folder;
    if (folder >= 0)
        close(folder);
    return -1;
}

/* Become the program, unpacked in this folder; comes back only if that can't be. */
static void run_in(const char *place, const char *self, char **argv)
{
    char program[PATH_MAX + 2 * NAME_BYTES];
    int folder = open_place(place);
    if (folder < 0)
        return;
    int tree = find_tree(folder);
    tidy(folder);
    if (tree < 0) {
        mode_t mask = umask(022);
        tree = make_or_find_tree(folder, self);
        umask(mask);
    }
    if (tree < 0) {
        refuse(place, "%s (it takes %llu MB)", strerror(errno), archive.bytes / 1000000 + 1);
    } else {
        snprintf(program, sizeof program, "%s/%s/%s", place, archive.tree, PROGRAM);
        execv(program, argv);
        refuse(place, "can't execute what was unpacked there: %s", strerror(errno));
        close(tree);
    }
    close(folder);
}

/* One place, if its variable is set. Of several folders (systemd joins them by a colon) the
 * first. */
static void try(const char *variable, const char *below, const char *self, char **argv)
{
    char place[PATH_MAX];
    const char *value = *variable == '/' ? variable : secure_getenv(variable);
    if (!value || !*value)
        return;
    snprintf(place, sizeof place, "%.*s%s", (int)strcspn(value, ":"), value, below);
    if (*place == '/')
        run_in(place, self, argv);
    else
        refuse(place, "is not an absolute path");
}

/* ── start ────────────────────────────────────────────────────────────────────────────── */

/* A closed stdin must not become the number of a file of ours. These go at exec. */
static void occupy_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

int main(int argc, char **argv)
{
    char self[PATH_MAX] = "", own[32];
    (void)argc;
    occupy_standard_descriptors();
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        snprintf(self, sizeof self, "%s", (const char *)getauxval(AT_EXECFN));
    find_archive(self);
    setenv("STREAM_DAEMON_FILE", self, 1);
    snprintf(own, sizeof own, "-%u", geteuid());
    try("STREAM_DAEMON_CACHE", "", self, argv);
    try("CACHE_DIRECTORY", "", self, argv);
    try("STATE_DIRECTORY", "", self, argv);
    if (geteuid() == 0) {
        try("/var/cache/stream-daemon", "", self, argv);
    } else {
        try("XDG_CACHE_HOME", "/stream-daemon", self, argv);
        try("HOME", "/.cache/stream-daemon", self, argv);
    }
    try(SHARED "stream-daemon", own, self, argv);
    if (geteuid() == 0)
        try("/var/lib/stream-daemon", "", self, argv);
    fprintf(stderr,
            "%s: no folder to unpack into\n%s"
            "  → set STREAM_DAEMON_CACHE to a folder that is yours alone, where programs may be"
            " executed\n",
            PROGRAM, reasons);
    return EXIT_NO_PLACE;
}
