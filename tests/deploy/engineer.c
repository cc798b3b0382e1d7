// The program of an engineer who has policy.c and policy.h of an Ant, and no other file. Line by line on standard input come the
// measured values of the header's terms, in its order and units, without the last action; commands and the policy's last action go out.
#include <stdio.h>

#include "policy.h"

static policy_state state;

// "a value is the measured one, minus its default value where one is named, clipped, then times the scale": the header names the
// scales of two terms, and no default value or clip
static float scale(int i) {
  if (i >= 20 && i <= 27) return 0.2f;  // policy.joint_vel_rel
  if (i >= 28 && i <= 51) return 0.1f;  // policy.feet_body_forces
  return 1.0f;
}

int main(void) {
  float observation[POLICY_OBSERVATIONS], command[POLICY_ACTIONS];
  policy_reset(&state);
  for (;;) {
    for (int i = 0; i < POLICY_LAST_ACTION; i++) {
      float measured;
      if (scanf("%f", &measured) != 1) return i ? 1 : 0;
      observation[i] = measured * scale(i);
    }
    for (int i = 0; i < POLICY_ACTIONS; i++) observation[POLICY_LAST_ACTION + i] = state.raw_action[i];
    policy_step(&state, observation, command);
    for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g ", (double)command[i]);
    for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g ", (double)state.raw_action[i]);
    puts("");
    fflush(stdout);
  }
}
