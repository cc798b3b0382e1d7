// Times every action of a policy.c in a loop of its own: `loop OBSERVATIONS STEPS` writes a line of nanoseconds per action.
// OBSERVATIONS is a file of single-precision numbers, one observation after the other; after the last comes the first again.
#define _POSIX_C_SOURCE 199309L
#include "policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static policy_state state;

int main(int count, char **arguments) {
  FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
  if (!file) return fputs("usage: loop OBSERVATIONS STEPS\n", stderr), 2;
  fseek(file, 0, SEEK_END);
  const long bytes = ftell(file), rows = bytes / (long)(POLICY_OBSERVATIONS * sizeof(float));
  const long steps = atol(arguments[2]);
  float *observations = malloc((size_t)bytes), action[POLICY_ACTIONS];
  long *spent = malloc((size_t)steps * sizeof *spent);
  rewind(file);
  if (rows < 1 || !observations || !spent || fread(observations, 1, (size_t)bytes, file) != (size_t)bytes) return 1;
  policy_reset(&state);
  for (long i = 0; i < steps; i++) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    policy_step(&state, observations + i % rows * POLICY_OBSERVATIONS, action);
    clock_gettime(CLOCK_MONOTONIC, &end);
    spent[i] = (end.tv_sec - start.tv_sec) * 1000000000L + (end.tv_nsec - start.tv_nsec);
  }
  for (long i = 0; i < steps; i++) printf("%ld\n", spent[i]);
  return 0;
}
