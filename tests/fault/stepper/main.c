/* stepper [--scenario NAME] [--sample K] [--kills N] [--turns N] [--seed S] [--list]
 *
 * Kills a writer of a kvserve table at each instruction of each of its operations, and lets
 * writers overtake a reader at each of its. Ends with 1 if an invariant was violated, with 2 if
 * that could not be tested. Its last line is a JSON summary. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "overtake.h"

#define PATIENCE_SECONDS 60u
#define DEATHS_A_KILL 25u /* of the storm, whose kills are all real */
#define USAGE                                                                                 \
    "usage: stepper [--scenario NAME] [--sample K] [--kills N] [--turns N] [--seed S] [--list]"

struct options {
    const char *scenario; /* or NULL for all */
    uint32_t sample;      /* states judged of each, 0 for all */
    uint32_t kills;       /* real ones of each */
    uint32_t turns;       /* readers in turns with each writer */
    uint64_t seed;
    bool list;
};

/* Where a signal that ends the run finds what it was about. */
static struct trial *current;

/* A core that is so broken that judging it crashes or never ends has violated enough. */
static void on_fatal(int signal_number) {
    char text[160];
    int length = snprintf(text, sizeof text,
                          "VIOLATION %s, instruction %lu: %s while judging the state\n",
                          current ? current->name : "-",
                          (unsigned long)(current ? current->instruction : 0),
                          signal_number == SIGALRM ? "no end" : "a crash");
    if (length > 0 && write(STDERR_FILENO, text, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

static void run_one(const struct scenario *scenario, const struct overtake *overtake,
                    const struct options *options, struct tally *tally) {
    static struct trial trial;
    uint64_t random = options->seed;
    memset(&trial, 0, sizeof trial);
    trial.name = overtake ? overtake->name : scenario->name;
    trial.scenario = scenario;
    trial.seed = options->seed;
    trial.actor = VICTIM;
    trial.tally = tally;
    current = &trial;
    alarm(PATIENCE_SECONDS);
    worlds_open(&trial.worlds, scenario->plan, options->seed);
    keys_make(&trial.keys, &trial.worlds.live.table);
    trial.verify_scratch = malloc(kv_verify_scratch_bytes(&trial.worlds.live.table));
    tally->scenarios++;
    if (overtake != NULL)
        overtake_everywhere(&trial, overtake, options->sample);
    else if (!scenario_reach(scenario, &trial.worlds, &trial.keys, &random, &trial.action,
                             &trial.effects))
        complain(&trial, "no state was found in which the action takes this path");
    else if (scenario == &storm_scenario)
        die_in_turn(&trial, options->kills * DEATHS_A_KILL);
    else
        kill_everywhere(&trial, options->kills, options->turns, options->sample);
    free(trial.verify_scratch);
    worlds_close(&trial.worlds);
    alarm(0);
    current = NULL;
}

static bool chosen(const struct options *options, const char *name) {
    return options->scenario == NULL || strcmp(options->scenario, name) == 0;
}

static int list_all(void) {
    for (uint32_t i = 0; i < scenario_count; i++)
        puts(scenarios[i].name);
    puts(storm_scenario.name);
    for (uint32_t i = 0; i < overtake_count; i++)
        puts(overtakes[i].name);
    return 0;
}

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static int run(const struct options *options) {
    struct tally t = {0};
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint32_t i = 0; i < scenario_count; i++)
        if (chosen(options, scenarios[i].name))
            run_one(&scenarios[i], NULL, options, &t);
    if (chosen(options, storm_scenario.name))
        run_one(&storm_scenario, NULL, options, &t);
    for (uint32_t i = 0; i < overtake_count; i++)
        if (chosen(options, overtakes[i].name))
            run_one(&overtakes[i].reach, &overtakes[i], options, &t);
    if (t.scenarios == 0)
        give_up("there is no scenario of this name, see --list");
    printf("{\"seed\": %lu, \"scenarios\": %lu, \"instructions\": %lu, \"inside_lock\": %lu, "
           "\"states\": %lu, \"kills\": %lu, \"interleavings\": %lu, \"violations\": %lu, "
           "\"seconds\": %.1f}\n",
           (unsigned long)options->seed, (unsigned long)t.scenarios,
           (unsigned long)t.instructions, (unsigned long)t.inside_lock, (unsigned long)t.states,
           (unsigned long)t.kills, (unsigned long)t.interleavings, (unsigned long)t.violations,
           seconds_since(&start));
    return t.violations != 0;
}

int main(int count, char **arguments) {
    struct options options = {.kills = 8, .turns = 50, .seed = 1};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        if (strcmp(name, "--list") == 0) {
            options.list = true;
            continue;
        }
        if (i + 1 == count)
            give_up(USAGE);
        const char *value = arguments[++i];
        if (strcmp(name, "--scenario") == 0)
            options.scenario = value;
        else if (strcmp(name, "--sample") == 0)
            options.sample = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--kills") == 0)
            options.kills = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--turns") == 0)
            options.turns = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--seed") == 0)
            options.seed = strtoull(value, NULL, 10);
        else
            give_up(USAGE);
    }
    signal(SIGSEGV, on_fatal);
    signal(SIGBUS, on_fatal);
    signal(SIGFPE, on_fatal);
    signal(SIGALRM, on_fatal);
    return options.list ? list_all() : run(&options);
}
