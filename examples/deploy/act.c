// The loop of a robot without the robot. Standard input has an observation per line, standard output gets an action per line:
//
//   ./act < observations.txt > actions.txt
//
// If the policy observes its last action (POLICY_LAST_ACTION), the program fills it in; the values of the line at its place are ignored.

#include <stdio.h>

#include "policy.h"

static policy_state state;  // all memory of the policy

int main(void) {
  float observation[POLICY_OBSERVATIONS], action[POLICY_ACTIONS];
  policy_reset(&state);  // an episode begins
  for (;;) {
    for (int i = 0; i < POLICY_OBSERVATIONS; i++)
      if (scanf("%f", &observation[i]) != 1) return i || !feof(stdin);  // 1: a line is too short, or has text
#ifdef POLICY_LAST_ACTION
    for (int i = 0; i < POLICY_ACTIONS; i++) observation[POLICY_LAST_ACTION + i] = state.raw_action[i];
#endif
    policy_step(&state, observation, action);
    for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g%c", (double)action[i], i + 1 < POLICY_ACTIONS ? ' ' : '\n');
  }
}
