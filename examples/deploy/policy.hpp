// A C++17 wrapper of exported policies. A class per policy, from its header, its name, and its name in capitals:
//
//   #include "left_leg.h"
//   #include "policy.hpp"
//
//   SPIKY_POLICY(LeftLeg, left_leg, LEFT_LEG);
//
// An object is one robot's policy: it owns the state, and its constructor begins an episode.
#ifndef SPIKY_POLICY_HPP
#define SPIKY_POLICY_HPP

#include <array>
#include <cstddef>

namespace spiky {

// Wrapper of the functions and sizes of a header, which SPIKY_POLICY collects in a struct.
template <class Header>
class BasicPolicy {
 public:
  using State = typename Header::State;
  using Observation = std::array<float, Header::observations>;
  using Action = std::array<float, Header::actions>;

  BasicPolicy() { reset(); }

  // Begin an episode.
  void reset() { Header::reset(&state_); }

  // Return the action of a control step. If the policy observes its last action, the values at its place are ignored.
  Action step(Observation observation) {
    if constexpr (Header::last_action >= 0)
      for (std::size_t i = 0; i < Header::actions; i++) observation[Header::last_action + i] = state_.raw_action[i];
    Action action;
    Header::step(&state_, observation.data(), action.data());
    return action;
  }

  // The struct of the header, such as state().raw_action.
  const State &state() const { return state_; }

 private:
  State state_;
};

// Return the number that a text begins with; -1 if it begins with no digit.
constexpr int parse_index(const char *text) {
  int index = -1;
  for (; *text >= '0' && *text <= '9'; text++) index = (index < 0 ? 0 : 10 * index) + (*text - '0');
  return index;
}

}  // namespace spiky

#define SPIKY_TEXT_AS_IS(text) #text
#define SPIKY_TEXT(macro) SPIKY_TEXT_AS_IS(macro)  // the value of a macro; its name if it is not defined

#define SPIKY_POLICY(Class, name, NAME)                                                                                   \
  struct Class##Header {                                                                                                  \
    using State = name##_state;                                                                                           \
    static constexpr std::size_t observations = NAME##_OBSERVATIONS, actions = NAME##_ACTIONS;                            \
    static constexpr int last_action = spiky::parse_index(SPIKY_TEXT(NAME##_LAST_ACTION));                                \
    static void reset(State *state) { name##_reset(state); }                                                              \
    static void step(State *state, const float *observation, float *action) { name##_step(state, observation, action); } \
  };                                                                                                                      \
  using Class = spiky::BasicPolicy<Class##Header>

#endif
