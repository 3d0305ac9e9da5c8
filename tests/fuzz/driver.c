/* Runs a fuzz target where there is no libFuzzer: replays files, or makes up inputs from a seed.
 *
 *   TARGET FILE...                          each file once
 *   TARGET --seconds S [--seed N] FILE...   then inputs that are random, or mutated from the files
 *
 * The input that ended the process is left behind in the file crash-input. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INPUT_BYTES_MAX 4096u
#define SEEDS_MAX 4096
#define HANG_SECONDS 20 /* sanitizers on a busy machine: far beyond what any input takes */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seed {
    uint8_t *bytes;
    size_t size;
};

/* Written before it is run, removed after the last: whatever ends the process, it is there. */
static void leave_input(const uint8_t *bytes, size_t size) {
    static int file = -1;
    if (file < 0)
        file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 0) != 0 || pwrite(file, bytes, size, 0) != (ssize_t)size) {
        perror("crash-input");
        exit(2);
    }
}

static void run(const uint8_t *bytes, size_t size) {
    /* An exact copy: a target that reads beyond its input is wrong itself. */
    uint8_t *input = malloc(size + (size == 0));
    if (input == NULL)
        abort();
    if (size != 0)
        memcpy(input, bytes, size);
    leave_input(input, size);
    alarm(HANG_SECONDS); /* its signal ends the process */
    LLVMFuzzerTestOneInput(input, size);
    alarm(0);
    free(input);
}

static struct seed read_file(const char *path) {
    struct seed seed = {malloc(INPUT_BYTES_MAX), 0};
    FILE *file = fopen(path, "rb");
    if (file == NULL || seed.bytes == NULL) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(2);
    }
    seed.size = fread(seed.bytes, 1, INPUT_BYTES_MAX, file);
    fclose(file);
    return seed;
}

/* splitmix64 (Steele, Lea and Flood, OOPSLA 2014). */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t make_up(uint8_t *input, const struct seed *seeds, size_t count, uint64_t *state) {
    uint64_t kind = next_random(state) % 4;
    size_t size;
    if (count == 0 || kind == 0) { /* random bytes */
        size = next_random(state) % INPUT_BYTES_MAX;
        for (size_t i = 0; i < size; i++)
            input[i] = (uint8_t)next_random(state);
        return size;
    }
    const struct seed *seed = &seeds[next_random(state) % count];
    size = seed->size;
    memcpy(input, seed->bytes, size);
    if (kind == 1) { /* the beginning of one, the end of another */
        const struct seed *other = &seeds[next_random(state) % count];
        size = seed->size ? next_random(state) % seed->size : 0;
        size_t from = other->size ? next_random(state) % other->size : 0;
        size_t rest = other->size - from;
        rest = rest > INPUT_BYTES_MAX - size ? INPUT_BYTES_MAX - size : rest;
        memcpy(input + size, other->bytes + from, rest);
        size += rest;
    }
    for (uint64_t changes = 1 + next_random(state) % 8; changes > 0 && size > 0; changes--)
        input[next_random(state) % size] = (uint8_t)next_random(state);
    return size;
}

int main(int argc, char **argv) {
    static struct seed seeds[SEEDS_MAX];
    static uint8_t input[INPUT_BYTES_MAX];
    size_t count = 0;
    double seconds = 0;
    uint64_t seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 0);
        else if (count < SEEDS_MAX)
            seeds[count++] = read_file(argv[i]);
    }
    for (size_t i = 0; i < count; i++)
        run(seeds[i].bytes, seeds[i].size);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t state = seed, runs = 0;
    for (now = start; (double)(now.tv_sec - start.tv_sec) < seconds; runs++) {
        size_t size = make_up(input, seeds, count, &state);
        run(input, size);
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    printf("replayed %zu, made up %llu, seed %llu\n", count, (unsigned long long)runs,
           (unsigned long long)seed);
    for (size_t i = 0; i < count; i++)
        free(seeds[i].bytes);
    unlink("crash-input");
    return 0;
}
