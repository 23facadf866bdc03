// The threads that all kernels of a process share.
//
// run(work, context, most) calls work(thread, threads, context) once a thread, the caller among
// them. Whoever finds the threads busy works alone, so kernels may run at the same time, from any
// thread; a kernel computes the same bits with any number of threads.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

typedef void (*Work)(int, int, void*);

namespace {

constexpr int PATIENCE = 20000;  // turns of waiting, about 0.1 ms, before a thread goes to sleep

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

std::atomic<int> chosen{0};  // how many threads, where somebody has said so

int cores_here() {
  if (int count = chosen.load()) return count;
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  return count < 1 ? 1 : count;
}

struct Pool {
  std::mutex busy, lock;
  std::condition_variable wake;
  std::atomic<int> job{0}, left{0};
  int helpers = 0;
  Work work;
  void* context;
  int threads;
  int core;              // that the caller runs on
  std::fenv_t rounding;  // of the caller: XLA flushes denormals to zero

  // The life of a thread, which begins after so many jobs.
  void help(int thread, int seen) {
    for (;; seen++) {
      for (int turns = 0; job.load(std::memory_order_acquire) == seen; turns++) {
        pause_briefly();
        if (turns < PATIENCE) continue;
        std::unique_lock<std::mutex> held(lock);
        wake.wait(held, [&] { return job.load(std::memory_order_acquire) != seen; });
      }
      if (thread < threads) {
        if (sched_getcpu() == core) leave_core();
        std::fesetenv(&rounding);
        work(thread, threads, context);
      }
      left.fetch_sub(1, std::memory_order_release);
    }
  }

  // A thread is often woken on the core of the one that wakes it. Two that wait for each other at
  // every step would share it until the system sees another that is idle, milliseconds later.
  void leave_core() {
    cpu_set_t others;
    if (sched_getaffinity(getpid(), sizeof others, &others)) return;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others)) sched_setaffinity(0, sizeof others, &others);
  }

  // Has so many helpers, or as many as the system allows.
  int hire(int wanted, int seen) {
    try {
      for (; helpers < wanted; helpers++)
        std::thread([this, thread = helpers + 1, seen] { help(thread, seen); }).detach();
    } catch (const std::system_error&) {
    }
    return helpers < wanted ? helpers : wanted;
  }

  void run(Work function, void* its_context, int most) {
    std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
    int count = mine.owns_lock() ? cores_here() : 1;
    if (most < count) count = most;
    if (count <= 1) return function(0, 1, its_context);
    int seen = job.load();
    count = 1 + hire(count - 1, seen);
    work = function, context = its_context, threads = count, core = sched_getcpu();
    std::fegetenv(&rounding);
    left.store(helpers, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> held(lock);
      job.store(seen + 1, std::memory_order_release);
    }
    wake.notify_all();
    function(0, count, its_context);
    for (int turns = 0; left.load(std::memory_order_acquire); turns++) {
      pause_briefly();
      if (turns % 4096 == 4095) std::this_thread::yield();
    }
  }
};

Pool* pool = new Pool;  // Never destroyed: its threads run until the process ends.

// A process that is forked has none of the threads.
int forks = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });

}  // namespace

extern "C" void run_parallel(Work work, void* context, int most) { pool->run(work, context, most); }

extern "C" int cores() { return cores_here(); }

extern "C" void set_threads(int count) { chosen = count; }
