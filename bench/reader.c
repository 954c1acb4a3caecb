/* The benchmark's reader: what an application does to a mounted dataset, at a cost too small to count.
 *
 *   reader seq [--drop] FILE                            read it once from start to end, 1 MiB at a time
 *   reader random [--drop] FILE THREADS SECONDS         4 KiB reads of a quarter of its pages, in random order
 *   reader mmap FILE THREADS                            map it and copy it out, each thread one contiguous share
 *   reader files ROOT LIST THREADS SECONDS              open, read whole and close every path of LIST, in its order
 *   reader stat ROOT LIST THREADS SECONDS               stat every path of LIST
 *   reader walk ROOT SECONDS                            what `find` does: every directory, no stat of files
 *   reader list DIR stat|names                          every name of one directory, with or without its attributes
 *
 * --drop takes the file's pages out of the page cache through the mount first. SECONDS bounds the modes that might
 * never end on a slow system: the figures then cover what was done until that moment.
 * Prints one JSON object: seconds, count (of reads, files or names) and bytes. Any error ends it with exit code 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, PIECE = 1 << 20, PAGE = 4096 };

static const char *root;
static char **paths;
static size_t path_count;
static size_t *pages, page_count;
static atomic_size_t next_item; /* of paths or pages */
static double deadline;
static int fd = -1;
static off_t file_bytes;
static char *mapped;
static int thread_count;

struct tally {
    size_t count;
    size_t bytes;
    int index;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, PAGE, bytes)) fail("memory");
    return memory;
}

static void open_file(const char *path, int drop) {
    struct stat about;
    fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &about)) fail(path);
    file_bytes = about.st_size;
    if (drop && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) fail("fadvise");
}

static uint64_t random_number(void) { /* xorshift64*, the same order in every run */
    static uint64_t state = 88172645463325252ULL;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717ULL;
}

/* A quarter of the file's pages, none twice: a page read before would come out of the page cache. */
static void choose_pages(void) {
    size_t all = (size_t)(file_bytes / PAGE);
    pages = malloc(all * sizeof *pages);
    if (!pages) fail("memory");
    for (size_t i = 0; i < all; i++) pages[i] = i;
    page_count = all / 4;
    for (size_t i = 0; i < page_count; i++) {
        size_t other = i + random_number() % (all - i), page = pages[other];
        pages[other] = pages[i];
        pages[i] = page;
    }
}

static void *read_randomly(void *argument) {
    struct tally *tally = argument;
    char *buffer = allocate(PAGE);
    size_t index;
    while ((index = atomic_fetch_add(&next_item, 1)) < page_count && now() < deadline) {
        if (pread(fd, buffer, PAGE, (off_t)(pages[index] * PAGE)) != PAGE) fail("pread");
        tally->count++;
        tally->bytes += PAGE;
    }
    free(buffer);
    return NULL;
}

static void *copy_out(void *argument) {
    struct tally *tally = argument;
    size_t share = (size_t)file_bytes / (size_t)thread_count / PAGE * PAGE;
    size_t start = share * (size_t)tally->index;
    size_t end = tally->index == thread_count - 1 ? (size_t)file_bytes : start + share;
    char *buffer = allocate(PIECE);
    for (size_t at = start; at < end; at += PIECE) {
        size_t length = end - at < PIECE ? end - at : PIECE;
        memcpy(buffer, mapped + at, length);
        __asm__ volatile("" : : "r"(buffer) : "memory"); /* or the compiler may leave the copy out */
        tally->count++;
        tally->bytes += length;
    }
    free(buffer);
    return NULL;
}

static const char *take_path(char *full, size_t size) {
    size_t index = atomic_fetch_add(&next_item, 1);
    if (index >= path_count || now() >= deadline) return NULL;
    snprintf(full, size, "%s/%s", root, paths[index]);
    return full;
}

static void *read_files(void *argument) {
    struct tally *tally = argument;
    char full[8192], *buffer = allocate(PIECE);
    while (take_path(full, sizeof full)) {
        int file = open(full, O_RDONLY);
        if (file < 0) fail(full);
        ssize_t got;
        while ((got = read(file, buffer, PIECE)) > 0) tally->bytes += (size_t)got;
        if (got < 0) fail(full);
        close(file);
        tally->count++;
    }
    free(buffer);
    return NULL;
}

static void *stat_files(void *argument) {
    struct tally *tally = argument;
    char full[8192];
    struct stat about;
    while (take_path(full, sizeof full)) {
        if (lstat(full, &about)) fail(full);
        tally->count++;
    }
    return NULL;
}

static void walk(const char *folder, struct tally *tally) {
    DIR *opened = opendir(folder);
    if (!opened) fail(folder);
    struct dirent *entry;
    char path[8192];
    while (errno = 0, (entry = readdir(opened))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        tally->count++;
        int is_folder = entry->d_type == DT_DIR;
        if (!is_folder && entry->d_type != DT_UNKNOWN) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        struct stat about;
        if (entry->d_type == DT_UNKNOWN) { /* find asks in this case, too */
            if (lstat(path, &about)) fail(path);
            is_folder = S_ISDIR(about.st_mode);
        }
        if (is_folder && now() < deadline) walk(path, tally);
    }
    if (errno) fail(folder);
    closedir(opened);
}

static void list_folder(const char *folder, int with_stat, struct tally *tally) {
    DIR *opened = opendir(folder);
    if (!opened) fail(folder);
    struct dirent *entry;
    struct stat about;
    while (errno = 0, (entry = readdir(opened))) {
        if (with_stat && fstatat(dirfd(opened), entry->d_name, &about, AT_SYMLINK_NOFOLLOW)) fail(entry->d_name);
        tally->count++;
    }
    if (errno) fail(folder);
    closedir(opened);
    tally->count -= 2; /* . and .. */
}

static void read_list(const char *path) {
    FILE *list = fopen(path, "r");
    if (!list) fail(path);
    size_t room = 1 << 16, size = 0;
    paths = malloc(room * sizeof *paths);
    char *line = NULL;
    ssize_t length;
    while ((length = getline(&line, &size, list)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        if (path_count == room) paths = realloc(paths, (room *= 2) * sizeof *paths);
        if (!paths || !(paths[path_count++] = strdup(line))) fail("memory");
    }
    free(line);
    fclose(list);
}

static void in_threads(int count, void *(*act)(void *), struct tally *sum) {
    static struct tally tallies[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    thread_count = count;
    for (int i = 0; i < count; i++) {
        tallies[i].index = i;
        if (pthread_create(&threads[i], NULL, act, &tallies[i])) fail("thread");
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        sum->count += tallies[i].count;
        sum->bytes += tallies[i].bytes;
    }
}

static void read_through(struct tally *sum) {
    char *buffer = allocate(PIECE);
    ssize_t got;
    while ((got = read(fd, buffer, PIECE)) > 0) {
        sum->count++;
        sum->bytes += (size_t)got;
    }
    if (got < 0) fail("read");
    if ((off_t)sum->bytes != file_bytes) {
        fprintf(stderr, "reader: %zu bytes read of %lld\n", sum->bytes, (long long)file_bytes);
        exit(1);
    }
    free(buffer);
}

static int threads_of(const char *text) {
    int count = atoi(text);
    if (count < 1 || count > MAX_THREADS) {
        fprintf(stderr, "reader: %s threads: 1 to %d are possible\n", text, MAX_THREADS);
        exit(2);
    }
    return count;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int drop = argc > 2 && !strcmp(argv[2], "--drop");
    argv += 2 + drop;
    argc -= 2 + drop;
    struct tally sum = {0};
    double start = 0;
    if (!strcmp(mode, "seq") && argc == 1) {
        open_file(argv[0], drop);
        start = now();
        read_through(&sum);
    } else if (!strcmp(mode, "random") && argc == 3) {
        open_file(argv[0], drop);
        choose_pages();
        start = now();
        deadline = start + atof(argv[2]);
        in_threads(threads_of(argv[1]), read_randomly, &sum);
    } else if (!strcmp(mode, "mmap") && argc == 2) {
        start = now(); /* a loader pays for open and mmap as well */
        open_file(argv[0], 0);
        mapped = mmap(NULL, (size_t)file_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) fail("mmap");
        in_threads(threads_of(argv[1]), copy_out, &sum);
    } else if ((!strcmp(mode, "files") || !strcmp(mode, "stat")) && argc == 4) {
        root = argv[0];
        read_list(argv[1]);
        start = now();
        deadline = start + atof(argv[3]);
        in_threads(threads_of(argv[2]), *mode == 'f' ? read_files : stat_files, &sum);
    } else if (!strcmp(mode, "walk") && argc == 2) {
        start = now();
        deadline = start + atof(argv[1]);
        walk(argv[0], &sum);
    } else if (!strcmp(mode, "list") && argc == 2) {
        start = now();
        list_folder(argv[0], !strcmp(argv[1], "stat"), &sum);
    } else {
        fprintf(stderr, "reader: wrong arguments; see the head of reader.c\n");
        return 2;
    }
    double seconds = now() - start;
    printf("{\"seconds\": %.6f, \"count\": %zu, \"bytes\": %zu}\n", seconds, sum.count, sum.bytes);
    return 0;
}
