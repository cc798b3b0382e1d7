// A robot's loop without a robot: observations of an episode in, one per line; actions out.
//
//   ./act < observations.txt > actions.txt

#include <stdio.h>

#include "policy.h"

static policy_state state;  // everything that the policy remembers

int main(void) {
  float observation[POLICY_OBSERVATIONS], action[POLICY_ACTIONS];
  policy_reset(&state);  // an episode begins
  for (;;) {
    for (int i = 0; i < POLICY_OBSERVATIONS; i++)
      if (scanf("%f", &observation[i]) != 1) return i ? 1 : 0;  // 1: a line that is too short
    policy_step(&state, observation, action);
    for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g%c", (double)action[i], i + 1 < POLICY_ACTIONS ? ' ' : '\n');
  }
}
