// The part of GCC's OpenMP library that the kernels call, by POSIX threads: a thread sanitizer knows what these order, while
// of libgomp, which is built without it, it sees no barrier and no join, and calls every result a race.
#include <pthread.h>
#include <vector>

struct Team {
  void (*work)(void *);
  void *data;
  pthread_barrier_t barrier;
  int count;
};
struct Member {
  Team *team;
  int number;
};
static thread_local Member self = {nullptr, 0};

static void *run(void *member) {
  const Member before = self;
  self = *(Member *)member;
  self.team->work(self.team->data);
  self = before;
  return nullptr;
}

extern "C" int omp_get_thread_num() { return self.number; }
extern "C" int omp_get_num_threads() { return self.team ? self.team->count : 1; }
extern "C" void GOMP_barrier() {
  if (self.team) pthread_barrier_wait(&self.team->barrier);
}
extern "C" void GOMP_parallel(void (*work)(void *), void *data, unsigned count, unsigned) {
  Team team = {work, data, {}, (int)(count ? count : 1)};
  pthread_barrier_init(&team.barrier, nullptr, team.count);
  std::vector<Member> members(team.count);
  std::vector<pthread_t> threads(team.count);
  for (int i = 0; i < team.count; i++) members[i] = {&team, i};
  for (int i = 1; i < team.count; i++) pthread_create(&threads[i], nullptr, run, &members[i]);
  run(&members[0]);
  for (int i = 1; i < team.count; i++) pthread_join(threads[i], nullptr);
  pthread_barrier_destroy(&team.barrier);
}
