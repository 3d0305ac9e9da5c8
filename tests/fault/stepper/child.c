/* The child that is stepped: starting it, one instruction, letting it end, killing it.
 *
 * It tells where it is by a word in shared memory, not by its registers, so nothing here depends
 * on the processor. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trial.h"

#define NO_STEPPING \
    "this environment does not let a process single-step its child with ptrace, so the table's " \
    "promise to survive SIGKILL cannot be tested in it; in a container, allow SYS_PTRACE"

static void scan(const struct trial *trial) {
    struct control *control = trial->worlds.control;
    const struct kv_table *table = &trial->worlds.live.table;
    uint32_t home = home_of(table, trial->keys.key[trial->action.key].hash);
    struct kv_cursor cursor = {0}, before = {0};
    struct kv_view view;
    while (kv_next_in_bucket(table, SHARD, home, &cursor, &view)) {
        struct met *met = &control->met[control->met_count];
        met->length = view.key_bytes < KEY_BYTES_MAX ? view.key_bytes : KEY_BYTES_MAX;
        memcpy(met->bytes, view.key, met->length);
        if (!kv_view_intact(&view)) {
            cursor = before;
            continue;
        }
        before = cursor;
        control->met_count += control->met_count + 1 < SCANNED_MAX;
    }
}

static void carry_out(struct trial *trial, enum task task) {
    struct kv_table *table = &trial->worlds.live.table;
    struct control *control = trial->worlds.control;
    struct kv_owner owner = owner_of(&trial->worlds, trial->actor);
    uint64_t version;
    switch (task) {
    case TASK_ACT:
        (void)perform(table, &owner, &trial->keys, &trial->action, &version);
        return;
    case TASK_READ:
    case TASK_READ_IN_STEPS:
        carry(table, &trial->keys.key[trial->action.key], trial->action.now_ms,
              task == TASK_READ_IN_STEPS, &control->carried);
        return;
    case TASK_WATCH: {
        struct kv_feed_cursor cursor = trial->feed_start;
        control->watched = kv_feed_next(&trial->worlds.live.feed, &cursor, &control->event);
        return;
    }
    case TASK_SCAN:
        scan(trial);
        return;
    case TASK_TRY_LOCK:
        STORE(control->won, kv_try_acquire(table, &owner, SHARD));
        return;
    case TASK_STEAL:
        STORE(control->won, kv_take_from_dead(table, &owner, SHARD));
        return;
    }
}

static _Noreturn void child_main(struct trial *trial, enum task task, bool lives) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGSEGV, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(1);
    if (lives)
        lease_take(&trial->worlds, trial->actor);
    raise(SIGSTOP);
    STORE(trial->worlds.control->phase, CHILD_PHASE_INSIDE);
    carry_out(trial, task);
    STORE(trial->worlds.control->phase, CHILD_PHASE_DONE);
    raise(SIGSTOP);
    _exit(0);
}

/* Starts a child that stands before its task. `lives`: it holds its lease as production does;
 * otherwise it counts as dead from the beginning. */
int child_start(struct trial *trial, enum task task, bool lives) {
    int status;
    STORE(trial->worlds.control->phase, CHILD_PHASE_READY);
    STORE(trial->worlds.control->won, 0);
    trial->worlds.control->met_count = 0;
    while (sem_trywait(&trial->worlds.control->semaphore) == 0)
        continue;
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork failed");
    if (pid == 0)
        child_main(trial, task, lives);
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
        give_up(NO_STEPPING);
    return pid;
}

/* One instruction. False: the child is no more. */
bool child_step(struct trial *trial, int pid) {
    int status;
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0)
        give_up(NO_STEPPING);
    if (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP)
        return true;
    complain(trial, "the process crashed, wait status %x", (unsigned)status);
    if (WIFSTOPPED(status))
        child_kill(pid);
    return false;
}

/* Steps to the first instruction of the task. */
bool child_enter(struct trial *trial, int pid) {
    while (LOAD(trial->worlds.control->phase) == CHILD_PHASE_READY)
        if (!child_step(trial, pid))
            return false;
    return true;
}

/* Lets it run until it has done its task. */
bool child_finish(struct trial *trial, int pid) {
    int status;
    if (ptrace(PTRACE_CONT, pid, NULL, NULL) != 0)
        give_up(NO_STEPPING);
    if (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP)
        return true;
    complain(trial, "the process crashed, wait status %x", (unsigned)status);
    if (WIFSTOPPED(status))
        child_kill(pid);
    return false;
}

void child_kill(int pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* A process that lives in the holder's slot and does nothing. */
int holder_start(struct trial *trial) {
    int ready[2];
    char byte = 0;
    if (pipe(ready) != 0)
        give_up("no pipe");
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork failed");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        lease_take(&trial->worlds, HOLDER);
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    if (read(ready[0], &byte, 1) != 1)
        give_up("the holder did not start");
    close(ready[0]);
    close(ready[1]);
    return pid;
}
