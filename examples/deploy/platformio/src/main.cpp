// A policy on a microcontroller, driven over its serial port: 'r' begins an episode; 's' and the observations of a control step, as
// floats in the order of policy.h, are answered by the actions, as floats. Both sides are little-endian. On a robot, sensors take the
// place of the first transfer, and motors that of the second, every POLICY_PERIOD_US microseconds.
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
      if (Serial.readBytes(reinterpret_cast<char *>(observation), sizeof observation) != sizeof observation) return;  // too late
      policy_step(&state, observation, action);
      Serial.write(reinterpret_cast<const uint8_t *>(action), sizeof action);
      break;
  }
}
