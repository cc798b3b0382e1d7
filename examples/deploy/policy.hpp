// A C++17 wrapper of policy.h: the state is a member, and it begins an episode.
#pragma once

#include <array>

#include "policy.h"

namespace spiky {

class Policy {
 public:
  using Observation = std::array<float, POLICY_OBSERVATIONS>;
  using Action = std::array<float, POLICY_ACTIONS>;

  Policy() { reset(); }
  void reset() { policy_reset(&state_); }
  Action step(const Observation &observation) {
    Action action;
    policy_step(&state_, observation.data(), action.data());
    return action;
  }

 private:
  policy_state state_;
};

}  // namespace spiky
