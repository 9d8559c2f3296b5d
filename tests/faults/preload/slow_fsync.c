// A slow disk: every fsync and fdatasync waits for as many milliseconds as the file `fsync-delay-ms` in the working directory
// says, before it does its work. Without the file nothing waits. Loaded into a server by LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

static void delay(void) {
    long ms = 0;
    FILE *file = fopen("fsync-delay-ms", "r");
    if (!file) return;
    if (fscanf(file, "%ld", &ms) != 1) ms = 0;
    fclose(file);
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static int after_delay(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    delay();
    return real(fd);
}

int fsync(int fd) { return after_delay("fsync", fd); }
int fdatasync(int fd) { return after_delay("fdatasync", fd); }
