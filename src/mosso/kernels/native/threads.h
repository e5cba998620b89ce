/* A pool of worker threads that split a job into tasks. One job at a time; the caller works too.
 *
 * `ticket` is the job's number (high half) and how many of its tasks are unclaimed (low half), so a worker that
 * wakes late cannot claim a task of a job it has not seen. Which thread runs a task never changes a result:
 * every task writes its own outputs. */
#ifndef MOSSO_THREADS_H
#define MOSSO_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

typedef void (*Task)(void *job, int64_t index);

enum { MAX_THREADS = 256, SPINS = 100 }; /* turns of waiting before a worker sleeps, some 100 us: about the gap between two jobs */

static struct {
    pthread_mutex_t caller; /* held by whoever runs a job */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    _Atomic uint64_t ticket;
    _Atomic int64_t done;
    _Atomic int sleepers;
    Task task;
    void *job;
    int workers; /* started, in process `owner` */
    pid_t owner;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

/* Waits about a microsecond, and lets whoever else wants this core have it: that may be the thread waited for. */
static inline void wait_a_turn(void) {
#if defined(__x86_64__) || defined(__i386__)
    for (int i = 0; i < 16; i++) __builtin_ia32_pause();
#endif
    sched_yield();
}

/* Claims and runs one task of the current job; 0 when none is left. */
static int run_one(void) {
    uint64_t ticket = atomic_load(&pool.ticket);
    while ((uint32_t)ticket) {
        if (atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket - 1)) {
            pool.task(pool.job, (uint32_t)ticket - 1);
            atomic_fetch_add(&pool.done, 1);
            return 1;
        }
    }
    return 0;
}

static void *worker(void *unused) {
    (void)unused;
    for (;;) {
        int spins = 0;
        while (spins < SPINS) {
            if (run_one()) {
                spins = 0;
            } else {
                spins++;
                wait_a_turn();
            }
        }
        pthread_mutex_lock(&pool.sleep);
        atomic_fetch_add(&pool.sleepers, 1);
        while (!(uint32_t)atomic_load(&pool.ticket)) pthread_cond_wait(&pool.wake, &pool.sleep);
        atomic_fetch_sub(&pool.sleepers, 1);
        pthread_mutex_unlock(&pool.sleep);
    }
    return NULL;
}

/* As many workers as asked beside the caller; a forked child has none of its parent's and starts its own. */
static void start_workers(int wanted) {
    if (pool.owner != getpid()) {
        pool.owner = getpid();
        pool.workers = 0;
        atomic_store(&pool.sleepers, 0);
        pthread_mutex_init(&pool.sleep, NULL);
        pthread_cond_init(&pool.wake, NULL);
    }
    if (wanted > MAX_THREADS) wanted = MAX_THREADS;
    for (pthread_t thread; pool.workers < wanted; pool.workers++) {
        if (pthread_create(&thread, NULL, worker, NULL)) return;
        pthread_detach(thread);
    }
}

/* Runs task(job, 0 .. tasks - 1) on up to `threads` threads; returns when all are done. */
static void parallel(int threads, Task task, void *job, int64_t tasks) {
    if (threads <= 1 || tasks <= 1) {
        for (int64_t index = 0; index < tasks; index++) task(job, index);
        return;
    }
    pthread_mutex_lock(&pool.caller);
    start_workers(threads - 1);
    pool.task = task;
    pool.job = job;
    atomic_store(&pool.done, 0);
    const uint64_t number = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.ticket, number << 32 | (uint64_t)tasks);
    if (atomic_load(&pool.sleepers)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    while (run_one()) {}
    while (atomic_load(&pool.done) < tasks) wait_a_turn();
    pthread_mutex_unlock(&pool.caller);
}

#endif
