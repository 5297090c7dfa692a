/* A disk that is slow to sync or fails to, for one program: LD_PRELOAD it, and it stands before fsync and fdatasync.
 *
 * SLOW_SYNC_CONTROL names a file that is read anew at each call, so that a test can switch a program that runs:
 *
 *     events.db fail          a sync of a file whose path holds "events.db" fails with EIO, and nothing is synced
 *     events.db sleep 500     it takes 500 ms longer
 *     (empty, or no file)     it is what it always is
 *
 * SLOW_SYNC_HITS names a file that gets a byte for each call that was touched: 'f' or 's'. A test that counts none has
 * tested nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void count(char what)
{
    const char *hits = getenv("SLOW_SYNC_HITS");
    int fd = hits == NULL ? -1 : open(hits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (write(fd, &what, 1) != 1)
        abort(); /* the test would be misled */
    close(fd);
}

/* 0: the file is to be synced, -1: it is not. */
static int meddle(int fd)
{
    char text[256], part[128], action[16], link[64], path[4096];
    int milliseconds = 0;
    const char *control = getenv("SLOW_SYNC_CONTROL");
    int control_fd = control == NULL ? -1 : open(control, O_RDONLY | O_CLOEXEC);
    if (control_fd < 0)
        return 0;
    ssize_t length = read(control_fd, text, sizeof text - 1);
    close(control_fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    if (sscanf(text, "%127s %15s %d", part, action, &milliseconds) < 2)
        return 0;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (strstr(path, part) == NULL)
        return 0;

    if (strcmp(action, "fail") == 0) {
        count('f');
        return -1;
    }
    if (strcmp(action, "sleep") == 0) {
        struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        count('s');
        while (nanosleep(&left, &left) != 0 && errno == EINTR)
            ;
    }
    return 0;
}

static int sync_with(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (meddle(fd) != 0) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd)
{
    return sync_with("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_with("fdatasync", fd);
}
