// A policy on a microcontroller that a computer drives over the serial port. Put policy.c and policy.h beside this file.
//
// 'r' begins an episode. 's' and the observations of a control step, as floats in the order of policy.h, get the actions as floats. Both
// sides are little-endian. If the policy observes its last action (POLICY_LAST_ACTION), the values at its place are ignored. On a robot,
// sensors replace Serial.readBytes and motors replace Serial.write, every POLICY_PERIOD_US microseconds.
#include <Arduino.h>

#include "policy.h"

static policy_state state;  // all memory that the policy writes to
static float observation[POLICY_OBSERVATIONS], action[POLICY_ACTIONS];

void setup() {
  Serial.begin(115200);
  Serial.setTimeout(1000);
  policy_reset(&state);
}

void loop() {
  switch (Serial.read()) {  // -1 if nothing has arrived
    case 'r':
      policy_reset(&state);
      break;
    case 's':
      if (Serial.readBytes(reinterpret_cast<char *>(observation), sizeof observation) != sizeof observation) return;  // timeout
#ifdef POLICY_LAST_ACTION
      for (int i = 0; i < POLICY_ACTIONS; i++) observation[POLICY_LAST_ACTION + i] = state.raw_action[i];
#endif
      policy_step(&state, observation, action);
      Serial.write(reinterpret_cast<const uint8_t *>(action), sizeof action);
      break;
  }
}
